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
]

subscription "providers" {
  topics = ["entrepot.payment.provider.v1.TransactionUpdated"]
}
