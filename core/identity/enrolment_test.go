package identity

import (
	"encoding/hex"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect/v2"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	identityv1 "github.com/entrepot/entrepot/proto/entrepot/identity/v1"
	"github.com/entrepot/entrepot/sdk/call"
)

func TestAConsumerRegistersByTheMailedTokenAndLogsIn(t *testing.T) {
	t.Parallel()
	h := open(t)
	self := h.joinConsumer(t, "Ada@Example.com")
	require.Regexp(t, `^acc_[0-9a-hjkmnp-tv-z]{26}$`, self.GetAccountId())
	require.Regexp(t, `^sub_[0-9a-hjkmnp-tv-z]{26}$`, self.GetSubjectId())
	require.Equal(t, identityv1.AccountKind_ACCOUNT_KIND_CONSUMER, self.GetKind())
	require.Equal(t, "GB", self.GetMarket(), "the market of the call, as none was asked for")
	require.Equal(t, "Ada Lovelace", self.GetName())
	require.Equal(t, "Ada@Example.com", self.GetEmail())

	tokens := h.login(t, " ada@example.COM ")
	who, market, err := h.Authenticate(t.Context(), tokens.GetAccessToken())
	require.NoError(t, err)
	require.Equal(t, call.Principal{Kind: call.Consumer, Account: self.GetAccountId(), Subject: self.GetSubjectId()}, who)
	require.Equal(t, "GB", market)
	require.Equal(t, h.now().Add(15*time.Minute).Truncate(time.Second), tokens.GetAccessExpiresAt().AsTime().Local().Truncate(time.Second))

	res, err := h.people.GetSelf(bearer(t, tokens.GetAccessToken()), &identityv1.GetSelfRequest{})
	require.NoError(t, err)
	require.True(t, proto.Equal(self, res.GetSelf()))
}

func TestAMerchantsFirstMemberHoldsEveryPermission(t *testing.T) {
	t.Parallel()
	h := open(t)
	self := h.joinMerchant(t, "grace@example.com")
	require.Equal(t, identityv1.AccountKind_ACCOUNT_KIND_MERCHANT, self.GetKind())
	require.Regexp(t, `^mrc_`, self.GetMerchantId())
	require.Equal(t, "Hopper & Co", self.GetMerchantName())
	require.Empty(t, self.GetSubjectId())
	who, _, err := h.Authenticate(t.Context(), h.login(t, "grace@example.com").GetAccessToken())
	require.NoError(t, err)
	require.Equal(t, self.GetMerchantId(), who.Merchant)
	require.True(t, who.May("catalog.write"))
}

func TestATokenMakesOneAccount(t *testing.T) {
	t.Parallel()
	h := open(t)
	_, err := h.people.RegisterConsumer(t.Context(), consumer("ada@example.com"))
	require.NoError(t, err)
	token := tokenIn(h.mailTo(t, "ada@example.com"))
	var wg sync.WaitGroup
	errs := make([]error, 8)
	for i := range errs {
		wg.Go(func() {
			_, errs[i] = h.people.ConfirmRegistration(t.Context(), &identityv1.ConfirmRegistrationRequest{Token: token})
		})
	}
	wg.Wait()
	made := 0
	for _, err := range errs {
		if err == nil {
			made++
			continue
		}
		requireFault(t, err, connect.CodeFailedPrecondition, ReasonTokenInvalid)
	}
	require.Equal(t, 1, made)
}

func TestOfTwoRegistrationsOfOneAddressTheFirstConfirmedWins(t *testing.T) {
	t.Parallel()
	h := open(t)
	for range 2 {
		_, err := h.people.RegisterConsumer(t.Context(), consumer("ada@example.com"))
		require.NoError(t, err)
	}
	first, second := h.mailTo(t, "ada@example.com"), h.mailTo(t, "ada@example.com")
	h.confirm(t, tokenIn(second))
	_, err := h.people.ConfirmRegistration(t.Context(), &identityv1.ConfirmRegistrationRequest{Token: tokenIn(first)})
	requireFault(t, err, connect.CodeFailedPrecondition, ReasonTokenInvalid)
}

func TestATokenIsRefused(t *testing.T) {
	t.Parallel()
	h := open(t)
	h.joinMerchant(t, "grace@example.com")
	access := h.login(t, "grace@example.com").GetAccessToken()
	confirm := func(token string) error {
		_, err := h.people.ConfirmRegistration(t.Context(), &identityv1.ConfirmRegistrationRequest{Token: token})
		return err
	}
	accept := func(token string) error {
		_, err := h.members.AcceptInvitation(t.Context(), &identityv1.AcceptInvitationRequest{Token: token, Password: password, Name: "Eve"})
		return err
	}
	_, err := h.people.RegisterConsumer(t.Context(), consumer("ada@example.com"))
	require.NoError(t, err)
	registration := tokenIn(h.mailTo(t, "ada@example.com"))
	_, err = h.members.InviteMember(bearer(t, access), &identityv1.InviteMemberRequest{Email: "jean@example.com"})
	require.NoError(t, err)
	invitation := tokenIn(h.mailTo(t, "jean@example.com"))

	hashes := h.passwords.done.Load()
	requireFault(t, confirm("guess"), connect.CodeFailedPrecondition, ReasonTokenInvalid)
	requireFault(t, accept("guess"), connect.CodeFailedPrecondition, ReasonTokenInvalid)
	requireFault(t, confirm(invitation), connect.CodeFailedPrecondition, ReasonTokenInvalid)
	requireFault(t, accept(registration), connect.CodeFailedPrecondition, ReasonTokenInvalid)
	h.later(24 * time.Hour)
	requireFault(t, confirm(registration), connect.CodeFailedPrecondition, ReasonTokenInvalid)
	h.later(6 * 24 * time.Hour)
	requireFault(t, accept(invitation), connect.CodeFailedPrecondition, ReasonTokenInvalid)
	require.Equal(t, hashes, h.passwords.done.Load(), "who holds no token costs no hash")
}

// What a door answers, and the work behind it, is the same whether the
// address has an account or not.
func TestNoAnswerAndNoWorkTellsWhetherAnAccountExists(t *testing.T) {
	t.Parallel()
	h := open(t)
	h.joinConsumer(t, "known@example.com")
	h.joinMerchant(t, "owner@example.com")
	access := h.login(t, "owner@example.com").GetAccessToken()
	for name, door := range map[string]func(email string) (proto.Message, error){
		"RegisterConsumer": func(email string) (proto.Message, error) {
			return h.people.RegisterConsumer(t.Context(), consumer(email))
		},
		"RegisterMerchant": func(email string) (proto.Message, error) {
			return h.people.RegisterMerchant(t.Context(), &identityv1.RegisterMerchantRequest{
				Email: email, Password: password, Name: "G", MerchantName: "H", CountryCode: "DE",
			})
		},
		"Login with a wrong password": func(email string) (proto.Message, error) {
			return h.people.Login(t.Context(), &identityv1.LoginRequest{Email: email, Password: "wrong"})
		},
		"InviteMember": func(email string) (proto.Message, error) {
			return h.members.InviteMember(bearer(t, access), &identityv1.InviteMemberRequest{Email: email})
		},
		"CreateStaff": func(email string) (proto.Message, error) {
			return h.staff.CreateStaff(bearer(t, h.LocalOperatorToken()), &identityv1.CreateStaffRequest{
				Email: email, Kind: identityv1.AccountKind_ACCOUNT_KIND_STAFF,
			})
		},
	} {
		type trace struct {
			answer, err        string
			code               connect.Code
			hashes, statements int64
		}
		observe := func(email string) trace {
			hashes, statements := h.passwords.done.Load(), h.statements.Load()
			res, err := door(email)
			tr := trace{hashes: h.passwords.done.Load() - hashes, statements: h.statements.Load() - statements}
			if err != nil {
				tr.err, tr.code = err.Error(), connect.CodeOf(err)
				return tr
			}
			raw, err := proto.Marshal(res)
			require.NoError(t, err)
			tr.answer = string(raw)
			return tr
		}
		known, unknown := observe("known@example.com"), observe("unknown@example.com")
		require.Equal(t, unknown, known, name)
		require.Positive(t, known.statements, name)
	}
	require.NoError(t, h.sendMails(t.Context()))
}

func TestAnAddressWithAnAccountGetsAnotherMailAndNothingElseComesOfIt(t *testing.T) {
	t.Parallel()
	h := open(t)
	h.joinConsumer(t, "ada@example.com")
	_, err := h.people.RegisterConsumer(t.Context(), &identityv1.RegisterConsumerRequest{
		Email: "ADA@example.com", Password: "the password of an attacker", Name: "Eve",
	})
	require.NoError(t, err)
	m := h.mailTo(t, "ADA@example.com")
	require.Equal(t, "You have an account", m.Subject)
	require.Empty(t, tokenIn(m))
	h.login(t, "ada@example.com")
	var left int
	require.NoError(t, h.pool.QueryRow(t.Context(),
		`SELECT (SELECT count(*) FROM kernel.enrolment) + (SELECT count(*) FROM vault.subject) - 1`).Scan(&left))
	require.Zero(t, left, "the attempt leaves nothing behind")
}

func TestAMailThatFailedIsSentAgainWithTheSameToken(t *testing.T) {
	t.Parallel()
	h := open(t)
	h.post.broken.Store(1)
	_, err := h.people.RegisterConsumer(t.Context(), consumer("ada@example.com"))
	require.NoError(t, err)
	first := h.mailTo(t, "ada@example.com")
	h.restart(t)
	h.later(10 * time.Minute)
	second := h.mailTo(t, "ada@example.com")
	require.Equal(t, first, second)
	h.later(10 * time.Minute)
	require.NoError(t, h.sendMails(t.Context()))
	require.Empty(t, h.post.box("ada@example.com"), "what was sent is not sent again")
	h.confirm(t, tokenIn(first))
}

func TestTheSenderRunsWhenSomebodyRegisters(t *testing.T) {
	t.Parallel()
	h := open(t)
	var wg sync.WaitGroup
	ctx, cancel := testContext(t)
	wg.Go(func() { h.Run(ctx) })
	_, err := h.people.RegisterConsumer(t.Context(), consumer("ada@example.com"))
	require.NoError(t, err)
	select {
	case m := <-h.post.box("ada@example.com"):
		h.confirm(t, tokenIn(m))
	case <-time.After(time.Minute):
		t.Fatal("no mail")
	}
	cancel()
	wg.Wait()
}

func TestWhatNobodyCompletedIsForgottenWithItsPerson(t *testing.T) {
	t.Parallel()
	h := open(t)
	h.joinConsumer(t, "ada@example.com")
	h.login(t, "ada@example.com")
	_, err := h.people.RegisterConsumer(t.Context(), consumer("bob@example.com"))
	require.NoError(t, err)
	_, err = h.people.Login(t.Context(), &identityv1.LoginRequest{Email: "x@example.com", Password: "wrong"})
	require.Error(t, err)
	count := func() (n []int) {
		for _, table := range []string{"kernel.account", "kernel.enrolment", "vault.subject", "kernel.session", "kernel.refresh", "kernel.login_failure"} {
			var c int
			require.NoError(t, h.pool.QueryRow(t.Context(), `SELECT count(*) FROM `+table).Scan(&c))
			n = append(n, c)
		}
		return n
	}
	require.NoError(t, h.sweep(t.Context()))
	require.Equal(t, []int{1, 1, 2, 1, 1, 1}, count())
	h.later(24 * time.Hour)
	require.NoError(t, h.sweep(t.Context()))
	require.Equal(t, []int{1, 0, 1, 1, 1, 0}, count())
	h.later(29 * 24 * time.Hour)
	require.NoError(t, h.sweep(t.Context()))
	require.Equal(t, []int{1, 0, 1, 0, 0, 0}, count())
}

func TestNoPersonalDataAndNoTokenStandsInTheDatabaseInTheClear(t *testing.T) {
	t.Parallel()
	h := open(t)
	h.joinConsumer(t, "ada@example.com")
	h.joinMerchant(t, "grace@example.com")
	tokens := h.login(t, "grace@example.com")
	_, err := h.members.InviteMember(bearer(t, tokens.GetAccessToken()), &identityv1.InviteMemberRequest{Email: "jean@example.com"})
	require.NoError(t, err)
	_, err = h.people.RegisterConsumer(t.Context(), consumer("pending@example.com"))
	require.NoError(t, err)
	_, err = h.people.Login(t.Context(), &identityv1.LoginRequest{Email: "nobody@example.com", Password: "wrong"})
	require.Error(t, err)
	secrets := []string{
		"Lovelace", "Grace Hopper", "ada@", "grace@", "jean@", "pending@", "nobody@", password,
		tokens.GetRefreshToken(), tokens.GetAccessToken(), tokenIn(h.mailTo(t, "jean@example.com")),
	}
	rows, err := h.pool.Query(t.Context(), `SELECT format('%I.%I', table_schema, table_name) FROM information_schema.tables WHERE table_schema IN ('kernel', 'vault')`)
	require.NoError(t, err)
	tables, err := pgx.CollectRows(rows, pgx.RowTo[string])
	require.NoError(t, err)
	require.Len(t, tables, 11)
	for _, table := range tables {
		rows, err := h.pool.Query(t.Context(), `SELECT t::text FROM `+table+` t`)
		require.NoError(t, err)
		dump, err := pgx.CollectRows(rows, pgx.RowTo[string])
		require.NoError(t, err)
		require.NotEmpty(t, dump, table)
		for _, secret := range secrets {
			for _, row := range dump {
				require.NotContains(t, strings.ToLower(row), strings.ToLower(secret), table)
				require.NotContains(t, row, hex.EncodeToString([]byte(secret)), table)
			}
		}
	}
}

func TestTheContractsLimitsHold(t *testing.T) {
	t.Parallel()
	h := open(t)
	for _, req := range []*identityv1.RegisterConsumerRequest{
		{Email: "no address", Password: password, Name: "A"},
		{Email: "a@example.com\r\nBcc: all@example.com", Password: password, Name: "A"},
		{Email: "a@example.com", Password: "short", Name: "A"},
		{Email: "a@example.com", Password: strings.Repeat("x", 201), Name: "A"},
		{Email: "a@example.com", Password: password},
		{Email: "a@example.com", Password: password, Name: "A", Market: "gb"},
	} {
		_, err := h.people.RegisterConsumer(t.Context(), req)
		require.Equal(t, connect.CodeInvalidArgument, connect.CodeOf(err))
	}
	require.Zero(t, h.passwords.done.Load())
}
