name    = "authenticator-registry"
version = "0.1.0"
kind    = "provider"
title   = "Authenticity by manufacturers' registers of serials"

serves "entrepot.inspection.provider.v1" {
  capabilities = ["registry", "retain"]
}

config "registers" {
  type        = "list"
  required    = true
  description = "files with what manufacturers made, .csv or .jsonl: gtin, serial, serial_to (a range's last), made_on, country, complete (all there is of the gtin stands in this file)"
}

config "reload" {
  type        = "duration"
  description = "how often the files are looked at for changes; without it, 5s"
}
