name    = "giftwrap"
version = "0.1.0"
kind    = "module"
title   = "Gift wrapping of placed orders"

serves "example.giftwrap.v1" {}

calls = [
  "entrepot.catalog.v1",
  "entrepot.warehouse.v1",
]

publishes = ["example.giftwrap.v1.OrderWrapped"]

subscription "orders" {
  topics = [
    "entrepot.order.v1.OrderPlaced",
    "entrepot.order.v1.OrderCancelled",
  ]
}

config "paper" {
  type        = "string"
  required    = true
  description = "sku of the wrapping paper; an order takes one"
}
