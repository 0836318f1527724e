package identity

import (
	"fmt"
	"sync"
	"testing"

	"connectrpc.com/connect/v2"
	"github.com/stretchr/testify/require"

	identityv1 "github.com/entrepot/entrepot/proto/entrepot/identity/v1"
)

func (h *house) update(t *testing.T, by, account string, permissions ...string) error {
	_, err := h.members.UpdateMember(bearer(t, by), &identityv1.UpdateMemberRequest{AccountId: account, Permissions: permissions})
	return err
}

func (h *house) remove(t *testing.T, by, account string) error {
	_, err := h.members.RemoveMember(bearer(t, by), &identityv1.RemoveMemberRequest{AccountId: account})
	return err
}

func (h *house) access(t *testing.T, email string) string { return h.login(t, email).GetAccessToken() }

func TestAnInvitedMemberJoinsTheMerchantWithThePermissionsGiven(t *testing.T) {
	t.Parallel()
	h := open(t)
	owner := h.joinMerchant(t, "owner@example.com")
	jean := h.joinMember(t, h.access(t, "owner@example.com"), "jean@example.com", "orders.read", "catalog.write", "orders.read")
	require.Equal(t, owner.GetMerchantId(), jean.GetMerchantId())
	require.Equal(t, "Hopper & Co", jean.GetMerchantName())
	require.Equal(t, []string{"catalog.write", "orders.read"}, jean.GetPermissions())
	require.Equal(t, "Jean Bartik", jean.GetName())
	who, _, err := h.Authenticate(t.Context(), h.access(t, "jean@example.com"))
	require.NoError(t, err)
	require.True(t, who.May("catalog.write"))
	require.False(t, who.May("members.write"))
}

func TestMembersAreListedByPagesToTheirOwnMerchantOnly(t *testing.T) {
	t.Parallel()
	h := open(t)
	h.joinMerchant(t, "other@example.com")
	h.joinMerchant(t, "owner@example.com")
	by := h.access(t, "owner@example.com")
	want := []string{"owner@example.com"}
	for i := range 4 {
		want = append(want, fmt.Sprintf("m%d@example.com", i))
		h.joinMember(t, by, want[i+1], "members.read")
	}
	var got []string
	for token, pages := "", 0; pages == 0 || token != ""; pages++ {
		res, err := h.members.ListMembers(bearer(t, by), &identityv1.ListMembersRequest{PageSize: 2, PageToken: token})
		require.NoError(t, err)
		for _, m := range res.GetMembers() {
			require.NotEmpty(t, m.GetName())
			require.NotZero(t, m.GetJoinedAt().GetSeconds())
			got = append(got, m.GetEmail())
		}
		token = res.GetNextPageToken()
		require.Less(t, pages, 3)
	}
	require.ElementsMatch(t, want, got)
	h.joinConsumer(t, "ada@example.com")
	_, err := h.members.ListMembers(bearer(t, h.access(t, "ada@example.com")), &identityv1.ListMembersRequest{})
	require.Equal(t, connect.CodePermissionDenied, connect.CodeOf(err))
}

func TestAChangeOfPermissionsHoldsFromTheNextRefresh(t *testing.T) {
	t.Parallel()
	h := open(t)
	h.joinMerchant(t, "owner@example.com")
	by := h.access(t, "owner@example.com")
	jean := h.joinMember(t, by, "jean@example.com", "orders.read")
	tokens := h.login(t, "jean@example.com")
	res, err := h.members.UpdateMember(bearer(t, by), &identityv1.UpdateMemberRequest{AccountId: jean.GetAccountId(), Permissions: []string{"catalog.write"}})
	require.NoError(t, err)
	require.Equal(t, []string{"catalog.write"}, res.GetMember().GetPermissions())
	require.Equal(t, "jean@example.com", res.GetMember().GetEmail())
	tokens, err = h.refresh(tokens.GetRefreshToken())
	require.NoError(t, err)
	who, _, err := h.Authenticate(t.Context(), tokens.GetAccessToken())
	require.NoError(t, err)
	require.Equal(t, []string{"catalog.write"}, who.Permissions)
}

func TestARemovedMemberIsOutAndTheAddressIsFree(t *testing.T) {
	t.Parallel()
	h := open(t)
	h.joinMerchant(t, "owner@example.com")
	by := h.access(t, "owner@example.com")
	jean := h.joinMember(t, by, "jean@example.com", "orders.read")
	tokens := h.login(t, "jean@example.com")
	require.NoError(t, h.remove(t, by, jean.GetAccountId()))
	requireFault(t, h.remove(t, by, jean.GetAccountId()), connect.CodeNotFound, ReasonMemberUnknown)
	_, err := h.refresh(tokens.GetRefreshToken())
	requireFault(t, err, connect.CodeUnauthenticated, ReasonTokenInvalid)
	requireFault(t, h.tryLogin("jean@example.com", password), connect.CodeUnauthenticated, ReasonInvalidCredentials)
	_, err = h.people.GetSelf(bearer(t, tokens.GetAccessToken()), &identityv1.GetSelfRequest{})
	requireFault(t, err, connect.CodeUnauthenticated, ReasonNoAccount)
	require.NotEqual(t, jean.GetAccountId(), h.joinConsumer(t, "jean@example.com").GetAccountId())
}

func TestTheLastMemberWhoMayWriteMembersKeepsIt(t *testing.T) {
	t.Parallel()
	h := open(t)
	owner := h.joinMerchant(t, "owner@example.com")
	by := h.access(t, "owner@example.com")
	h.joinMember(t, by, "jean@example.com", "members.read")
	requireFault(t, h.update(t, by, owner.GetAccountId(), "catalog.write"), connect.CodeFailedPrecondition, ReasonLastAdmin)
	requireFault(t, h.remove(t, by, owner.GetAccountId()), connect.CodeFailedPrecondition, ReasonLastAdmin)
	h.joinMember(t, by, "second@example.com", "members.write")
	require.NoError(t, h.remove(t, by, owner.GetAccountId()))
	second := h.access(t, "second@example.com")
	who, _, err := h.Authenticate(t.Context(), second)
	require.NoError(t, err)
	requireFault(t, h.update(t, second, who.Account), connect.CodeFailedPrecondition, ReasonLastAdmin)
}

func TestOfAdminsWhoRemoveEachOtherAtOnceOneStays(t *testing.T) {
	t.Parallel()
	h := open(t)
	h.joinMerchant(t, "owner@example.com")
	by := h.access(t, "owner@example.com")
	for round := range 10 {
		var ids, tokens []string
		for i := range 3 {
			email := fmt.Sprintf("admin%d-%d@example.com", round, i)
			ids = append(ids, h.joinMember(t, by, email, "members.write").GetAccountId())
			tokens = append(tokens, h.access(t, email))
		}
		var wg sync.WaitGroup
		for i := range ids {
			wg.Go(func() { _ = h.remove(t, tokens[i], ids[(i+1)%len(ids)]) })
		}
		wg.Wait()
		var left int
		require.NoError(t, h.pool.QueryRow(t.Context(), `SELECT count(*) FROM kernel.account WHERE id = ANY ($1) AND state = 'active'`, ids).Scan(&left))
		require.Contains(t, []int{1, 2}, left, "somebody is removed, not everybody")
		for _, id := range ids {
			_ = h.remove(t, by, id)
		}
	}
}

func TestNobodyGivesOrTakesWhatHeDoesNotHold(t *testing.T) {
	t.Parallel()
	h := open(t)
	owner := h.joinMerchant(t, "owner@example.com")
	root := h.access(t, "owner@example.com")
	clerk := h.joinMember(t, root, "clerk@example.com", "members.write", "members.read", "orders.read")
	peer := h.joinMember(t, root, "peer@example.com", "orders.read")
	by := h.access(t, "clerk@example.com")
	for name, err := range map[string]error{
		"to himself":            h.update(t, by, clerk.GetAccountId(), "members.write", "catalog.write"),
		"to another":            h.update(t, by, peer.GetAccountId(), "catalog.write"),
		"from the owner":        h.update(t, by, owner.GetAccountId(), "orders.read"),
		"by removing the owner": h.remove(t, by, owner.GetAccountId()),
	} {
		t.Log(name)
		requireFault(t, err, connect.CodePermissionDenied, ReasonGrantNotHeld)
	}
	_, err := h.members.InviteMember(bearer(t, by), &identityv1.InviteMemberRequest{Email: "x@example.com", Permissions: []string{"catalog.write"}})
	requireFault(t, err, connect.CodePermissionDenied, ReasonGrantNotHeld)
	require.NoError(t, h.update(t, by, peer.GetAccountId(), "orders.read", "members.read"))
	requireFault(t, h.update(t, root, peer.GetAccountId(), "*"), connect.CodeInvalidArgument, "")
}

func TestAMemberOfAnotherMerchantIsUnknown(t *testing.T) {
	t.Parallel()
	h := open(t)
	h.joinMerchant(t, "owner@example.com")
	by := h.access(t, "owner@example.com")
	for _, id := range []string{
		h.joinMerchant(t, "other@example.com").GetAccountId(), h.joinConsumer(t, "ada@example.com").GetAccountId(), "acc_unknown",
	} {
		requireFault(t, h.update(t, by, id, "orders.read"), connect.CodeNotFound, ReasonMemberUnknown)
		requireFault(t, h.remove(t, by, id), connect.CodeNotFound, ReasonMemberUnknown)
	}
}

// The access token may be minutes behind: what counts is what the member
// holds now.
func TestAMemberWhoLostThePermissionLosesItAtOnce(t *testing.T) {
	t.Parallel()
	h := open(t)
	owner := h.joinMerchant(t, "owner@example.com")
	root := h.access(t, "owner@example.com")
	clerk := h.joinMember(t, root, "clerk@example.com", "members.write")
	by := h.access(t, "clerk@example.com")
	_, err := h.members.InviteMember(bearer(t, by), &identityv1.InviteMemberRequest{Email: "friend@example.com", Permissions: []string{"members.write"}})
	require.NoError(t, err)
	invitation := tokenIn(h.mailTo(t, "friend@example.com"))
	require.NoError(t, h.update(t, root, clerk.GetAccountId()))

	require.Equal(t, connect.CodePermissionDenied, connect.CodeOf(h.remove(t, by, owner.GetAccountId())))
	_, err = h.members.InviteMember(bearer(t, by), &identityv1.InviteMemberRequest{Email: "y@example.com"})
	require.Equal(t, connect.CodePermissionDenied, connect.CodeOf(err))
	_, err = h.members.AcceptInvitation(t.Context(), &identityv1.AcceptInvitationRequest{Token: invitation, Password: password, Name: "F"})
	requireFault(t, err, connect.CodeFailedPrecondition, ReasonTokenInvalid)
}

func TestOperatorsMakeStaffAndOperators(t *testing.T) {
	t.Parallel()
	h := open(t)
	by := h.LocalOperatorToken()
	for kind, email := range map[identityv1.AccountKind]string{
		identityv1.AccountKind_ACCOUNT_KIND_STAFF: "staff@example.com", identityv1.AccountKind_ACCOUNT_KIND_OPERATOR: "op@example.com",
	} {
		_, err := h.staff.CreateStaff(bearer(t, by), &identityv1.CreateStaffRequest{Email: email, Kind: kind, Permissions: []string{"orders.read"}})
		require.NoError(t, err)
		self := h.accept(t, tokenIn(h.mailTo(t, email)))
		require.Equal(t, kind, self.GetKind())
		require.Equal(t, []string{"orders.read"}, self.GetPermissions())
		by = h.access(t, email)
		if kind == identityv1.AccountKind_ACCOUNT_KIND_STAFF {
			_, err := h.staff.CreateStaff(bearer(t, by), &identityv1.CreateStaffRequest{Email: "z@example.com", Kind: kind})
			require.Equal(t, connect.CodePermissionDenied, connect.CodeOf(err))
			by = h.LocalOperatorToken()
		}
	}
	// Permissions ride in a header.
	for _, p := range []string{"a.b;operator", "a.b,c", "A.B", "a.b\r\nX: y", "*", ""} {
		_, err := h.staff.CreateStaff(bearer(t, h.LocalOperatorToken()), &identityv1.CreateStaffRequest{
			Email: "w@example.com", Kind: identityv1.AccountKind_ACCOUNT_KIND_STAFF, Permissions: []string{p},
		})
		require.Equal(t, connect.CodeInvalidArgument, connect.CodeOf(err), p)
	}
}
