name    = "carrier-sandbox"
version = "0.1.0"
kind    = "provider"
title   = "A carrier company to practise with"

serves "entrepot.logistics.provider.v1" {
  capabilities = [
    "quote", "book", "lookup", "cancel", "return", "manifest", "pickup", "track", "webhook", "customs-data", "label-zpl",
  ]
}

publishes = ["entrepot.logistics.provider.v1.TrackingUpdated"]

config "currency" {
  type        = "string"
  required    = true
  description = "ISO 4217 code of the company's prices"
}

config "hour" {
  type        = "duration"
  description = "how long an hour of the company's lorries takes, for example \"50ms\"; without it, an hour"
}

config "price_minor" {
  type        = "int"
  description = "price of a parcel of up to a kilogram inside one country, in minor units; without it, 500"
}

config "lost_every" {
  type        = "int"
  description = "loses every n-th parcel; without it, none"
}

config "return_every" {
  type        = "int"
  description = "brings every n-th parcel back to its sender; without it, none"
}

config "absent_every" {
  type        = "int"
  description = "finds nobody in at the first try for every n-th parcel; without it, none"
}

config "timeout_every" {
  type        = "int"
  description = "books, and then does not answer, for every n-th booking; without it, none"
}

config "untidy" {
  type        = "bool"
  description = "tells scans twice and in the wrong order"
}

config "webhook_secret" {
  type        = "string"
  secret      = true
  description = "signs webhooks (Standard Webhooks): whsec_ and base64; without it, none are sent or taken"
}
