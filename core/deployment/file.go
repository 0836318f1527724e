package deployment

import (
	"github.com/hashicorp/hcl/v2"
)

// file is deployment.hcl as it is written.
type file struct {
	Kernel  *kernelBlock  `hcl:"kernel,block"`
	Plugins []pluginBlock `hcl:"plugin,block"`
	Markets []marketBlock `hcl:"market,block"`
	Binds   []bindBlock   `hcl:"bind,block"`
}

type kernelBlock struct {
	Listen          string         `hcl:"listen,optional"`
	ListenAt        hcl.Range      `hcl:"listen,attr_value_range"`
	DataDir         string         `hcl:"data_dir,optional"`
	PublicURL       string         `hcl:"public_url,optional"`
	PublicURLAt     hcl.Range      `hcl:"public_url,attr_value_range"`
	DefaultMarket   string         `hcl:"default_market,optional"`
	DefaultMarketAt hcl.Range      `hcl:"default_market,attr_value_range"`
	DatabaseURL     *string        `hcl:"database_url,optional"`
	DatabaseURLAt   hcl.Range      `hcl:"database_url,attr_value_range"`
	LogLevel        string         `hcl:"log_level,optional"`
	LogLevelAt      hcl.Range      `hcl:"log_level,attr_value_range"`
	Metrics         string         `hcl:"metrics,optional"`
	MetricsAt       hcl.Range      `hcl:"metrics,attr_value_range"`
	Limits          *limitsBlock   `hcl:"limits,block"`
	CORS            *corsBlock     `hcl:"cors,block"`
	Identity        *identityBlock `hcl:"identity,block"`
	Bus             *busBlock      `hcl:"bus,block"`
	Blobs           *blobsBlock    `hcl:"blobs,block"`
}

type blobsBlock struct {
	URL   string    `hcl:"url"`
	URLAt hcl.Range `hcl:"url,attr_value_range"`
}

type busBlock struct {
	KeepDays   int       `hcl:"keep_days"`
	KeepDaysAt hcl.Range `hcl:"keep_days,attr_value_range"`
}

type limitsBlock struct {
	Body          string    `hcl:"body,optional"`
	BodyAt        hcl.Range `hcl:"body,attr_value_range"`
	RatePerSecond float64   `hcl:"rate_per_second,optional"`
	Burst         int       `hcl:"burst,optional"`
	InFlight      int       `hcl:"in_flight,optional"`
	At            hcl.Range `hcl:",def_range"`
}

type corsBlock struct {
	Origins   []string  `hcl:"origins,optional"`
	OriginsAt hcl.Range `hcl:"origins,attr_value_range"`
}

type identityBlock struct {
	Mail            string     `hcl:"mail,optional"`
	MailAt          hcl.Range  `hcl:"mail,attr_value_range"`
	Argon2MemoryKiB uint32     `hcl:"argon2_memory_kib,optional"`
	Argon2At        hcl.Range  `hcl:"argon2_memory_kib,attr_value_range"`
	Limits          *doorBlock `hcl:"limits,block"`
}

type doorBlock struct {
	ClientBurst     int       `hcl:"client_burst,optional"`
	ClientPerSecond float64   `hcl:"client_per_second,optional"`
	At              hcl.Range `hcl:",def_range"`
}

type pluginBlock struct {
	Name           string          `hcl:"name,label"`
	At             hcl.Range       `hcl:"name,label_range"`
	Path           string          `hcl:"path"`
	PathAt         hcl.Range       `hcl:"path,attr_value_range"`
	MaxConnections int32           `hcl:"max_connections,optional"`
	ConnectionsAt  hcl.Range       `hcl:"max_connections,attr_value_range"`
	Config         *openBlock      `hcl:"config,block"`
	Secrets        *openBlock      `hcl:"secrets,block"`
	Instances      []instanceBlock `hcl:"instance,block"`
}

type instanceBlock struct {
	Name    string     `hcl:"name,label"`
	At      hcl.Range  `hcl:"name,label_range"`
	Config  *openBlock `hcl:"config,block"`
	Secrets *openBlock `hcl:"secrets,block"`
}

// openBlock has attributes that the plugin's manifest names.
type openBlock struct {
	Body hcl.Body `hcl:",remain"`
}

type marketBlock struct {
	Code        string      `hcl:"code,label"`
	At          hcl.Range   `hcl:"code,label_range"`
	Currency    string      `hcl:"currency"`
	CurrencyAt  hcl.Range   `hcl:"currency,attr_value_range"`
	Languages   []string    `hcl:"languages"`
	LanguagesAt hcl.Range   `hcl:"languages,attr_value_range"`
	Binds       []bindBlock `hcl:"bind,block"`
}

type bindBlock struct {
	Contract   string    `hcl:"contract,label"`
	At         hcl.Range `hcl:"contract,label_range"`
	Instance   string    `hcl:"instance"`
	InstanceAt hcl.Range `hcl:"instance,attr_value_range"`
	Merchant   string    `hcl:"merchant,optional"`
	Priority   int       `hcl:"priority,optional"`
	PriorityAt hcl.Range `hcl:"priority,attr_value_range"`
	Weight     int       `hcl:"weight,optional"`
	WeightAt   hcl.Range `hcl:"weight,attr_value_range"`
	From       string    `hcl:"from,optional"`
	FromAt     hcl.Range `hcl:"from,attr_value_range"`
	Until      string    `hcl:"until,optional"`
	UntilAt    hcl.Range `hcl:"until,attr_value_range"`
}
