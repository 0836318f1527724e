name    = "logistics"
version = "0.1.0"
kind    = "module"
title   = "Shipments: quotes, bookings, manifests, tracking"

serves "entrepot.logistics.v1" {}

calls = ["entrepot.logistics.provider.v1"]

publishes = [
  "entrepot.logistics.v1.CarriageAnswered",
  "entrepot.logistics.v1.ShipmentBooked",
  "entrepot.logistics.v1.ShipmentCancelled",
  "entrepot.logistics.v1.ShipmentMoved",
]

# What carriers tell on their own account.
subscription "carriers" {
  topics = ["entrepot.logistics.provider.v1.TrackingUpdated"]
}

# What consumers ask of carriers by way of customer service, and its answer
# where that was given there.
subscription "requests" {
  topics = [
    "entrepot.aftersale.v1.CarriageRequested",
    "entrepot.aftersale.v1.CarriageResolved",
  ]
}

# Addresses, at the moment a carrier is asked, and for nothing else.
reveals = ["label"]

config "quote_timeout" {
  type        = "duration"
  description = "how long a carrier may take to quote; without it, 800ms"
}

config "book_timeout" {
  type        = "duration"
  description = "how long a carrier may take to book; without it, 8s"
}

config "poll_after" {
  type        = "duration"
  description = "how long a carrier that tells by webhook may be silent about a shipment before it is asked; without it, 12h"
}

config "poll_every" {
  type        = "duration"
  description = "how often a carrier that tells nothing by itself is asked about a shipment; without it, 15m"
}

config "stale_after" {
  type        = "duration"
  description = "how long nothing may be heard of a shipment on its way before it is a task; without it, 168h"
}

config "prefer" {
  type        = "list"
  description = "how carriers are chosen in a market that the request leaves it to, like \"DE=fastest\"; without it, the cheapest"
}

config "customs_union" {
  type        = "list"
  description = "countries between which goods need no declaration; without it, the members of the European Union"
}
