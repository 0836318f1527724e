name    = "warehouse"
version = "0.1.0"
kind    = "module"
title   = "The stock ledger, reservations, purchasing, inventory, fulfilment and returns"

serves "entrepot.warehouse.v1" {}

publishes = [
  "entrepot.warehouse.v1.StockReceived",
  "entrepot.warehouse.v1.StockReserved",
  "entrepot.warehouse.v1.ReservationReleased",
  "entrepot.warehouse.v1.StockAdjusted",
  "entrepot.warehouse.v1.StockPutAway",
  "entrepot.warehouse.v1.StockMoved",
  "entrepot.warehouse.v1.StockLow",
  "entrepot.warehouse.v1.StockPoliciesSet",
  "entrepot.warehouse.v1.GoodsAdmitted",
  "entrepot.warehouse.v1.DestructionUnmatched",
  "entrepot.warehouse.v1.InspectionRequested",
  "entrepot.warehouse.v1.ReturnReceived",
  "entrepot.warehouse.v1.ReturnGraded",
  "entrepot.warehouse.v1.ReturnClosed",
  "entrepot.warehouse.v1.FulfilmentOpened",
  "entrepot.warehouse.v1.FulfilmentSplit",
  "entrepot.warehouse.v1.FulfilmentPacked",
  "entrepot.warehouse.v1.FulfilmentHandedOver",
  "entrepot.warehouse.v1.FulfilmentDelivered",
  "entrepot.warehouse.v1.FulfilmentCancelled",
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

# How goods on their way end.
subscription "logistics" {
  topics = ["entrepot.logistics.v1.ShipmentMoved"]
}

schedule "expiry" {
  every = "5s"
}

schedule "reorder" {
  every = "30s"
}

# What was not on the shelf goes on when it is there again.
schedule "revival" {
  every = "10s"
}

config "gs1_company_prefix" {
  type        = "string"
  description = "GS1 company prefix of the parcels' SSCC, 4 to 12 digits; without it, one that is nobody's, for trials"
}
