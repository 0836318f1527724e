package identity

import (
	"context"
	"io/fs"
	"log/slog"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"connectrpc.com/connect/v2"
	"connectrpc.com/connect/v2/connectinprocess"
	"connectrpc.com/validate"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/entrepot/entrepot/core/vault"
	identityv1 "github.com/entrepot/entrepot/proto/entrepot/identity/v1"
	"github.com/entrepot/entrepot/proto/entrepot/identity/v1/identityv1connect"
	"github.com/entrepot/entrepot/sdk/call"
	"github.com/entrepot/entrepot/sdk/fault"
	"github.com/entrepot/entrepot/sdk/pglocal/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

var template = pgtest.NewTemplate(func(ctx context.Context, url string) error {
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	if _, err := conn.Exec(ctx, `CREATE SCHEMA kernel; CREATE SCHEMA vault`); err != nil {
		return err
	}
	for _, dir := range []fs.FS{vault.Migrations(), Migrations()} {
		files, err := fs.Glob(dir, "*.sql")
		if err != nil {
			return err
		}
		for _, f := range files {
			sql, err := fs.ReadFile(dir, f)
			if err != nil {
				return err
			}
			if _, err := conn.Exec(ctx, string(sql)); err != nil {
				return err
			}
		}
	}
	return nil
})

// house is identity over a database of its own, behind what the gateway does.
type house struct {
	*Service
	pool       *pgxpool.Pool
	options    Options
	post       *postOffice
	statements atomic.Int64
	clock      atomic.Int64

	people  identityv1connect.IdentityServiceClient
	members identityv1connect.MemberServiceClient
	staff   identityv1connect.StaffServiceClient
}

// TraceQueryStart counts statements.
func (h *house) TraceQueryStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceQueryStartData) context.Context {
	h.statements.Add(1)
	return ctx
}

// TraceQueryEnd is the other half of pgx.QueryTracer.
func (h *house) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}

func (h *house) later(d time.Duration) { h.clock.Add(int64(d)) }

// open builds a house. change alters the options of the default one, in which
// nothing is throttled.
func open(t *testing.T, change ...func(*Options)) *house {
	t.Helper()
	h := &house{post: &postOffice{boxes: map[string]chan Mail{}}}
	h.clock.Store(time.Now().UnixNano())
	conf, err := pgxpool.ParseConfig(pgtest.New(t, template).URL)
	require.NoError(t, err)
	conf.ConnConfig.Tracer = h
	h.pool, err = pgxpool.NewWithConfig(t.Context(), conf)
	require.NoError(t, err)
	t.Cleanup(h.pool.Close)
	keys := filepath.Join(t.TempDir(), "keys")
	v, err := vault.Open(t.Context(), vault.Options{Pool: h.pool, KeyFile: filepath.Join(keys, "vault.json")})
	require.NoError(t, err)
	free := Rate{Burst: 1 << 20, Every: time.Nanosecond}
	h.options = Options{
		Pool: h.pool, Vault: v, KeyFile: filepath.Join(keys, "identity.json"), Mailer: h.post,
		Log: slog.New(slog.DiscardHandler), Argon2MemoryKiB: 8, Argon2Iterations: 1, Limits: Limits{Client: free, Login: free, Enrol: free},
		Now: func() time.Time { return time.Unix(0, h.clock.Load()).Truncate(time.Microsecond) },
	}
	for _, c := range change {
		c(&h.options)
	}
	h.restart(t)
	return h
}

// restart forgets what was in memory.
func (h *house) restart(t *testing.T) {
	t.Helper()
	s, err := New(t.Context(), h.options)
	require.NoError(t, err)
	h.Service = s
	server := connect.NewServer(h.gateway, validate.NewServerInterceptor())
	s.Register(server)
	client := connect.NewClient(connectinprocess.New(server))
	h.people = identityv1connect.NewIdentityServiceClient(client)
	h.members = identityv1connect.NewMemberServiceClient(client)
	h.staff = identityv1connect.NewStaffServiceClient(client)
}

// gateway makes the principal of the bearer token, as the real one does.
func (h *house) gateway(next connect.ServerFunc) connect.ServerFunc {
	return func(ctx context.Context, spec connect.Spec, stream connect.ServerStream) error {
		info := call.Info{Market: "GB"}
		if c, ok := connect.CallInfoForServerContext(ctx); ok && c.RequestHeader().Has("Authorization") {
			p, _, err := h.Authenticate(ctx, strings.TrimPrefix(c.RequestHeader().Get("Authorization"), "Bearer "))
			if err != nil {
				return err
			}
			info.Principal = p
		}
		return next(call.With(ctx, info), spec, stream)
	}
}

// bearer is a call with an access token.
func bearer(t *testing.T, token string) context.Context {
	ctx, info := connect.NewClientContext(t.Context())
	info.RequestHeader().Set("Authorization", "Bearer "+token)
	return ctx
}

// postOffice is a Mailer that gives mails to those who wait for them.
type postOffice struct {
	mu    sync.Mutex
	boxes map[string]chan Mail
	// broken makes that many sendings fail.
	broken atomic.Int64
}

func (p *postOffice) box(address string) chan Mail {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.boxes[address] == nil {
		p.boxes[address] = make(chan Mail, 64)
	}
	return p.boxes[address]
}

func (p *postOffice) Send(_ context.Context, m Mail) error {
	p.box(m.To) <- m
	if p.broken.Add(-1) >= 0 {
		return context.DeadlineExceeded
	}
	return nil
}

// mailTo sends what is due and takes the next mail to an address.
func (h *house) mailTo(t require.TestingT, address string) Mail {
	require.NoError(t, h.sendMails(context.Background()))
	select {
	case m := <-h.post.box(address):
		return m
	default:
		require.FailNow(t, "no mail to "+address)
		return Mail{}
	}
}

// tokenIn takes the token out of a mail; empty when there is none.
func tokenIn(m Mail) string {
	for line := range strings.Lines(m.Body) {
		if token, ok := strings.CutPrefix(strings.TrimSpace(line), "token: "); ok {
			return token
		}
	}
	return ""
}

const password = "correct horse battery"

func consumer(email string) *identityv1.RegisterConsumerRequest {
	return &identityv1.RegisterConsumerRequest{Email: email, Password: password, Name: "Ada Lovelace"}
}

// joinConsumer registers and confirms a consumer.
func (h *house) joinConsumer(t *testing.T, email string) *identityv1.Self {
	t.Helper()
	_, err := h.people.RegisterConsumer(t.Context(), consumer(email))
	require.NoError(t, err)
	return h.confirm(t, tokenIn(h.mailTo(t, email)))
}

// joinMerchant registers and confirms a merchant with its owner.
func (h *house) joinMerchant(t *testing.T, email string) *identityv1.Self {
	t.Helper()
	_, err := h.people.RegisterMerchant(t.Context(), &identityv1.RegisterMerchantRequest{
		Email: email, Password: password, Name: "Grace Hopper", MerchantName: "Hopper & Co", CountryCode: "DE",
	})
	require.NoError(t, err)
	return h.confirm(t, tokenIn(h.mailTo(t, email)))
}

func (h *house) confirm(t *testing.T, token string) *identityv1.Self {
	t.Helper()
	res, err := h.people.ConfirmRegistration(t.Context(), &identityv1.ConfirmRegistrationRequest{Token: token})
	require.NoError(t, err)
	return res.GetSelf()
}

// joinMember invites with the inviter's token and accepts.
func (h *house) joinMember(t *testing.T, by, email string, permissions ...string) *identityv1.Self {
	t.Helper()
	_, err := h.members.InviteMember(bearer(t, by), &identityv1.InviteMemberRequest{Email: email, Permissions: permissions})
	require.NoError(t, err)
	return h.accept(t, tokenIn(h.mailTo(t, email)))
}

func (h *house) accept(t *testing.T, token string) *identityv1.Self {
	t.Helper()
	res, err := h.members.AcceptInvitation(t.Context(), &identityv1.AcceptInvitationRequest{Token: token, Password: password, Name: "Jean Bartik"})
	require.NoError(t, err)
	return res.GetSelf()
}

func (h *house) login(t *testing.T, email string) *identityv1.Tokens {
	t.Helper()
	res, err := h.people.Login(t.Context(), &identityv1.LoginRequest{Email: email, Password: password})
	require.NoError(t, err)
	return res.GetTokens()
}

func (h *house) refresh(token string) (*identityv1.Tokens, error) {
	res, err := h.people.Refresh(context.Background(), &identityv1.RefreshRequest{RefreshToken: token})
	return res.GetTokens(), err
}

func requireFault(t require.TestingT, err error, code connect.Code, reason string) {
	require.Error(t, err)
	require.Equal(t, code, connect.CodeOf(err), err.Error())
	require.Equal(t, reason, fault.Reason(err), err.Error())
}
