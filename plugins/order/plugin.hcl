name    = "order"
version = "0.1.0"
kind    = "module"
title   = "Carts, checkout and orders"

serves "entrepot.order.v1" {}

calls = [
  "entrepot.catalog.v1",
  "entrepot.warehouse.v1",
  "entrepot.payment.v1",
]

publishes = [
  "entrepot.order.v1.OrderPlaced",
  "entrepot.order.v1.OrderRejected",
  "entrepot.order.v1.OrderAccepted",
  "entrepot.order.v1.OrderCancelled",
]

subscription "payments" {
  topics = [
    "entrepot.payment.v1.PaymentAuthorized",
    "entrepot.payment.v1.PaymentCaptured",
    "entrepot.payment.v1.PaymentVoided",
    "entrepot.payment.v1.PaymentRefunded",
  ]
}

reveals = ["show-to-owner"]
