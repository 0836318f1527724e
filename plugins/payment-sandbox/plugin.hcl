name    = "payment-sandbox"
version = "0.1.0"
kind    = "provider"
title   = "A payment company to practise with"

serves "entrepot.payment.provider.v1" {
  capabilities = [
    "authorize", "capture", "partial-capture", "void", "refund", "partial-refund", "lookup", "report", "webhook", "payout", "dispute",
  ]
}

publishes = [
  "entrepot.payment.provider.v1.TransactionUpdated",
  "entrepot.payment.provider.v1.DisputeUpdated",
]

config "currency" {
  type        = "string"
  description = "ISO 4217 code of the only currency the company takes; without it, any"
}

config "latency" {
  type        = "duration"
  description = "how long each operation takes; without it, none"
}

config "decline_every" {
  type        = "int"
  description = "declines every n-th authorisation; without it, none"
}

config "timeout_every" {
  type        = "int"
  description = "acts, and then does not answer, for every n-th operation; without it, none"
}

config "webhooks" {
  type        = "bool"
  description = "tells of every operation by webhook; without it, only of those that ended later than they were answered"
}

config "magic_amounts" {
  type        = "bool"
  description = "minor units ending in 91 decline, 92 are slow, 93 tell twice, 94 act and do not answer; without it, amounts are just amounts"
}

config "dispute_fee" {
  type        = "int"
  description = "minor units, in the payment's currency, that the company keeps for a dispute that is not won; without it, none"
}

config "webhook_secret" {
  type        = "string"
  secret      = true
  description = "signs webhooks (Standard Webhooks): whsec_ and base64; without it, none are sent or taken"
}
