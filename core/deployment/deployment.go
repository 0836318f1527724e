// Package deployment is the operator's file: kernel settings, plugins with
// their instances, markets, bindings, secrets by reference; and the lock file
// beside it that pins what was granted.
package deployment

import (
	"encoding/json"
	"log/slog"
	"time"

	"github.com/hashicorp/hcl/v2"
)

// Deployment is what an operator's file says. It is immutable once read.
type Deployment struct {
	// File is the absolute path it was read from.
	File     string
	Kernel   Kernel
	Plugins  []*Plugin
	Markets  []*Market
	Bindings []*Binding
}

// Kernel are the settings of the kernel itself.
type Kernel struct {
	// Listen is the public port, host and port. Default "127.0.0.1:8080".
	Listen string
	// DataDir holds the database, keys, the plugin store and the operator's
	// token. Absolute. Default ".run/data" beside the file.
	DataDir string
	// PublicURL is where the outside reaches the public port. Default
	// "http://" and Listen.
	PublicURL string
	// DefaultMarket is the market of calls that name none. Default the first.
	DefaultMarket string
	// DatabaseURL names a PostgreSQL that the operator runs. Empty: a private
	// cluster in DataDir.
	DatabaseURL Secret
	// LogLevel of the kernel and of plugins. Default info.
	LogLevel slog.Level
	// Metrics is where Prometheus metrics are served, host and port: an
	// address of this machine or of a private network, never the public port.
	// Default nowhere.
	Metrics  string
	Limits   Limits
	CORS     CORS
	Identity Identity
	Bus      Bus
	Blobs    Blobs
}

// Blobs are the settings of where photos, labels and documents are kept.
type Blobs struct {
	// Dir is a folder of their own, absolute. Default "blobs" in DataDir.
	Dir string
}

// Bus are the settings of what is kept of the past.
type Bus struct {
	// KeepDays is how many days the log and ended sagas are kept. Zero keeps
	// the log for ever, and ended sagas for the saga runner's default.
	KeepDays int
}

// Limits bound the public port. Zero means the gateway's default.
type Limits struct {
	// Body is the most bytes of a request.
	Body int64
	// RatePerSecond and Burst bound the calls of one client.
	RatePerSecond float64
	Burst         int
	// InFlight bounds the calls served at once.
	InFlight int
}

// CORS says which web origins may call.
type CORS struct {
	Origins []string
}

// Identity are the settings of accounts.
type Identity struct {
	// Mail is how mail goes out: "file" drops it in DataDir/mail, "discard"
	// sends none. Default "file".
	Mail string
	// Argon2MemoryKiB is the memory of one password hash. Default 19456.
	Argon2MemoryKiB uint32
	// ClientBurst and ClientPerSecond bound the tries at the public doors
	// (registration, login) of one network address. Zero means identity's
	// default.
	ClientBurst     int
	ClientPerSecond float64
}

// Plugin is a binary and its instances.
type Plugin struct {
	Name string
	// Path of the binary, absolute.
	Path string
	// MaxConnections bounds a module's database connections. Default 8.
	MaxConnections int32
	// Instances has at least one.
	Instances []*Instance

	at, pathAt hcl.Range
}

// Instance is one configured use of a plugin.
type Instance struct {
	// Name is unique in the deployment. A plugin without instance blocks has
	// one instance of its own name.
	Name string
	// Config is a JSON object.
	Config json.RawMessage
	// Secrets by field name.
	Secrets map[string]Secret

	at       hcl.Range
	fieldsAt map[string]hcl.Range
	fields   map[string]bool // names in Config
}

// Market is a country where the marketplace sells.
type Market struct {
	// Code is ISO 3166-1 alpha-2, Currency ISO 4217, Languages BCP 47 with the
	// preferred one first.
	Code      string
	Currency  string
	Languages []string
}

// Binding says which instance serves a contract.
type Binding struct {
	Contract string
	// Market is empty for every market, Merchant for every merchant.
	Market, Merchant string
	Instance         string
	// The lowest Priority serves; Weight shares among equals, default 1.
	Priority, Weight int
	// From and Until bound when it holds; zero times do not.
	From, Until time.Time

	at hcl.Range
}

// Secret is a text that does not show itself.
type Secret string

// Reveal returns the text.
func (s Secret) Reveal() string { return string(s) }

func (s Secret) hidden() string {
	if s == "" {
		return ""
	}
	return "(secret)"
}

// String implements fmt.Stringer.
func (s Secret) String() string { return s.hidden() }

// GoString implements fmt.GoStringer.
func (s Secret) GoString() string { return s.hidden() }

// LogValue implements slog.LogValuer.
func (s Secret) LogValue() slog.Value { return slog.StringValue(s.hidden()) }

// MarshalText implements encoding.TextMarshaler.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.hidden()), nil }
