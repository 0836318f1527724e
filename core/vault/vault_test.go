package vault_test

import (
	"context"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"connectrpc.com/connect/v2"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/entrepot/entrepot/core/vault"
	kernelv1 "github.com/entrepot/entrepot/proto/entrepot/kernel/v1"
	"github.com/entrepot/entrepot/sdk/call"
	"github.com/entrepot/entrepot/sdk/fault"
	"github.com/entrepot/entrepot/sdk/id"
	"github.com/entrepot/entrepot/sdk/pglocal/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

var template = pgtest.NewTemplate(func(ctx context.Context, url string) error {
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	if _, err := conn.Exec(ctx, `CREATE SCHEMA vault`); err != nil {
		return err
	}
	return fs.WalkDir(vault.Migrations(), ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		sql, err := fs.ReadFile(vault.Migrations(), path)
		if err != nil {
			return err
		}
		_, err = conn.Exec(ctx, string(sql))
		return err
	})
})

// house is a vault over a database of its own.
type house struct {
	*vault.Vault
	db      *pgtest.DB
	pool    *pgxpool.Pool
	keyFile string
}

type callerKey struct{}

func as(caller vault.Caller) context.Context {
	ctx := call.With(context.Background(), call.Info{
		Principal: call.Principal{Kind: call.Consumer, Account: "acc_1"}, RequestID: "req-1",
	})
	return context.WithValue(ctx, callerKey{}, caller)
}

func (h *house) options() vault.Options {
	return vault.Options{Pool: h.pool, KeyFile: h.keyFile, CallerFrom: func(ctx context.Context) (vault.Caller, bool) {
		c, ok := ctx.Value(callerKey{}).(vault.Caller)
		return c, ok
	}}
}

func open(t testing.TB) *house {
	t.Helper()
	h := &house{db: pgtest.New(t, template), keyFile: filepath.Join(t.TempDir(), "keys", "vault.json")}
	var err error
	h.pool, err = pgxpool.New(t.Context(), h.db.URL)
	require.NoError(t, err)
	t.Cleanup(h.pool.Close)
	h.Vault, err = vault.Open(t.Context(), h.options())
	require.NoError(t, err)
	return h
}

// keep seals through the service and stores as a module does.
func (h *house) keep(t require.TestingT, q vault.Querier, subject string, items ...*kernelv1.SealItem) *kernelv1.SealResponse {
	sealed, err := h.Seal(as(vault.Caller{Plugin: "order"}), &kernelv1.SealRequest{SubjectId: subject, Items: items})
	require.NoError(t, err)
	require.NoError(t, store(q, sealed))
	return sealed
}

func store(q vault.Querier, s *kernelv1.SealResponse) error {
	var refs, kinds []string
	var texts [][]byte
	for _, i := range s.GetItems() {
		refs, kinds, texts = append(refs, i.GetRef()), append(kinds, i.GetKind()), append(texts, i.GetCiphertext())
	}
	_, err := q.Exec(context.Background(), `SELECT vault.store($1, $2, $3, $4, $5)`, s.GetSubjectId(), s.GetWrappedKey(), refs, kinds, texts)
	return err
}

func item(kind, text string) *kernelv1.SealItem {
	return &kernelv1.SealItem{Kind: kind, Plaintext: []byte(text)}
}

var carrier = vault.Caller{Plugin: "carrier", Reveals: []string{"print-label"}}

func reveal(purpose string, refs ...string) *kernelv1.RevealRequest {
	return &kernelv1.RevealRequest{Purpose: purpose, Refs: refs}
}

func TestWhatIsSealedIsRevealedToAPluginThatHoldsThePurpose(t *testing.T) {
	t.Parallel()
	h := open(t)
	first := h.keep(t, h.pool, "", item("name", "Ada Lovelace"), item("address", "12 St James's Square"))
	require.NotEmpty(t, first.GetWrappedKey(), "a new subject comes with its key")
	second := h.keep(t, h.pool, first.GetSubjectId(), item("phone", "+44 20 7946 0000"))
	require.Empty(t, second.GetWrappedKey(), "a known one without")
	require.Equal(t, first.GetSubjectId(), second.GetSubjectId())

	refs := []string{second.GetItems()[0].GetRef(), id.New("vlt"), first.GetItems()[1].GetRef(), first.GetItems()[0].GetRef()}
	res, err := h.Reveal(as(carrier), reveal("print-label", refs...))
	require.NoError(t, err)
	var texts, kinds []string
	for i, r := range res.GetItems() {
		require.Equal(t, refs[i], r.GetRef())
		texts, kinds = append(texts, string(r.GetPlaintext())), append(kinds, r.GetKind())
	}
	require.Equal(t, []string{"+44 20 7946 0000", "", "12 St James's Square", "Ada Lovelace"}, texts)
	require.Equal(t, []string{"phone", "", "address", "name"}, kinds)
}

func TestEachRevealIsRecordedWithWhoAskedForWhomAndWhy(t *testing.T) {
	t.Parallel()
	h := open(t)
	ref := h.keep(t, h.pool, "", item("name", "Ada")).GetItems()[0].GetRef()
	_, err := h.Reveal(as(carrier), reveal("print-label", ref))
	require.NoError(t, err)
	_, err = h.RevealInternal(t.Context(), "send-mail", ref)
	require.NoError(t, err)
	rows, err := h.pool.Query(t.Context(), `SELECT concat_ws('/', plugin, purpose, principal, request_id) FROM vault.reveal WHERE ref = $1 ORDER BY id`, ref)
	require.NoError(t, err)
	got, err := pgx.CollectRows(rows, pgx.RowTo[string])
	require.NoError(t, err)
	require.Equal(t, []string{"carrier/print-label/consumer acc_1/req-1", "kernel/send-mail/guest/"}, got)
}

func TestTheVaultRefuses(t *testing.T) {
	t.Parallel()
	h := open(t)
	erased := h.keep(t, h.pool, "", item("name", "Ada")).GetSubjectId()
	_, err := h.Erase(t.Context(), erased)
	require.NoError(t, err)
	for name, c := range map[string]struct {
		call   func() error
		code   connect.Code
		reason string
	}{
		"a purpose that the manifest does not name": {func() error {
			_, err := h.Reveal(as(carrier), reveal("marketing", id.New("vlt")))
			return err
		}, connect.CodePermissionDenied, vault.ReasonPurposeMissing},
		"a reveal by nobody": {func() error {
			_, err := h.Reveal(context.Background(), reveal("print-label", id.New("vlt")))
			return err
		}, connect.CodePermissionDenied, ""},
		"a seal by nobody": {func() error {
			_, err := h.Seal(context.Background(), &kernelv1.SealRequest{Items: []*kernelv1.SealItem{item("name", "x")}})
			return err
		}, connect.CodePermissionDenied, ""},
		"a subject that does not exist": {func() error {
			_, err := h.Seal(as(carrier), &kernelv1.SealRequest{SubjectId: id.New("sub"), Items: []*kernelv1.SealItem{item("name", "x")}})
			return err
		}, connect.CodeNotFound, vault.ReasonSubjectUnknown},
		"a subject that is erased": {func() error {
			_, err := h.Seal(as(carrier), &kernelv1.SealRequest{SubjectId: erased, Items: []*kernelv1.SealItem{item("name", "x")}})
			return err
		}, connect.CodeFailedPrecondition, vault.ReasonSubjectErased},
	} {
		t.Run(name, func(t *testing.T) {
			err := c.call()
			require.Equal(t, c.code, connect.CodeOf(err))
			require.Equal(t, c.reason, fault.Reason(err))
		})
	}
}

func TestACiphertextOpensOnlyUnderItsOwnRefSubjectAndKind(t *testing.T) {
	t.Parallel()
	h := open(t)
	moves := map[string]string{
		"ref":     `UPDATE vault.record SET ref = $2 WHERE ref = $1 AND $3 <> '' AND $4 >= 0`,
		"subject": `UPDATE vault.record SET ref = $2, subject_id = $3 WHERE ref = $1 AND $4 >= 0`,
		"kind":    `UPDATE vault.record SET kind = 'email' WHERE ref = $1 AND $2 <> '' AND $3 <> '' AND $4 >= 0`,
		"bit":     `UPDATE vault.record SET ciphertext = set_bit(ciphertext, $4, 1 - get_bit(ciphertext, $4)) WHERE ref = $1 AND $2 <> '' AND $3 <> ''`,
	}
	rapid.Check(t, func(t *rapid.T) {
		plain := rapid.StringMatching(`[A-Z][a-z]{8,40}`).Draw(t, "plain")
		sealed := h.keep(t, h.pool, "", item("name", plain))
		other := h.keep(t, h.pool, "", item("name", "another person")).GetSubjectId()
		ref, text := sealed.GetItems()[0].GetRef(), sealed.GetItems()[0].GetCiphertext()
		require.NotContains(t, string(text), plain)

		move := rapid.SampledFrom([]string{"ref", "subject", "kind", "bit"}).Draw(t, "move")
		to := ref
		if move == "ref" || move == "subject" {
			to = id.New("vlt")
		}
		bit := rapid.IntRange(0, len(text)*8-1).Draw(t, "bit")
		tag, err := h.pool.Exec(context.Background(), moves[move], ref, to, other, bit)
		require.NoError(t, err)
		require.EqualValues(t, 1, tag.RowsAffected())

		res, err := h.Reveal(as(carrier), reveal("print-label", to))
		require.Error(t, err)
		require.Nil(t, res)
		require.NotContains(t, err.Error(), plain)
	})
}

func TestErasureLosesEverythingSealedForTheSubjectAndNothingElse(t *testing.T) {
	t.Parallel()
	h := open(t)
	gone := h.keep(t, h.pool, "", item("name", "Ada"), item("email", "ada@example.com"))
	stays := h.keep(t, h.pool, "", item("name", "Grace"))
	refs := []string{gone.GetItems()[0].GetRef(), gone.GetItems()[1].GetRef(), stays.GetItems()[0].GetRef()}
	// The keys are in memory when the subject is erased.
	_, err := h.Reveal(as(carrier), reveal("print-label", refs...))
	require.NoError(t, err)

	// Another node erases: this one's memory is not told.
	node2, err := vault.Open(t.Context(), h.options())
	require.NoError(t, err)
	done, err := node2.Erase(t.Context(), gone.GetSubjectId())
	require.NoError(t, err)
	require.True(t, done)
	again, err := node2.Erase(t.Context(), gone.GetSubjectId())
	require.NoError(t, err)
	require.False(t, again, "there is no key to destroy twice")

	for _, v := range []*vault.Vault{h.Vault, node2} {
		res, err := v.Reveal(as(carrier), reveal("print-label", refs...))
		require.NoError(t, err)
		for _, r := range res.GetItems()[:2] {
			require.True(t, r.GetErased())
			require.Empty(t, r.GetPlaintext())
		}
		require.Equal(t, "Grace", string(res.GetItems()[2].GetPlaintext()))
	}
	// The first node seals with the key it remembers; the store refuses.
	sealed, err := h.Seal(as(carrier), &kernelv1.SealRequest{SubjectId: gone.GetSubjectId(), Items: []*kernelv1.SealItem{item("name", "Ada")}})
	require.NoError(t, err)
	requireState(t, store(h.pool, sealed), vault.SubjectErased)

	var keys int
	require.NoError(t, h.pool.QueryRow(t.Context(),
		`SELECT count(*) FROM vault.subject WHERE id = $1 AND wrapped_key IS NOT NULL`, gone.GetSubjectId()).Scan(&keys))
	require.Zero(t, keys, "the key is nowhere")
}

func TestForgettingLeavesNoTraceOfASubject(t *testing.T) {
	t.Parallel()
	h := open(t)
	s := h.keep(t, h.pool, "", item("name", "Ada"))
	require.NoError(t, pgx.BeginFunc(t.Context(), h.pool, func(tx pgx.Tx) error {
		return h.ForgetTx(t.Context(), tx, s.GetSubjectId())
	}))
	var rows int
	require.NoError(t, h.pool.QueryRow(t.Context(), `SELECT (SELECT count(*) FROM vault.subject) + (SELECT count(*) FROM vault.record)`).Scan(&rows))
	require.Zero(t, rows)
}

func TestStoreIsOneCommitWithWhatRefersToIt(t *testing.T) {
	t.Parallel()
	h := open(t)
	tx, err := h.pool.Begin(t.Context())
	require.NoError(t, err)
	subject, refs, err := h.SealTx(t.Context(), tx, "", vault.Item{Kind: "name", Plaintext: []byte("Ada")})
	require.NoError(t, err)
	_, more, err := h.SealTx(t.Context(), tx, subject, vault.Item{Kind: "email", Plaintext: []byte("ada@example.com")})
	require.NoError(t, err, "a subject is known in the transaction that makes it")
	require.NoError(t, tx.Rollback(t.Context()))
	res, err := h.RevealInternal(t.Context(), "show-to-owner", refs[0], more[0])
	require.NoError(t, err)
	require.Equal(t, []vault.Revealed{{Ref: refs[0]}, {Ref: more[0]}}, res)
}

func TestAModuleReachesTheVaultThroughStoreAlone(t *testing.T) {
	t.Parallel()
	h := open(t)
	role, url := h.db.Role(t, "p_order")
	_, err := h.pool.Exec(t.Context(), `GRANT USAGE ON SCHEMA vault TO `+role+`; GRANT EXECUTE ON FUNCTION `+vault.ModuleFunctions[0]+` TO `+role)
	require.NoError(t, err)
	module, err := pgxpool.New(t.Context(), url)
	require.NoError(t, err)
	t.Cleanup(module.Close)

	sealed := h.keep(t, module, "", item("name", "Ada"))
	require.NoError(t, store(module, sealed), "a replay changes nothing")
	var owner string
	require.NoError(t, h.pool.QueryRow(t.Context(), `SELECT owner FROM vault.record WHERE ref = $1`, sealed.GetItems()[0].GetRef()).Scan(&owner))
	require.Equal(t, role, owner, "a record is stamped with who stored it")

	for _, statement := range []string{
		`SELECT * FROM vault.subject`, `SELECT * FROM vault.record`, `SELECT * FROM vault.reveal`, `SELECT * FROM vault.master`,
		`INSERT INTO vault.record VALUES ('vlt_00000000000000000000000000', 'x', 'name', '', 'me')`,
		`UPDATE vault.subject SET wrapped_key = NULL`, `DELETE FROM vault.reveal`, `TRUNCATE vault.record`,
	} {
		_, err := module.Exec(t.Context(), statement)
		requireState(t, err, "42501")
	}
	// A search_path of the module's own does not reach into the function.
	_, err = h.pool.Exec(t.Context(), `CREATE SCHEMA evil AUTHORIZATION `+role)
	require.NoError(t, err)
	_, err = module.Exec(t.Context(), `CREATE FUNCTION evil.unnest(text[]) RETURNS SETOF text LANGUAGE sql AS 'SELECT session_user::text';
		CREATE FUNCTION evil.eq(text, text) RETURNS boolean LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION ''reached as %'', current_user; END';
		CREATE OPERATOR evil.= (LEFTARG = text, RIGHTARG = text, FUNCTION = evil.eq);
		ALTER ROLE `+role+` SET search_path = evil, pg_catalog`)
	require.NoError(t, err)
	module.Reset()
	again := h.keep(t, module, "", item("name", "Ada"))
	require.NoError(t, store(module, again))

	again.Items[0].Ciphertext = append([]byte(nil), sealed.GetItems()[0].GetCiphertext()...)
	requireState(t, store(module, again), "23505")
	again.Items[0].Ref = sealed.GetItems()[0].GetRef()
	requireState(t, store(module, again), "23505")
}

func TestAStartWithoutTheRightKeyRefusesAndSaysWhatToDo(t *testing.T) {
	t.Parallel()
	h := open(t)
	reopen := func() error {
		_, err := vault.Open(t.Context(), h.options())
		return err
	}
	require.NoError(t, reopen(), "the key of the first start opens the second")
	kept, err := os.ReadFile(h.keyFile)
	require.NoError(t, err)
	info, err := os.Stat(h.keyFile)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode().Perm())

	require.NoError(t, os.Remove(h.keyFile))
	require.NoError(t, reopen(), "without subjects nothing is lost, and a new key is made")
	require.NoError(t, os.WriteFile(h.keyFile, kept, 0o600))
	require.ErrorContains(t, reopen(), "does not open this database")

	require.NoError(t, os.Remove(h.keyFile))
	h.Vault, err = vault.Open(t.Context(), h.options())
	require.NoError(t, err)
	h.keep(t, h.pool, "", item("name", "Ada"))
	belongs, err := os.ReadFile(h.keyFile)
	require.NoError(t, err)
	require.NoError(t, os.Remove(h.keyFile))
	require.ErrorContains(t, reopen(), "is missing: restore it from the backup")
	require.NoFileExists(t, h.keyFile, "no key is left that would open nothing")

	require.NoError(t, os.WriteFile(h.keyFile, []byte("{}"), 0o600))
	require.ErrorContains(t, reopen(), "holds no master key")
	require.NoError(t, os.WriteFile(h.keyFile, belongs, 0o600))
	require.NoError(t, os.Chmod(h.keyFile, 0o644))
	require.ErrorContains(t, reopen(), "chmod 600")
	require.NoError(t, os.Chmod(h.keyFile, 0o600))
	require.NoError(t, reopen())
}

// One order's personal data, sealed for a guest.
func BenchmarkSealForANewSubject(b *testing.B) {
	h := open(b)
	req := &kernelv1.SealRequest{Items: []*kernelv1.SealItem{item("name", "Ada Lovelace"), item("email", "ada@example.com"), item("address", "12 St James's Square, London")}}
	ctx := as(carrier)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := h.Seal(ctx, req); err != nil {
			b.Fatal(err)
		}
	}
}

func requireState(t *testing.T, err error, state string) {
	t.Helper()
	var pg *pgconn.PgError
	require.ErrorAs(t, err, &pg)
	require.Equal(t, state, pg.Code, pg.Message)
}
