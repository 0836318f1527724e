// Package identity holds who may act: accounts of consumers, merchants'
// members, staff and operators, their sessions and what each may do. It
// serves entrepot.identity.v1 and tells the gateway whom an access token
// stands for. No answer, and no difference in the work done for it, tells
// whether an address has an account: what there is to tell goes to the mail.
package identity

import (
	"context"
	"embed"
	"io/fs"
	"log/slog"
	"net/netip"
	"time"

	"connectrpc.com/connect/v2"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/entrepot/entrepot/core/vault"
	"github.com/entrepot/entrepot/proto/entrepot/identity/v1/identityv1connect"
)

//go:embed migrations/*.sql
var migrations embed.FS

// Migrations returns identity's tables of schema "kernel" as files
// "<14 digits>_<words>.sql" at the root, to be run in order by the kernel's
// role.
func Migrations() fs.FS {
	sub, err := fs.Sub(migrations, "migrations")
	if err != nil {
		panic(err) // the folder is embedded above
	}
	return sub
}

// Reasons of identity's refusals.
const (
	ReasonInvalidCredentials = "INVALID_CREDENTIALS"
	ReasonTokenInvalid       = "TOKEN_INVALID"
	ReasonThrottled          = "THROTTLED"
	ReasonLastAdmin          = "LAST_ADMIN"
	ReasonGrantNotHeld       = "GRANT_NOT_HELD"
	ReasonMemberUnknown      = "MEMBER_UNKNOWN"
	ReasonNoAccount          = "NO_ACCOUNT"
)

// Options configure identity.
type Options struct {
	// Pool is the kernel's own. Schemas kernel and vault must be migrated.
	Pool *pgxpool.Pool
	// Vault keeps names and addresses.
	Vault *vault.Vault
	// KeyFile holds the signing keys and the keys of hashes,
	// "<data>/keys/identity.json", mode 0600. It is created on the first
	// start. Without it no address is found and no token holds, so it belongs
	// in the backup, apart from the database.
	KeyFile string
	// Mailer carries mails out. Default Discard.
	Mailer Mailer
	// Argon2MemoryKiB and Argon2Iterations are the cost of one password.
	// Default 19456 (19 MiB) and 2, with one lane: OWASP's recommendation. A
	// change holds for passwords set from then on.
	Argon2MemoryKiB  uint32
	Argon2Iterations uint32
	// Limits bound tries at the public doors.
	Limits Limits
	// ClientAddr is the network address on whose account a call counts; the
	// zero Addr counts none. Default PeerAddr, which behind a proxy is the
	// proxy's.
	ClientAddr func(context.Context) netip.Addr
	// Log takes what nobody is told. Default slog.Default().
	Log *slog.Logger
	// Now is the clock. Default time.Now.
	Now func() time.Time
}

// Service implements the three services of entrepot.identity.v1. Its server
// must carry the validating interceptor: fields are taken to be within the
// contract's limits. It is safe for concurrent use.
type Service struct {
	pool       *pgxpool.Pool
	vault      *vault.Vault
	keys       keyFile
	tokens     *signer
	passwords  *passwords
	mailer     Mailer
	wake       chan struct{}
	perClient  *buckets
	perLogin   *buckets
	perEnrol   *buckets
	clientAddr func(context.Context) netip.Addr
	log        *slog.Logger
	now        func() time.Time
}

var (
	_ identityv1connect.IdentityServiceHandler = (*Service)(nil)
	_ identityv1connect.MemberServiceHandler   = (*Service)(nil)
	_ identityv1connect.StaffServiceHandler    = (*Service)(nil)
)

// New reads or creates the keys and proves that they belong to the database.
// It refuses, with words for the operator, when they do not. Run sends the
// mails.
func New(ctx context.Context, o Options) (*Service, error) {
	if o.Mailer == nil {
		o.Mailer = Discard{}
	}
	if o.Argon2MemoryKiB == 0 {
		o.Argon2MemoryKiB = 19 * 1024
	}
	if o.Argon2Iterations == 0 {
		o.Argon2Iterations = 2
	}
	if o.ClientAddr == nil {
		o.ClientAddr = PeerAddr
	}
	if o.Log == nil {
		o.Log = slog.Default()
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	keys, created, err := openKeyFile(o.KeyFile)
	if err != nil {
		return nil, err
	}
	if err := keys.prove(ctx, o.Pool, o.KeyFile, created); err != nil {
		return nil, err
	}
	tokens, err := newSigner(keys.Signing, o.Now)
	if err != nil {
		return nil, err
	}
	hashes, err := newPasswords(o.Argon2MemoryKiB, o.Argon2Iterations)
	if err != nil {
		return nil, err
	}
	limits := o.Limits.withDefaults()
	return &Service{
		pool: o.Pool, vault: o.Vault, keys: keys, tokens: tokens, passwords: hashes, mailer: o.Mailer,
		wake:      make(chan struct{}, 1),
		perClient: newBuckets(limits.Client), perLogin: newBuckets(limits.Login), perEnrol: newBuckets(limits.Enrol),
		clientAddr: o.ClientAddr, log: o.Log, now: o.Now,
	}, nil
}

// Register puts the three services on a server.
func (s *Service) Register(server *connect.Server) {
	identityv1connect.RegisterIdentityServiceHandler(server, s)
	identityv1connect.RegisterMemberServiceHandler(server, s)
	identityv1connect.RegisterStaffServiceHandler(server, s)
}
