name    = "analytics"
version = "0.1.0"
kind    = "module"
title   = "Browsing and purchase records, recommendations, figures"

serves "entrepot.analytics.v1" {}

publishes = [
  "entrepot.analytics.v1.ViewsRecorded",
  "entrepot.analytics.v1.RecommendationsReady",
]

# What can be sold where.
subscription "goods" {
  gather = "200ms"
  topics = [
    "entrepot.catalog.v1.ProductChanged",
    "entrepot.catalog.v1.ListingChanged",
    "entrepot.warehouse.v1.StockReceived",
    "entrepot.warehouse.v1.StockReserved",
    "entrepot.warehouse.v1.ReservationReleased",
    "entrepot.warehouse.v1.StockAdjusted",
    "entrepot.warehouse.v1.StockPutAway",
    "entrepot.warehouse.v1.StockMoved",
    "entrepot.warehouse.v1.StockPoliciesSet",
  ]
}

# What was bought, paid and given back.
subscription "sales" {
  gather = "200ms"
  topics = [
    "entrepot.order.v1.OrderPlaced",
    "entrepot.order.v1.OrderEdited",
    "entrepot.order.v1.OrderCancelled",
    "entrepot.payment.v1.PaymentAuthorized",
    "entrepot.payment.v1.PaymentCaptured",
    "entrepot.payment.v1.PaymentRefunded",
  ]
}

# What became of goods and parcels.
subscription "hands" {
  gather = "200ms"
  topics = [
    "entrepot.aftersale.v1.ApplicationOpened",
    "entrepot.warehouse.v1.ReturnReceived",
    "entrepot.inspection.v1.VerdictConfirmed",
    "entrepot.logistics.v1.ShipmentBooked",
    "entrepot.logistics.v1.ShipmentCancelled",
    "entrepot.logistics.v1.ShipmentMoved",
  ]
}

# Its own: the beacon tells the bus, and the copy is made from there, so that
# a replay makes it again.
subscription "views" {
  gather = "200ms"
  topics = ["entrepot.analytics.v1.ViewsRecorded"]
}

schedule "retention" { every = "1h" }

# Who wants to be told is, of what is new.
schedule "push" { every = "10m" }

config "keep_views" {
  type        = "duration"
  description = "how long browsing is kept; without it, 2160h (90 days)"
}

config "keep_purchases" {
  type        = "duration"
  description = "how long purchases say who made them; without it, 17520h (two years)"
}

config "push_every" {
  type        = "duration"
  description = "least time between two recommendations that an account is told of; without it, 24h"
}

config "follow" {
  type        = "duration"
  description = "how often the recommender reads what is new; without it, 500ms"
}
