name    = "authenticator-sun"
version = "0.1.0"
kind    = "provider"
title   = "Authenticity by NTAG 424 DNA chips"

serves "entrepot.inspection.provider.v1" {
  capabilities = ["tag"]
}

config "url_prefix" {
  type        = "string"
  required    = true
  description = "what the chips' URL begins with, up to its query, for example \"https://tag.example.com/t\""
}

config "picc_parameter" {
  type        = "string"
  description = "name of the parameter with UID and counter; without it, \"e\""
}

config "cmac_parameter" {
  type        = "string"
  description = "name of the parameter with the authentication code; without it, \"c\""
}

config "enc_parameter" {
  type        = "string"
  description = "name of the parameter with encrypted file data, which the code then covers; without it, the chips mirror none"
}

config "seal_offset" {
  type        = "int"
  description = "at which byte of the file data the two letters of the TagTamper seal stand; without it, no seal is looked at"
}

config "diversify" {
  type        = "bool"
  description = "false: every tag holds the master key itself; without it, a key of its own (AN10922)"
}

config "system_id" {
  type        = "string"
  description = "system identifier that the tags' keys were diversified with, up to 24 bytes in hex; without it, none"
}

config "bindings" {
  type        = "string"
  description = "CSV file with the columns uid,gtin,serial that says which tag is on which goods; without it, a tag belongs to the goods it was first verified on"
}

config "master_key" {
  type        = "string"
  required    = true
  secret      = true
  description = "AES-128 key that the tags' file keys come from (SDMFileReadKey), 32 hex digits"
}

config "meta_key" {
  type        = "string"
  required    = true
  secret      = true
  description = "AES-128 key that every tag's UID and counter are encrypted with (SDMMetaReadKey), 32 hex digits"
}
