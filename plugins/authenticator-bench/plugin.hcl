name    = "authenticator-bench"
version = "0.1.0"
kind    = "provider"
title   = "Authenticity by human inspectors"

serves "entrepot.inspection.provider.v1" {
  capabilities = ["manual"]
}

serves "entrepot.inspection.bench.v1" {}

publishes = ["entrepot.inspection.provider.v1.CheckCompleted"]

config "checklist" {
  type        = "list"
  description = "questions, each \"<id>|<text>\" or \"<id>|<text>|photo\"; with \"<category>=\" before it for goods of a category, whose longest prefix has its own list; without it, six that fit most goods"
}
