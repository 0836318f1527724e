name    = "payment"
version = "0.1.0"
kind    = "module"
title   = "Payments: intents, attempts at providers, a double-entry ledger"

serves "entrepot.payment.v1" {}

calls = ["entrepot.payment.provider.v1"]

publishes = [
  "entrepot.payment.v1.PaymentAuthorized",
  "entrepot.payment.v1.PaymentCaptured",
  "entrepot.payment.v1.PaymentVoided",
  "entrepot.payment.v1.PaymentRefunded",
  "entrepot.payment.v1.PaymentDeclined",
  "entrepot.payment.v1.BalanceReleased",
  "entrepot.payment.v1.ReleaseDue",
  "entrepot.payment.v1.PayoutPaid",
  "entrepot.payment.v1.PayoutFailed",
  "entrepot.payment.v1.DisputeOpened",
  "entrepot.payment.v1.DisputeClosed",
  "entrepot.payment.v1.ReconciliationEnded",
]

config "holding_period" {
  type        = "duration"
  description = "from delivery until a merchant's share may be paid out; without it, 336h: the 14 days of withdrawal (Directive 2011/83/EU, article 9)"
}

config "reconcile_at" {
  type        = "string"
  description = "when the ledger is compared with each payment company's report, every day, as an hour UTC like \"03:00\", or \"never\"; without it, 03:00"
}

config "dispute_fee" {
  type        = "string"
  description = "who bears what a payment company keeps for a dispute that is lost: \"merchant\", in proportion to the shares, or \"marketplace\"; without it, merchant"
}

subscription "providers" {
  topics = ["entrepot.payment.provider.v1.TransactionUpdated"]
}

# Told whole, and with a position of its own: a dispute that cannot be posted
# holds up no payment.
subscription "disputes" {
  topics = ["entrepot.payment.provider.v1.DisputeUpdated"]
}

# All have the order as key: a part that is opened comes before it arrives.
subscription "deliveries" {
  topics = [
    "entrepot.warehouse.v1.FulfilmentOpened",
    "entrepot.warehouse.v1.FulfilmentSplit",
    "entrepot.warehouse.v1.FulfilmentDelivered",
    "entrepot.warehouse.v1.FulfilmentCancelled",
  ]
}

# A case holds the money until its goods are judged and its refund is made.
subscription "cases" {
  topics = [
    "entrepot.aftersale.v1.ApplicationOpened",
    "entrepot.aftersale.v1.CaseSettled",
  ]
}

# Nobody is paid for goods of which it is asked whether they are genuine.
subscription "inspections" {
  topics = [
    "entrepot.inspection.v1.SaleDoubted",
    "entrepot.inspection.v1.SaleCleared",
  ]
}

subscription "timers" {
  topics = ["entrepot.payment.v1.ReleaseDue"]
}

# Wakes what asks companies outside of calls.
schedule "errands" { every = "15s" }
