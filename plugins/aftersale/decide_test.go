package main

import (
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect/v2"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	aftersalev1 "github.com/entrepot/entrepot/proto/entrepot/aftersale/v1"
	"github.com/entrepot/entrepot/sdk/id"
)

const (
	returning  = aftersalev1.Kind_KIND_RETURN
	withdrawal = aftersalev1.Kind_KIND_WITHDRAWAL
)

func day(t *testing.T, s string) time.Time {
	t.Helper()
	d, err := time.Parse(time.RFC3339, s)
	require.NoError(t, err)
	return d
}

func TestAPeriodEndsWithAWorkingDayOfTheMarket(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		delivered string
		days      int32
		market    string
		want      string
	}{
		// Delivered on a Monday: the fourteenth day after it is a Monday.
		{"2026-11-02T09:00:00Z", 14, "DE", "2026-11-16T23:00:00Z"},
		// On a Saturday: it ends on a Saturday, so on the Monday after.
		{"2026-11-07T09:00:00Z", 14, "DE", "2026-11-23T23:00:00Z"},
		// On a Sunday likewise.
		{"2026-11-08T09:00:00Z", 14, "DE", "2026-11-23T23:00:00Z"},
		// Late in the evening in London is the next day in Berlin.
		{"2026-11-02T23:30:00Z", 14, "GB", "2026-11-17T00:00:00Z"},
		{"2026-11-02T23:30:00Z", 14, "DE", "2026-11-17T23:00:00Z"},
		// Over the change of the clocks.
		{"2026-10-20T09:00:00Z", 14, "DE", "2026-11-03T23:00:00Z"},
		{"2026-11-02T16:00:00Z", 8, "JP", "2026-11-11T15:00:00Z"},
		{"2026-11-02T16:00:00Z", 14, "ZZ", "2026-11-17T00:00:00Z"},
	} {
		require.Equal(t, day(t, c.want), lastMoment(day(t, c.delivered), c.days, c.market).UTC(), "%+v", c)
	}
}

func TestWhatTheLawAndTheTermsGive(t *testing.T) {
	t.Parallel()
	h := open(t)
	_, err := h.seller.PutPolicy(t.Context(), &aftersalev1.PutPolicyRequest{Policy: &aftersalev1.Policy{ReturnDays: 20}})
	require.NoError(t, err)
	got := func(market string, placed, days int) map[aftersalev1.Kind]string {
		order := h.place(t, h.ann.principal.Account, market, time.Now().AddDate(0, 0, -placed), 0, tea(1))
		f, s := h.send(t, order, id.New("frq"), tea(1))
		h.arrive(t, order, f, s, time.Now().AddDate(0, 0, -days))
		res, err := h.ann.CheckApplication(t.Context(), &aftersalev1.CheckApplicationRequest{OrderId: order})
		require.NoError(t, err)
		out := map[aftersalev1.Kind]string{}
		for _, k := range res.GetLines()[0].GetKinds() {
			out[k.GetKind()] = k.GetRefusal()
			if k.GetRefusal() == "" && k.GetUntil() != nil {
				require.True(t, k.GetUntil().AsTime().After(time.Now()))
			}
		}
		return out
	}
	fresh := got("DE", 5, 2)
	for k, refusal := range fresh {
		require.Empty(t, refusal, k)
	}
	later := got("DE", 30, 18)
	require.Equal(t, "OUT_OF_PERIOD", later[withdrawal])
	require.Empty(t, later[returning], "the merchant's terms are longer")
	late := got("GB", 100, 90)
	require.Equal(t, "OUT_OF_PERIOD", late[returning])
	require.Empty(t, late[aftersalev1.Kind_KIND_REPAIR], "goods are to be as agreed for longer")
	tokyo := got("JP", 5, 2)
	require.Equal(t, "NO_RIGHT", tokyo[withdrawal], "no law there gives it")
	require.Empty(t, tokyo[returning], "the terms do")

	_, err = h.staff.PutRight(t.Context(), &aftersalev1.PutRightRequest{Right: &aftersalev1.Right{
		Market: "JP", What: aftersalev1.Right_WHAT_WITHDRAWAL, Days: 8, ValidFrom: timestamppb.New(time.Now().AddDate(0, 0, -10)), Source: "a law to come",
	}})
	require.NoError(t, err)
	require.Empty(t, got("JP", 5, 2)[withdrawal])
	require.Equal(t, "NO_RIGHT", got("JP", 12, 2)[withdrawal], "an order has the rights of its day")
	rights, err := h.guest.ListRights(t.Context(), &aftersalev1.ListRightsRequest{Market: "DE"})
	require.NoError(t, err)
	require.Len(t, rights.GetRights(), 2)
}

func TestGoodsOrderedTogetherAreWithdrawnFromUntilAfterTheLastOfThem(t *testing.T) {
	t.Parallel()
	h := open(t)
	order := h.place(t, h.ann.principal.Account, "DE", time.Now().AddDate(0, 0, -40), 0, tea(2))
	f, s := h.send(t, order, id.New("frq"), tea(1))
	h.arrive(t, order, f, s, time.Now().AddDate(0, 0, -30))
	_, err := h.ann.Apply(t.Context(), application(order, withdrawal, 0, "sku_tea", 1))
	refusedAs(t, "OUT_OF_PERIOD", err)
	f, s = h.send(t, order, id.New("frq"), tea(1))
	h.arrive(t, order, f, s, time.Now().AddDate(0, 0, -2))
	c := h.apply(t, application(order, withdrawal, 0, "sku_tea", 2))
	require.Equal(t, "WITHIN_PERIOD", c.GetDecision().GetReasonCode())
	require.Len(t, published[*aftersalev1.ApplicationOpened](t, h), 1)
}

func TestAnApplicationIsMadeOnceAndOnlyByWhoBought(t *testing.T) {
	t.Parallel()
	h := open(t)
	order := h.delivered(t, 1, 0, tea(2), bought{sku: "sku_cup", quantity: 1, price: 500})
	req := application(order, returning, aftersalev1.Reason_REASON_CHANGED_MIND, "sku_tea", 1)
	first := h.apply(t, req)
	again := proto.CloneOf(req)
	again.Text = "in other words"
	require.Equal(t, first.GetCaseId(), h.apply(t, again).GetCaseId())
	again.Kind = aftersalev1.Kind_KIND_EXCHANGE
	_, err := h.ann.Apply(t.Context(), again)
	refusedAs(t, "APPLICATION_DIFFERS", err)

	for reason, r := range map[string]*aftersalev1.ApplyRequest{
		"NOT_BOUGHT":        application(order, returning, 0, "sku_pot", 1),
		"CLAIMED_BEFORE":    application(order, returning, 0, "sku_tea", 2),
		"SEVERAL_MERCHANTS": {ApplicationId: "two", OrderId: order, Kind: returning, Lines: []*aftersalev1.ApplyLine{{Sku: "sku_tea", Quantity: 1}, {Sku: "sku_cup", Quantity: 1}}},
	} {
		_, err := h.ann.Apply(t.Context(), r)
		refusedAs(t, reason, err)
	}
	for _, r := range []*aftersalev1.ApplyRequest{
		{ApplicationId: "a", OrderId: order, Kind: returning, Lines: []*aftersalev1.ApplyLine{{Sku: "sku_tea", Quantity: 1}, {Sku: "sku_tea", Quantity: 1}}},
		{ApplicationId: "a", OrderId: order, Kind: returning, Remedy: aftersalev1.Remedy_REMEDY_REPAIR, Lines: []*aftersalev1.ApplyLine{{Sku: "sku_tea", Quantity: 1}}},
		{ApplicationId: "a", OrderId: order, Kind: returning, Lines: []*aftersalev1.ApplyLine{{Sku: "sku_tea", Quantity: 2, UnitIds: []string{"u"}}}},
		{ApplicationId: "a", OrderId: order, Kind: returning, Lines: []*aftersalev1.ApplyLine{{Sku: "sku_tea", Quantity: 0}}},
		{ApplicationId: "a", OrderId: order, Kind: returning, BlobIds: []string{"sha256-" + string(make([]byte, 64))}, Lines: []*aftersalev1.ApplyLine{{Sku: "sku_tea", Quantity: 1}}},
	} {
		_, err := h.ann.Apply(t.Context(), r)
		require.Equal(t, connect.CodeInvalidArgument, connect.CodeOf(err), "%v", r)
	}
	_, err = h.eve.Apply(t.Context(), application(order, returning, 0, "sku_tea", 1))
	refusedAs(t, "ORDER_UNKNOWN", err)
	_, err = h.guest.Apply(t.Context(), application(order, returning, 0, "sku_tea", 1))
	refusedAs(t, "ORDER_UNKNOWN", err)
	for _, c := range []caller{h.eve, h.guest, h.other} {
		_, err = c.GetCase(t.Context(), &aftersalev1.GetCaseRequest{CaseId: first.GetCaseId()})
		refusedAs(t, "CASE_UNKNOWN", err)
	}
	_, err = h.other.Decide(t.Context(), &aftersalev1.DecideRequest{CaseId: first.GetCaseId(), Approve: true, ReasonCode: "MINE"})
	refusedAs(t, "CASE_UNKNOWN", err)

	for c, n := range map[*caller]int{&h.ann: 1, &h.seller: 1, &h.staff: 1, &h.eve: 0, &h.other: 0} {
		list, err := c.ListCases(t.Context(), &aftersalev1.ListCasesRequest{OrderId: order, State: aftersalev1.Case_STATE_REQUESTED})
		require.NoError(t, err)
		require.Len(t, list.GetCases(), n)
	}
}

func TestAGuestProvesAnOrderWithTheCartsSecret(t *testing.T) {
	t.Parallel()
	h := open(t)
	order := h.place(t, "", "DE", time.Now(), 0, tea(1))
	f, s := h.send(t, order, id.New("frq"), tea(1))
	h.arrive(t, order, f, s, time.Now())
	h.secrets[order] = "open sesame"
	req := application(order, withdrawal, 0, "sku_tea", 1)
	_, err := h.guest.Apply(t.Context(), req)
	refusedAs(t, "ORDER_UNKNOWN", err)
	req.CartSecret = "open sesame"
	res, err := h.guest.Apply(t.Context(), req)
	require.NoError(t, err)
	got, err := h.guest.GetCase(t.Context(), &aftersalev1.GetCaseRequest{CaseId: res.GetCase().GetCaseId(), CartSecret: "open sesame"})
	require.NoError(t, err)
	require.Equal(t, req.GetText(), got.GetCase().GetText())
	_, err = h.guest.GetCase(t.Context(), &aftersalev1.GetCaseRequest{CaseId: res.GetCase().GetCaseId(), CartSecret: "closed"})
	refusedAs(t, "CASE_UNKNOWN", err)
}

func TestPhotosAreSentBeforeTheyAreNamed(t *testing.T) {
	t.Parallel()
	h := open(t)
	order := h.delivered(t, 1, 0, tea(1))
	grant, err := h.ann.GrantUpload(t.Context(), &aftersalev1.GrantUploadRequest{OrderId: order})
	require.NoError(t, err)
	blob, err := h.Upload(grant.GetPath(), "image/png", []byte("\x89PNG\r\n\x1a\nleaf"))
	require.NoError(t, err)
	req := application(order, aftersalev1.Kind_KIND_DAMAGED_IN_TRANSIT, aftersalev1.Reason_REASON_DAMAGED, "sku_tea", 1)
	req.BlobIds = []string{blob}
	c := h.apply(t, req)
	require.Equal(t, req.GetBlobIds(), c.GetBlobIds())
	ask := &aftersalev1.GetAttachmentRequest{CaseId: c.GetCaseId(), BlobId: blob}
	link, err := h.seller.GetAttachment(t.Context(), ask)
	require.NoError(t, err)
	_, content, ok := h.Download(link.GetPath())
	require.True(t, ok)
	require.Contains(t, string(content), "leaf")
	_, err = h.eve.GetAttachment(t.Context(), ask)
	refusedAs(t, "CASE_UNKNOWN", err)
	ask.BlobId = "sha256-" + strings.Repeat("0", 64)
	_, err = h.seller.GetAttachment(t.Context(), ask)
	refusedAs(t, "ATTACHMENT_UNKNOWN", err)
	_, err = h.seller.GetAttachment(t.Context(), &aftersalev1.GetAttachmentRequest{BlobId: blob})
	require.Equal(t, connect.CodeInvalidArgument, connect.CodeOf(err))
	_, err = h.eve.GrantUpload(t.Context(), &aftersalev1.GrantUploadRequest{OrderId: order})
	refusedAs(t, "ORDER_UNKNOWN", err)
}

func TestWhatIsNotAcceptedMayBeAppliedForAgain(t *testing.T) {
	t.Parallel()
	h := open(t)
	order := h.delivered(t, 1, 0, tea(3))
	c := h.apply(t, application(order, returning, 0, "sku_tea", 3))
	for _, n := range []int64{0, 4} {
		_, err := h.seller.Decide(t.Context(), &aftersalev1.DecideRequest{CaseId: c.GetCaseId(), Approve: true, ReasonCode: "PART", Lines: []*aftersalev1.AcceptedLine{{Sku: "sku_tea", Quantity: n}}})
		require.Equal(t, connect.CodeInvalidArgument, connect.CodeOf(err))
	}
	c = h.approve(t, c.GetCaseId(), &aftersalev1.AcceptedLine{Sku: "sku_tea", Quantity: 1})
	require.Equal(t, aftersalev1.Decision_OUTCOME_PARTLY_APPROVED, c.GetDecision().GetOutcome())
	require.Equal(t, h.approve(t, c.GetCaseId()).GetReturnId(), c.GetReturnId(), "said again, it is the same decision")
	_, err := h.ann.Apply(t.Context(), application(order, returning, 0, "sku_tea", 3))
	refusedAs(t, "CLAIMED_BEFORE", err)
	second := h.apply(t, application(order, returning, 0, "sku_tea", 2))

	res, err := h.seller.Decide(t.Context(), &aftersalev1.DecideRequest{CaseId: second.GetCaseId(), ReasonCode: "USED", Text: "It was brewed."})
	require.NoError(t, err)
	require.Equal(t, aftersalev1.Case_STATE_REJECTED, res.GetCase().GetState())
	got, err := h.ann.GetCase(t.Context(), &aftersalev1.GetCaseRequest{CaseId: second.GetCaseId()})
	require.NoError(t, err)
	require.Equal(t, "It was brewed.", got.GetCase().GetDecision().GetText(), "it is explained")
	require.Equal(t, "USED", got.GetCase().GetDecision().GetReasonCode())

	// The consumer asks the marketplace: whose word is the last.
	esc, err := h.ann.Escalate(t.Context(), &aftersalev1.EscalateRequest{CaseId: second.GetCaseId()})
	require.NoError(t, err)
	require.Equal(t, aftersalev1.Case_STATE_REQUESTED, esc.GetCase().GetState())
	_, err = h.seller.Decide(t.Context(), &aftersalev1.DecideRequest{CaseId: second.GetCaseId(), Approve: true, ReasonCode: "GOODWILL"})
	refusedAs(t, "ESCALATED", err)
	_, err = h.staff.Decide(t.Context(), &aftersalev1.DecideRequest{CaseId: second.GetCaseId(), ReasonCode: "USED"})
	require.NoError(t, err)
	_, err = h.ann.Escalate(t.Context(), &aftersalev1.EscalateRequest{CaseId: second.GetCaseId()})
	refusedAs(t, "CASE_NOT_OPEN", err)
	require.Len(t, published[*aftersalev1.CaseEscalated](t, h), 1)
}

func TestAnOfferIsTakenDeclinedOrLapses(t *testing.T) {
	t.Parallel()
	h := open(t)
	order := h.delivered(t, 1, 0, tea(4))
	offered := func() *aftersalev1.Case {
		c := h.apply(t, application(order, returning, aftersalev1.Reason_REASON_NOT_AS_DESCRIBED, "sku_tea", 1))
		for _, bad := range []int64{0, 1251} {
			_, err := h.seller.Offer(t.Context(), &aftersalev1.OfferRequest{CaseId: c.GetCaseId(), Amount: euros(bad)})
			require.Equal(t, connect.CodeInvalidArgument, connect.CodeOf(err))
		}
		res, err := h.seller.Offer(t.Context(), &aftersalev1.OfferRequest{CaseId: c.GetCaseId(), Amount: euros(400), Text: "Keep it, please."})
		require.NoError(t, err)
		require.Equal(t, aftersalev1.Case_STATE_OFFERED, res.GetCase().GetState())
		return res.GetCase()
	}
	answer := func(c *aftersalev1.Case, accept bool, amount int64) error {
		_, err := h.ann.AnswerOffer(t.Context(), &aftersalev1.AnswerOfferRequest{CaseId: c.GetCaseId(), Accept: accept, Amount: euros(amount)})
		return err
	}
	c := offered()
	refusedAs(t, "OFFER_CHANGED", answer(c, true, 500))
	require.NoError(t, answer(c, true, 400))
	require.NoError(t, answer(c, true, 400), "taken once")
	require.Equal(t, done, h.run(t, c))
	got := h.state(t, c.GetCaseId(), settled)
	require.Equal(t, aftersalev1.Remedy_REMEDY_PARTIAL_REFUND, got.GetRemedy())
	require.EqualValues(t, 400, h.refunded(order))
	require.Empty(t, h.booked, "the goods stay")

	c = offered()
	require.NoError(t, answer(c, false, 400))
	require.Equal(t, aftersalev1.Case_STATE_REQUESTED, h.get(t, c.GetCaseId()).GetCase().GetState())

	c = offered()
	lapse := &aftersalev1.DeadlineReached{SubjectId: c.GetCaseId(), What: deadlineAnswer, Due: c.GetAnswerBy()}
	require.NoError(t, h.Deliver(t.Context(), "deadlines", lapse, lapse))
	h.state(t, c.GetCaseId(), aftersalev1.Case_STATE_REQUESTED)
	refusedAs(t, "CASE_NOT_OPEN", answer(c, true, 400))
	require.EqualValues(t, 400, h.refunded(order))

	// Goods of which a part was paid can still come back, for what is left.
	all := h.approve(t, h.apply(t, application(order, returning, aftersalev1.Reason_REASON_DEFECTIVE, "sku_tea", 2)).GetCaseId())
	h.comeBack(t, all, "sku_tea", 2)
	h.grade(t, all, "sku_tea", 2, asNew, "")
	require.Equal(t, done, h.run(t, all))
	require.EqualValues(t, 2900, h.refunded(order))
}

func TestWhatTheMerchantDoesNotDecideInTimeTheMarketplaceDoes(t *testing.T) {
	t.Parallel()
	h := open(t)
	order := h.delivered(t, 1, 0, tea(2))
	c := h.apply(t, application(order, returning, 0, "sku_tea", 1))
	early := &aftersalev1.DeadlineReached{SubjectId: c.GetCaseId(), What: deadlineDecide, Due: timestamppb.New(c.GetDecideBy().AsTime().Add(-time.Hour))}
	require.NoError(t, h.Deliver(t.Context(), "deadlines", early), "a deadline that was moved means nothing")
	require.False(t, h.get(t, c.GetCaseId()).GetCase().GetEscalated())
	require.NoError(t, h.Deliver(t.Context(), "deadlines", &aftersalev1.DeadlineReached{SubjectId: c.GetCaseId(), What: deadlineDecide, Due: c.GetDecideBy()}))
	require.True(t, h.get(t, c.GetCaseId()).GetCase().GetEscalated())
	queue, err := h.staff.ListCases(t.Context(), &aftersalev1.ListCasesRequest{Escalated: true})
	require.NoError(t, err)
	require.Len(t, queue.GetCases(), 1)
	require.Equal(t, "DECISION_OVERDUE", published[*aftersalev1.CaseEscalated](t, h)[0].GetReason())

	mine := h.apply(t, application(order, returning, 0, "sku_tea", 1))
	for range 2 {
		_, err = h.ann.WithdrawApplication(t.Context(), &aftersalev1.WithdrawApplicationRequest{CaseId: mine.GetCaseId()})
		require.NoError(t, err)
	}
	require.NoError(t, h.Deliver(t.Context(), "deadlines", &aftersalev1.DeadlineReached{SubjectId: mine.GetCaseId(), What: deadlineDecide, Due: mine.GetDecideBy()}))
	h.state(t, mine.GetCaseId(), aftersalev1.Case_STATE_WITHDRAWN)
}

func TestRulesOfAMerchantDecideAtOnce(t *testing.T) {
	t.Parallel()
	h := open(t)
	_, err := h.seller.PutPolicy(t.Context(), &aftersalev1.PutPolicyRequest{Policy: &aftersalev1.Policy{Rules: []*aftersalev1.ApprovalRule{
		{Reasons: []aftersalev1.Reason{aftersalev1.Reason_REASON_DAMAGED}, AtMost: euros(1250), KeepGoods: true},
		{Kinds: []aftersalev1.Kind{returning}, WithinDays: 5, AtMost: euros(2500)},
	}}})
	require.NoError(t, err)
	_, err = h.other.PutPolicy(t.Context(), &aftersalev1.PutPolicyRequest{MerchantId: "mrc_one", Policy: &aftersalev1.Policy{}})
	require.Equal(t, connect.CodeInvalidArgument, connect.CodeOf(err))
	_, err = h.staff.PutPolicy(t.Context(), &aftersalev1.PutPolicyRequest{Policy: &aftersalev1.Policy{ReturnDays: 60}})
	require.NoError(t, err)
	terms, err := h.guest.GetPolicy(t.Context(), &aftersalev1.GetPolicyRequest{MerchantId: "mrc_one"})
	require.NoError(t, err)
	require.EqualValues(t, 60, terms.GetPolicy().GetReturnDays())
	require.EqualValues(t, 48, terms.GetPolicy().GetDecideHours())
	require.Len(t, terms.GetPolicy().GetRules(), 2)

	fresh, old := h.delivered(t, 1, 0, tea(4)), h.delivered(t, 10, 0, tea(1))
	requested, approved := aftersalev1.Case_STATE_REQUESTED, aftersalev1.Case_STATE_APPROVED
	for _, c := range []struct {
		order    string
		kind     aftersalev1.Kind
		reason   aftersalev1.Reason
		quantity int64
		want     aftersalev1.Case_State
	}{
		{fresh, aftersalev1.Kind_KIND_DAMAGED_IN_TRANSIT, aftersalev1.Reason_REASON_DAMAGED, 1, aftersalev1.Case_STATE_ASSESSED},
		{fresh, returning, aftersalev1.Reason_REASON_CHANGED_MIND, 3, requested},
		{old, returning, aftersalev1.Reason_REASON_CHANGED_MIND, 1, requested},
	} {
		got := h.apply(t, application(c.order, c.kind, c.reason, "sku_tea", c.quantity))
		require.Equal(t, c.want, got.GetState(), "%+v", c)
		if c.want == requested {
			_, err := h.ann.WithdrawApplication(t.Context(), &aftersalev1.WithdrawApplicationRequest{CaseId: got.GetCaseId()})
			require.NoError(t, err)
		}
	}
	got := h.apply(t, application(fresh, returning, aftersalev1.Reason_REASON_CHANGED_MIND, "sku_tea", 2))
	require.Equal(t, approved, got.GetState())
	require.Equal(t, "rule", got.GetDecision().GetDecidedBy())
	_, err = h.RunSagas(t.Context())
	require.NoError(t, err)
	require.EqualValues(t, 1250, h.refunded(fresh), "paid at once, and the goods kept")
}
