name    = "payment-stripe"
version = "0.1.0"
kind    = "provider"
title   = "Payments by Stripe"

serves "entrepot.payment.provider.v1" {
  capabilities = [
    "authorize", "capture", "partial-capture", "void", "refund", "partial-refund", "lookup", "report", "webhook", "payout", "dispute",
  ]
}

publishes = [
  "entrepot.payment.provider.v1.TransactionUpdated",
  "entrepot.payment.provider.v1.DisputeUpdated",
]

config "secret_key" {
  type        = "string"
  required    = true
  secret      = true
  description = "Stripe's secret or, better, restricted key: sk_... or rk_... (README.md lists what it has to be allowed)"
}

config "webhook_secrets" {
  type        = "string"
  secret      = true
  description = "signing secrets of the webhook endpoint, whsec_..., several with blanks between them while one is replaced; without it, no webhooks are taken"
}

config "webhook_tolerance" {
  type        = "duration"
  description = "how old or how far ahead a webhook's time may be, 10s to 1h; without it, 5m"
}

config "merchants" {
  type        = "list"
  description = "connected account of each merchant who is paid out, like \"mer_1=acct_1\"; without it, nobody is"
}

config "multicapture" {
  type        = "bool"
  description = "asks for holds that can be captured in several parts, where Stripe and the card have them; without it, the first capture releases the rest"
}

config "timeout" {
  type        = "duration"
  description = "how long Stripe may take for an answer, 1s to 30s; without it, 7s"
}

config "url" {
  type        = "string"
  description = "where Stripe's API is: https, or http on this machine; without it, https://api.stripe.com"
}
