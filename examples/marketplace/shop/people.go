package shop

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	identityv1 "github.com/entrepot/entrepot/proto/entrepot/identity/v1"
	"github.com/entrepot/entrepot/proto/entrepot/identity/v1/identityv1connect"
	typev1 "github.com/entrepot/entrepot/proto/entrepot/type/v1"

	"github.com/entrepot/entrepot/examples/marketplace/trade"
)

// password of everybody in the demo.
const password = "correct horse battery staple"

// Person is a merchant's owner or a consumer, logged in.
type Person struct {
	Caller
	Self *identityv1.Self
	Mail string
	// Home is where a consumer has parcels sent.
	Home *typev1.Address
}

func (s *Shop) identity(c Caller) identityv1connect.IdentityServiceClient {
	return identityv1connect.NewIdentityServiceClient(c.Client())
}

// Merchant registers an enterprise and logs its owner in.
func (s *Shop) Merchant(ctx context.Context, n int) (*Person, error) {
	p := &Person{Caller: s.Guest("GB"), Mail: fmt.Sprintf("owner-%d@merchant.example", n)}
	names := []string{"Albion Gifts", "Harbour & Sons", "Northern Lights", "The Paper Press"}
	_, err := Patient(ctx, func(ctx context.Context) (*identityv1.RegisterMerchantResponse, error) {
		return s.identity(p.Caller).RegisterMerchant(ctx, &identityv1.RegisterMerchantRequest{
			Email: p.Mail, Password: password, Name: fmt.Sprintf("Owner %d", n), MerchantName: names[n%len(names)], CountryCode: "GB",
		})
	})
	if err != nil {
		return nil, fmt.Errorf("register merchant: %w", err)
	}
	return p, s.enter(ctx, p)
}

// Consumer registers a consumer of a market and logs in.
func (s *Shop) Consumer(ctx context.Context, n int, market string) (*Person, error) {
	who := trade.Invoice{Market: market, Customer: strconv.Itoa(n)}.Consumer()
	p := &Person{Caller: s.Guest(market), Mail: who.Email, Home: who.Address}
	_, err := Patient(ctx, func(ctx context.Context) (*identityv1.RegisterConsumerResponse, error) {
		return s.identity(p.Caller).RegisterConsumer(ctx, &identityv1.RegisterConsumerRequest{
			Email: p.Mail, Password: password, Name: who.Name, Market: market,
		})
	})
	if err != nil {
		return nil, fmt.Errorf("register consumer: %w", err)
	}
	return p, s.enter(ctx, p)
}

// enter confirms the registration with the mailed token and logs in.
func (s *Shop) enter(ctx context.Context, p *Person) error {
	token, err := s.mailed(ctx, p.Mail)
	if err != nil {
		return err
	}
	self, err := Patient(ctx, func(ctx context.Context) (*identityv1.ConfirmRegistrationResponse, error) {
		return s.identity(p.Caller).ConfirmRegistration(ctx, &identityv1.ConfirmRegistrationRequest{Token: token})
	})
	if err != nil {
		return fmt.Errorf("confirm %s: %w", p.Mail, err)
	}
	p.Self = self.GetSelf()
	return s.Login(ctx, p)
}

// Login gives a person a fresh access token.
func (s *Shop) Login(ctx context.Context, p *Person) error {
	in, err := Patient(ctx, func(ctx context.Context) (*identityv1.LoginResponse, error) {
		return s.identity(s.Guest(p.Market)).Login(ctx, &identityv1.LoginRequest{Email: p.Mail, Password: password})
	})
	if err != nil {
		return fmt.Errorf("login %s: %w", p.Mail, err)
	}
	if token := in.GetTokens().GetAccessToken(); p.token == nil {
		p.Caller = p.with(token)
	} else {
		p.token.Store(&token)
	}
	return nil
}

// mailed waits for the mail to an address and reads its token.
func (s *Shop) mailed(ctx context.Context, to string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	seen := make(map[string]bool)
	for {
		files, err := filepath.Glob(filepath.Join(s.Dir, "data", "mail", "*.eml"))
		if err != nil {
			return "", err
		}
		for _, f := range files {
			if seen[f] {
				continue
			}
			seen[f] = true
			b, err := os.ReadFile(f)
			if err != nil {
				return "", err
			}
			if token, ok := tokenFor(string(b), to); ok {
				return token, nil
			}
		}
		select {
		case <-ctx.Done():
			return "", errors.New("no mail came to " + to)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

func tokenFor(mail, to string) (string, bool) {
	head, body, _ := strings.Cut(strings.ReplaceAll(mail, "\r\n", "\n"), "\n\n")
	if !strings.Contains(head, to) {
		return "", false
	}
	for _, line := range strings.Split(body, "\n") {
		if token, ok := strings.CutPrefix(line, "token: "); ok {
			return strings.TrimSpace(token), true
		}
	}
	return "", false
}

// side runs n jobs, a few at a time.
func side(ctx context.Context, n, width int, job func(ctx context.Context, i int) error) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(width)
	for i := range n {
		g.Go(func() error { return job(ctx, i) })
	}
	return g.Wait()
}
