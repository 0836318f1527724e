name    = "notify-webhook"
version = "0.1.0"
kind    = "provider"
title   = "Notifications as signed webhooks"

serves "entrepot.notification.provider.v1" {
  capabilities = ["webhook"]
}

config "timeout" {
  type        = "duration"
  description = "how long a server may take to answer, 1s to 30s; without it, 15s"
}

config "allow" {
  type        = "list"
  description = "networks that may be reached beside the public internet, like \"127.0.0.0/8\", also without TLS: for development and tests; without it, none"
}
