name    = "notify-smtp"
version = "0.1.0"
kind    = "provider"
title   = "Notifications as mails, by SMTP"

serves "entrepot.notification.provider.v1" {
  capabilities = ["mail"]
}

config "host" {
  type        = "string"
  required    = true
  description = "name of the mail server that takes mails for everybody"
}

config "port" {
  type        = "int"
  description = "its port; without it, 465 with security = \"tls\", else 587"
}

config "security" {
  type        = "string"
  description = "\"starttls\" (which the server must offer), \"tls\" from the first byte, or \"none\", on this machine alone; without it, starttls"
}

config "ca_file" {
  type        = "string"
  description = "file of certificates (PEM) to trust beside the system's; without it, the system's"
}

config "username" {
  type        = "string"
  description = "account at the server; without it, it asks for none"
}

config "password" {
  type        = "string"
  secret      = true
  description = "the account's password"
}

config "from" {
  type        = "string"
  required    = true
  description = "whom mails come from, like \"Albion <shop@albion.example>\"; its domain stands in Message-ID"
}

config "reply_to" {
  type        = "string"
  description = "address that answers go to; without it, the sender's"
}

config "bounce_to" {
  type        = "string"
  description = "address that mail servers report to; without it, the sender's"
}

config "hello" {
  type        = "string"
  description = "name by which this machine greets the server; without it, its own"
}

config "timeout" {
  type        = "duration"
  description = "how long the server may take for each answer, 1s to 30s; without it, 10s"
}
