name    = "aftersale"
version = "0.1.0"
kind    = "module"
title   = "Returns, exchanges, repairs and customer service"

serves "entrepot.aftersale.v1" {}

calls = [
  "entrepot.order.v1",
  "entrepot.warehouse.v1",
  "entrepot.logistics.v1",
  "entrepot.inspection.v1",
  "entrepot.payment.v1",
]

publishes = [
  "entrepot.aftersale.v1.ApplicationOpened",
  "entrepot.aftersale.v1.CaseDecided",
  "entrepot.aftersale.v1.CaseOffered",
  "entrepot.aftersale.v1.CaseEscalated",
  "entrepot.aftersale.v1.CaseAssessed",
  "entrepot.aftersale.v1.CaseSettled",
  "entrepot.aftersale.v1.MessagePosted",
  "entrepot.aftersale.v1.ResponseOverdue",
  "entrepot.aftersale.v1.CarriageRequested",
  "entrepot.aftersale.v1.CarriageResolved",
  "entrepot.aftersale.v1.DeadlineReached",
]

# Both have the order as key: what is packed comes after what was bought.
subscription "orders" {
  gather = "200ms"
  topics = [
    "entrepot.order.v1.OrderPlaced",
    "entrepot.order.v1.OrderEdited",
    "entrepot.warehouse.v1.FulfilmentPacked",
    "entrepot.warehouse.v1.FulfilmentHandedOver",
    "entrepot.warehouse.v1.FulfilmentDelivered",
  ]
}

subscription "payments" {
  gather = "200ms"
  topics = [
    "entrepot.payment.v1.PaymentCaptured",
    "entrepot.payment.v1.PaymentRefunded",
  ]
}

subscription "shipments" {
  topics = [
    "entrepot.logistics.v1.ShipmentBooked",
    "entrepot.logistics.v1.ShipmentMoved",
    "entrepot.logistics.v1.CarriageAnswered",
  ]
}

subscription "returns" {
  topics = [
    "entrepot.warehouse.v1.ReturnReceived",
    "entrepot.warehouse.v1.ReturnGraded",
    "entrepot.inspection.v1.VerdictConfirmed",
    "entrepot.inspection.v1.CloneSuspected",
  ]
}

subscription "products" {
  gather = "200ms"
  topics = ["entrepot.catalog.v1.ProductChanged"]
}

subscription "deadlines" {
  topics = ["entrepot.aftersale.v1.DeadlineReached"]
}

# Who takes part in a conversation reads it.
reveals = ["conversation"]
