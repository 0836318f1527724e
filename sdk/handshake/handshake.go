// Package handshake holds the constants on which the kernel and a plugin
// process agree before they can speak: go-plugin's cookie and the names of
// environment variables. Another language needs exactly these.
package handshake

const (
	// ProtocolVersion is go-plugin's application protocol version. It covers
	// the lifecycle contract entrepot.plugin.v1 and nothing else; business
	// contracts carry their own versions.
	ProtocolVersion = 1

	// CookieKey and CookieValue are go-plugin's magic cookie. They tell a
	// person who starts a plugin by hand what it is; they secure nothing.
	CookieKey = "ENTREPOT_PLUGIN"
	// CookieValue is what CookieKey is set to.
	CookieValue = "2f6d1c0e-a-plugin-is-started-by-the-kernel"

	// EnvHostSocket names the unix socket on which the kernel serves this one
	// process (mutual TLS with the certificates of the handshake).
	EnvHostSocket = "ENTREPOT_HOST_SOCKET"

	// EnvLivenessFD names the inherited file descriptor whose end of file
	// tells the plugin that the kernel is gone.
	EnvLivenessFD = "ENTREPOT_LIVENESS_FD"

	// EnvLogLevel is the least level the plugin logs: debug, info, warn, error.
	EnvLogLevel = "ENTREPOT_LOG_LEVEL"
)
