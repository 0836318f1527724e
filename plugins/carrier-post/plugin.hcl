name    = "carrier-post"
version = "0.1.0"
kind    = "provider"
title   = "A postal operator: S10 items, zone tariffs, CN22 and CN23"

serves "entrepot.logistics.provider.v1" {
  capabilities = ["quote", "book", "lookup", "cancel", "return", "manifest", "pickup", "track", "customs-data", "label-zpl"]
}

publishes = ["entrepot.logistics.provider.v1.TrackingUpdated"]

config "country" {
  type        = "string"
  required    = true
  description = "ISO 3166-1 alpha-2 code of the post's country: the end of its item numbers, and where zones are seen from"
}

config "tariffs" {
  type        = "string"
  description = "path of the tariff table (CSV, see README.md), read again when it changes; without it, an example's"
}

config "zones" {
  type        = "string"
  description = "path of the zone table (CSV, see README.md), read again when it changes; without it, an example's"
}

config "first_number" {
  type        = "int"
  description = "first of the eight digits that the post was given for its items; without it, 1"
}

config "sdr" {
  type        = "list"
  description = "minor units of a special drawing right by currency, like \"GBP=103\": CN22 is for goods below 300 of them; without it, GBP, EUR, USD and JPY of late"
}

config "events_dir" {
  type        = "string"
  description = "folder of the post's scanning files (JSON lines of EMSEVT events, see README.md); without it, items are not tracked"
}

config "customs_union" {
  type        = "list"
  description = "countries between which goods need no declaration; without it, the customs union of the European Union"
}
