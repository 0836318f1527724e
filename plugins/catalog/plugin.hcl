name    = "catalog"
version = "0.1.0"
kind    = "module"
title   = "Products, prices, listings and search"

serves "entrepot.catalog.v1" {}

publishes = [
  "entrepot.catalog.v1.ProductChanged",
  "entrepot.catalog.v1.ListingChanged",
]

# What may be promised: the warehouse says so, the catalog keeps a copy.
subscription "stock" {
  gather = "100ms"
  topics = [
    "entrepot.warehouse.v1.StockReceived",
    "entrepot.warehouse.v1.StockReserved",
    "entrepot.warehouse.v1.ReservationReleased",
    "entrepot.warehouse.v1.StockAdjusted",
    "entrepot.warehouse.v1.StockPutAway",
    "entrepot.warehouse.v1.StockMoved",
    "entrepot.warehouse.v1.StockPoliciesSet",
  ]
}
