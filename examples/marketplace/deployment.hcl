# A marketplace that sells in three countries, each with its own payment
# company, and sells some goods only after they passed inspection. `make demo`
# runs it, with secrets made for the run. By hand:
#
#   make build
#   export SANDBOX_WEBHOOK_SECRET="whsec_$(openssl rand -base64 24)" INSPECTION_KEY="$(openssl rand -base64 32)"
#   export TAG_MASTER_KEY="$(openssl rand -hex 16)" TAG_META_KEY="$(openssl rand -hex 16)" SERIAL_REGISTER=/path/to/serials.csv
#   .build/entrepot serve examples/marketplace/deployment.hcl
#
# Paths are relative to this file.

kernel {
  listen         = env("ENTREPOT_LISTEN", "127.0.0.1:8080")
  data_dir       = env("ENTREPOT_DATA_DIR", ".run/data")
  database_url   = env("DATABASE_URL", null)
  default_market = "GB"
  log_level      = env("ENTREPOT_LOG_LEVEL", "info")

  # Everybody in the demo comes from one address.
  limits {
    rate_per_second = 100000
    burst           = 100000
    in_flight       = 1024
  }

  # Mails become files in <data_dir>/mail.
  identity {
    mail = "file"
    limits {
      client_burst      = 100000
      client_per_second = 1000
    }
  }
}

plugin "catalog" {
  path = "${env("ENTREPOT_PLUGINS", "../../.build")}/catalog"
}

plugin "warehouse" {
  path = "${env("ENTREPOT_PLUGINS", "../../.build")}/warehouse"
}

plugin "payment" {
  path = "${env("ENTREPOT_PLUGINS", "../../.build")}/payment"

  # Merchants have their share as soon as it is delivered. A marketplace waits
  # until consumers can no longer withdraw: without this, two weeks.
  instance "payment" {
    config { holding_period = env("HOLDING_PERIOD", "0s") }
  }
}

plugin "order" {
  path = "${env("ENTREPOT_PLUGINS", "../../.build")}/order"
}

plugin "aftersale" {
  path = "${env("ENTREPOT_PLUGINS", "../../.build")}/aftersale"
}

plugin "analytics" {
  path = "${env("ENTREPOT_PLUGINS", "../../.build")}/analytics"
}

# Everybody is told in the inbox of their terminal, merchants' own systems by
# signed webhooks. Bind an instance of notify-smtp too, and mails go out.
plugin "notification" {
  path = "${env("ENTREPOT_PLUGINS", "../../.build")}/notification"

  instance "notification" {
    config {
      marketplace        = "Entrepot"
      loopback_endpoints = true
    }
  }
}

plugin "notify-webhook" {
  path = "${env("ENTREPOT_PLUGINS", "../../.build")}/notify-webhook"

  instance "webhooks" {
    config { allow = ["127.0.0.0/8"] }
  }
}

# One program, three payment companies: each instance has books of its own.
plugin "payment-sandbox" {
  path = "${env("ENTREPOT_PLUGINS", "../../.build")}/payment-sandbox"

  instance "sandbox-gb" {
    config { currency = "GBP" }
    secrets { webhook_secret = env("SANDBOX_WEBHOOK_SECRET") }
  }
  instance "sandbox-de" {
    config { currency = "EUR" }
    secrets { webhook_secret = env("SANDBOX_WEBHOOK_SECRET") }
  }
  instance "sandbox-jp" {
    config { currency = "JPY" }
    secrets { webhook_secret = env("SANDBOX_WEBHOOK_SECRET") }
  }
}

# A real one beside them (plugins/payment-stripe/README.md): bind "stripe-gb" in
# a market instead of its sandbox, with keys of Stripe's test mode at first.
#
# plugin "payment-stripe" {
#   path = "${env("ENTREPOT_PLUGINS", "../../.build")}/payment-stripe"
#
#   instance "stripe-gb" {
#     config { merchants = ["mer_1=acct_1ABC"] }
#     secrets {
#       secret_key      = env("STRIPE_KEY")
#       webhook_secrets = env("STRIPE_WEBHOOK_SECRETS")
#     }
#   }
# }

# Jewellery and purses are looked at before they are sold: dear jewellery by
# the chip on each piece, the rest by its maker's register of serials, purses by
# two people at the bench. The demo has no three days for an appeal.
plugin "inspection" {
  path = "${env("ENTREPOT_PLUGINS", "../../.build")}/inspection"

  instance "inspection" {
    config {
      methods = ["jewellery/fine=tag", "jewellery=registry", "bags=manual"]
      appeal  = env("APPEAL", "0s")
    }
    secrets { signing_key = env("INSPECTION_KEY") }
  }
}

plugin "authenticator-sun" {
  path = "${env("ENTREPOT_PLUGINS", "../../.build")}/authenticator-sun"

  instance "tags" {
    config {
      url_prefix = "https://tag.example.com/t"
      # Which chip the makers put on which piece.
      bindings = env("TAG_BINDINGS", "")
    }
    secrets {
      master_key = env("TAG_MASTER_KEY")
      meta_key   = env("TAG_META_KEY")
    }
  }
}

plugin "authenticator-registry" {
  path = "${env("ENTREPOT_PLUGINS", "../../.build")}/authenticator-registry"

  instance "registers" {
    config { registers = [env("SERIAL_REGISTER")] }
  }
}

plugin "authenticator-bench" {
  path = "${env("ENTREPOT_PLUGINS", "../../.build")}/authenticator-bench"

  instance "bench" {}
}

plugin "logistics" {
  path = "${env("ENTREPOT_PLUGINS", "../../.build")}/logistics"
}

# Two kinds of carrier. The company to practise with moves parcels by its own
# clock: an hour takes as long as it says here, and it tells by webhook.
plugin "carrier-sandbox" {
  path = "${env("ENTREPOT_PLUGINS", "../../.build")}/carrier-sandbox"

  instance "lorries-gb" {
    config {
      currency     = "GBP"
      hour         = env("LORRY_HOUR", "20ms")
      absent_every = 9
    }
    secrets { webhook_secret = env("SANDBOX_WEBHOOK_SECRET") }
  }
  instance "lorries-de" {
    config {
      currency = "EUR"
      hour     = env("LORRY_HOUR", "20ms")
      untidy   = true
    }
    secrets { webhook_secret = env("SANDBOX_WEBHOOK_SECRET") }
  }
  instance "lorries-jp" {
    config {
      currency = "JPY"
      hour     = env("LORRY_HOUR", "20ms")
    }
    secrets { webhook_secret = env("SANDBOX_WEBHOOK_SECRET") }
  }
}

plugin "carrier-post" {
  path = "${env("ENTREPOT_PLUGINS", "../../.build")}/carrier-post"

  instance "post-gb" {
    config {
      country = "GB"
      # Where the post's scanners write: the demo's sorting office does.
      events_dir = env("POST_SCANS", "")
    }
  }
}

market "GB" {
  currency  = "GBP"
  languages = ["en"]
  bind "entrepot.payment.provider.v1" { instance = "sandbox-gb" }
  bind "entrepot.notification.provider.v1" { instance = "webhooks" }
  bind "entrepot.inspection.provider.v1" { instance = "tags" }
  bind "entrepot.inspection.provider.v1" {
    instance = "registers"
    priority = 1
  }
  bind "entrepot.inspection.provider.v1" {
    instance = "bench"
    priority = 2
  }
  bind "entrepot.logistics.provider.v1" { instance = "lorries-gb" }
  bind "entrepot.logistics.provider.v1" {
    instance = "post-gb"
    priority = 1
  }
}

market "DE" {
  currency  = "EUR"
  languages = ["de", "en"]
  bind "entrepot.payment.provider.v1" { instance = "sandbox-de" }
  bind "entrepot.notification.provider.v1" { instance = "webhooks" }
  bind "entrepot.inspection.provider.v1" { instance = "tags" }
  bind "entrepot.inspection.provider.v1" {
    instance = "registers"
    priority = 1
  }
  bind "entrepot.inspection.provider.v1" {
    instance = "bench"
    priority = 2
  }
  bind "entrepot.logistics.provider.v1" { instance = "lorries-de" }
}

market "JP" {
  currency  = "JPY"
  languages = ["ja", "en"]
  bind "entrepot.payment.provider.v1" { instance = "sandbox-jp" }
  bind "entrepot.notification.provider.v1" { instance = "webhooks" }
  bind "entrepot.inspection.provider.v1" { instance = "tags" }
  bind "entrepot.inspection.provider.v1" {
    instance = "registers"
    priority = 1
  }
  bind "entrepot.inspection.provider.v1" {
    instance = "bench"
    priority = 2
  }
  bind "entrepot.logistics.provider.v1" { instance = "lorries-jp" }
}
