name    = "order"
version = "0.1.0"
kind    = "module"
title   = "Carts, checkout and orders"

serves "entrepot.order.v1" {}

calls = [
  "entrepot.catalog.v1",
  "entrepot.warehouse.v1",
  "entrepot.payment.v1",
  "entrepot.logistics.v1",
]

publishes = [
  "entrepot.order.v1.OrderPlaced",
  "entrepot.order.v1.OrderRejected",
  "entrepot.order.v1.OrderAccepted",
  "entrepot.order.v1.OrderCancelled",
  "entrepot.order.v1.OrderDelivered",
  "entrepot.order.v1.ConsignmentOverdue",
  "entrepot.order.v1.ConsignmentHeld",
  "entrepot.order.v1.ConsignmentReleased",
  "entrepot.order.v1.OrderEditProposed",
  "entrepot.order.v1.OrderEdited",
  "entrepot.order.v1.ShortageReminder",
  "entrepot.order.v1.BackInStock",
  "entrepot.order.v1.OrderEditTimedOut",
  "entrepot.order.v1.BackorderPlaced",
  "entrepot.order.v1.BackorderRescheduled",
  "entrepot.order.v1.BackorderDayDue",
  "entrepot.order.v1.BackorderAllotted",
  "entrepot.order.v1.BackorderPaymentRefused",
  "entrepot.order.v1.BackorderCancelled",
]

subscription "payments" {
  gather = "100ms"
  topics = [
    "entrepot.payment.v1.PaymentAuthorized",
    "entrepot.payment.v1.PaymentCaptured",
    "entrepot.payment.v1.PaymentVoided",
    "entrepot.payment.v1.PaymentRefunded",
  ]
}

subscription "fulfilment" {
  topics = [
    "entrepot.warehouse.v1.FulfilmentOpened",
    "entrepot.warehouse.v1.FulfilmentSplit",
    "entrepot.warehouse.v1.FulfilmentPacked",
    "entrepot.warehouse.v1.FulfilmentHandedOver",
    "entrepot.warehouse.v1.FulfilmentDelivered",
    "entrepot.warehouse.v1.FulfilmentCancelled",
  ]
}

subscription "shipments" {
  topics = [
    "entrepot.logistics.v1.ShipmentBooked",
    "entrepot.logistics.v1.ShipmentMoved",
  ]
}

# What is short until it is here.
subscription "stock" {
  topics = [
    "entrepot.warehouse.v1.StockReceived",
    "entrepot.warehouse.v1.StockPutAway",
    "entrepot.warehouse.v1.StockMoved",
    "entrepot.warehouse.v1.StockAdjusted",
    "entrepot.warehouse.v1.ReservationReleased",
  ]
}

# For which day goods are expected that orders wait for.
subscription "listings" {
  gather = "200ms"
  topics = ["entrepot.catalog.v1.ListingChanged"]
}

subscription "timers" {
  topics = [
    "entrepot.order.v1.OrderEditTimedOut",
    "entrepot.order.v1.BackorderDayDue",
  ]
}

reveals = ["show-to-owner"]

# Consignments past their time are told.
schedule "clock" { every = "1m" }

# Merchants are reminded of what they are short of; who waits is told.
schedule "shortages" { every = "1m" }
