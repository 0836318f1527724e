name    = "notification"
version = "0.1.0"
kind    = "module"
title   = "Notifications: preferences, words, inboxes, mails and webhooks"

serves "entrepot.notification.v1" {}

calls = ["entrepot.notification.provider.v1"]

publishes = [
  "entrepot.notification.v1.NotificationSent",
  "entrepot.notification.v1.NotificationFailed",
  "entrepot.notification.v1.EndpointDisabled",
]

# What people are told of. A notification that cannot be filed holds up nothing
# but itself.
subscription "trade" {
  gather = "200ms"
  topics = [
    "entrepot.order.v1.OrderPlaced",
    "entrepot.order.v1.OrderAccepted",
    "entrepot.order.v1.OrderDelivered",
    "entrepot.order.v1.OrderCancelled",
    "entrepot.order.v1.OrderEditProposed",
    "entrepot.order.v1.OrderEdited",
    "entrepot.order.v1.ConsignmentOverdue",
    "entrepot.order.v1.ShortageReminder",
    "entrepot.order.v1.BackInStock",
    "entrepot.order.v1.BackorderPlaced",
    "entrepot.order.v1.BackorderRescheduled",
    "entrepot.order.v1.BackorderPaymentRefused",
    "entrepot.order.v1.BackorderCancelled",
    "entrepot.payment.v1.PaymentRefunded",
    "entrepot.payment.v1.PayoutPaid",
    "entrepot.payment.v1.PayoutFailed",
    "entrepot.payment.v1.DisputeOpened",
    "entrepot.payment.v1.DisputeClosed",
    "entrepot.logistics.v1.ShipmentBooked",
    "entrepot.logistics.v1.ShipmentMoved",
    "entrepot.warehouse.v1.StockLow",
    "entrepot.warehouse.v1.ReturnReceived",
    "entrepot.warehouse.v1.ReturnClosed",
    "entrepot.inspection.v1.ConsignmentReceived",
    "entrepot.inspection.v1.VerdictConfirmed",
    "entrepot.inspection.v1.GoodsDestroyed",
    "entrepot.inspection.v1.SaleDoubted",
    "entrepot.inspection.v1.SaleCleared",
    "entrepot.aftersale.v1.ApplicationOpened",
    "entrepot.aftersale.v1.CaseOffered",
    "entrepot.aftersale.v1.CaseDecided",
    "entrepot.aftersale.v1.CaseEscalated",
    "entrepot.aftersale.v1.CaseAssessed",
    "entrepot.aftersale.v1.CaseSettled",
    "entrepot.aftersale.v1.MessagePosted",
    "entrepot.aftersale.v1.ResponseOverdue",
    "entrepot.analytics.v1.RecommendationsReady",
  ]
  on_dead = "skip"
}

# What became of messages after they were accepted.
subscription "receipts" {
  gather = "200ms"
  topics = ["entrepot.notification.provider.v1.DeliveryUpdated"]
  on_dead = "skip"
}

# Addresses and webhook secrets, at the moment of sending, and for nothing else.
reveals = ["notify"]

config "marketplace" {
  type        = "string"
  description = "the marketplace's name as mails have it; without it, Entrepot"
}

config "keep_days" {
  type        = "int"
  description = "how long notifications are kept, 30 to 3650 days; without it, 400. What is older is told nobody, even when the log is replayed"
}

config "endpoint_patience" {
  type        = "duration"
  description = "how long a merchant's endpoint may take nothing before it is disabled; without it, 120h"
}

config "loopback_endpoints" {
  type        = "bool"
  description = "takes endpoints with http and on this machine, for development and tests; without it, https on the public internet alone"
}
