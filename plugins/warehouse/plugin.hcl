name    = "warehouse"
version = "0.1.0"
kind    = "module"
title   = "The stock ledger, reservations and receipts"

serves "entrepot.warehouse.v1" {}

publishes = [
  "entrepot.warehouse.v1.StockReceived",
  "entrepot.warehouse.v1.StockReserved",
  "entrepot.warehouse.v1.ReservationReleased",
  "entrepot.warehouse.v1.StockAdjusted",
]

# Whose goods a sku is: the catalog says so, the warehouse keeps a copy.
subscription "catalog" {
  topics = ["entrepot.catalog.v1.ProductChanged"]
}

schedule "expiry" {
  every = "5s"
}
