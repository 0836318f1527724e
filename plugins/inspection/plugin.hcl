name    = "inspection"
version = "0.1.0"
kind    = "module"
title   = "Commodity identification: units, authenticity, certificates, destruction"

serves "entrepot.inspection.v1" {}

calls = [
  "entrepot.inspection.provider.v1",
  "entrepot.warehouse.v1",
]

publishes = [
  "entrepot.inspection.v1.ConsignmentReceived",
  "entrepot.inspection.v1.VerdictConfirmed",
  "entrepot.inspection.v1.GoodsPassed",
  "entrepot.inspection.v1.UnitCommissioned",
  "entrepot.inspection.v1.CertificateIssued",
  "entrepot.inspection.v1.CertificateRevoked",
  "entrepot.inspection.v1.GoodsDestroyed",
  "entrepot.inspection.v1.CloneSuspected",
  "entrepot.inspection.v1.SaleDoubted",
  "entrepot.inspection.v1.SaleCleared",
]

# Goods that stand in the warehouse want an inspection, leave, come back, are
# missed or decided about.
subscription "warehouse" {
  topics = [
    "entrepot.warehouse.v1.InspectionRequested",
    "entrepot.warehouse.v1.FulfilmentHandedOver",
    "entrepot.warehouse.v1.FulfilmentDelivered",
    "entrepot.warehouse.v1.ReturnReceived",
    "entrepot.warehouse.v1.StockMoved",
    "entrepot.warehouse.v1.DestructionUnmatched",
  ]
}

# A consignment is at the door.
subscription "logistics" {
  topics = ["entrepot.logistics.v1.ShipmentMoved"]
}

# The consumer has its due: what a doubt held is decided.
subscription "aftersale" {
  topics = ["entrepot.aftersale.v1.CaseSettled"]
}

# An authenticator ended a check that was pending.
subscription "authenticators" {
  topics = ["entrepot.inspection.provider.v1.CheckCompleted"]
}

# Wakes what asks and tells authenticators outside of calls.
schedule "errands" {
  every = "5s"
}

config "signing_key" {
  type        = "string"
  required    = true
  secret      = true
  description = "signs certificates: 32 bytes (an Ed25519 seed) in base64"
}

config "methods" {
  type        = "list"
  description = "which methods look at goods of a category, by the longest prefix, for example \"watches=tag,registry,manual\"; without it, all that are bound"
}

config "appeal" {
  type        = "duration"
  description = "how long after a verdict its goods are not destroyed, so that their merchant can appeal; without it, 72h"
}

config "patience" {
  type        = "duration"
  description = "how long an authenticator is waited for before its check counts as not answered; without it, 168h"
}
