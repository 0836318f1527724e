name    = "warehouse"
version = "0.1.0"
kind    = "module"
title   = "The stock ledger, reservations, purchasing, inventory and returns"

serves "entrepot.warehouse.v1" {}

publishes = [
  "entrepot.warehouse.v1.StockReceived",
  "entrepot.warehouse.v1.StockReserved",
  "entrepot.warehouse.v1.ReservationReleased",
  "entrepot.warehouse.v1.StockAdjusted",
  "entrepot.warehouse.v1.StockPutAway",
  "entrepot.warehouse.v1.StockMoved",
  "entrepot.warehouse.v1.StockLow",
  "entrepot.warehouse.v1.GoodsAdmitted",
  "entrepot.warehouse.v1.InspectionRequested",
  "entrepot.warehouse.v1.ReturnReceived",
  "entrepot.warehouse.v1.ReturnGraded",
  "entrepot.warehouse.v1.ReturnClosed",
]

# Whose goods a sku is: the catalog says so, the warehouse keeps a copy.
subscription "catalog" {
  topics = ["entrepot.catalog.v1.ProductChanged"]
}

# What passed: no goods that came back reach the shelf without it.
subscription "inspection" {
  topics = [
    "entrepot.inspection.v1.GoodsPassed",
    "entrepot.inspection.v1.VerdictConfirmed",
  ]
}

schedule "expiry" {
  every = "5s"
}

schedule "reorder" {
  every = "30s"
}
