package shop

import (
	"context"
	"fmt"

	identityv1 "github.com/entrepot/entrepot/proto/entrepot/identity/v1"
	"github.com/entrepot/entrepot/proto/entrepot/identity/v1/identityv1connect"
)

// Staff are the marketplace's own people, by what they do.
type Staff struct {
	// Inspectors look at goods: two of them, since nobody decides alone. The
	// first proposes, the second orders destructions.
	Inspectors [2]*Person
	// Chief confirms verdicts and destructions.
	Chief *Person
	// Desk answers for orders, cases and money.
	Desk *Person
	// Floor receives, puts away, picks, packs and hands over; Returns takes
	// back what consumers send.
	Floor, Returns *Person
}

// Hire has the operator make accounts of staff, who choose their passwords by
// the mail they get.
func (s *Shop) Hire(ctx context.Context, step func(n int)) (*Staff, error) {
	st := &Staff{}
	jobs := []struct {
		who         **Person
		name        string
		permissions []string
	}{
		{&st.Inspectors[0], "inspector-1", []string{"inspection.read", "inspection.write", "inspection.destroy"}},
		{&st.Inspectors[1], "inspector-2", []string{"inspection.read", "inspection.write"}},
		{&st.Chief, "chief", []string{"inspection.read", "inspection.write", "inspection.confirm", "inspection.destroy"}},
		{&st.Desk, "desk", []string{"order.read", "order.write", "aftersale.read", "aftersale.write", "payment.read", "payment.write", "analytics.read"}},
		{&st.Floor, "floor", []string{"stock.read", "stock.write", "inspection.read", "logistics.read", "logistics.write", "order.write"}},
		{&st.Returns, "returns", []string{"stock.read", "returns.write", "logistics.read", "logistics.write"}},
	}
	op, err := s.Operator()
	if err != nil {
		return nil, err
	}
	s.Staff = st
	return st, side(ctx, len(jobs), 2, func(ctx context.Context, i int) error {
		j := jobs[i]
		defer step(1)
		p := &Person{Caller: s.Guest(""), Mail: j.name + "@entrepot.example"}
		_, err := Patient(Keyed(ctx), func(ctx context.Context) (*identityv1.CreateStaffResponse, error) {
			return identityv1connect.NewStaffServiceClient(op.Client()).CreateStaff(ctx, &identityv1.CreateStaffRequest{
				Email: p.Mail, Kind: identityv1.AccountKind_ACCOUNT_KIND_STAFF, Permissions: j.permissions,
			})
		})
		if err != nil {
			return fmt.Errorf("hire %s: %w", j.name, err)
		}
		token, err := s.mailed(ctx, p.Mail)
		if err != nil {
			return err
		}
		if _, err := Patient(ctx, func(ctx context.Context) (*identityv1.AcceptInvitationResponse, error) {
			return identityv1connect.NewMemberServiceClient(p.Client()).AcceptInvitation(ctx, &identityv1.AcceptInvitationRequest{
				Token: token, Password: password, Name: j.name,
			})
		}); err != nil {
			return fmt.Errorf("hire %s: %w", j.name, err)
		}
		*j.who = p
		return s.Login(ctx, p)
	})
}
