package identity

import (
	"context"
	"fmt"
	"runtime"
	"sync/atomic"
	"time"

	"connectrpc.com/connect/v2"
	"github.com/alexedwards/argon2id"
	"golang.org/x/text/unicode/norm"

	"github.com/entrepot/entrepot/sdk/fault"
)

// Hashing is made dear on purpose, so it must not be had for free: at most
// one a core runs, at most queuePerCore wait, none waits longer than maxWait.
const (
	queuePerCore = 64
	maxWait      = 5 * time.Second
)

// passwords hashes and compares with argon2id.
type passwords struct {
	params *argon2id.Params
	// dummy is compared against where there is no account, so that the work
	// is the same.
	dummy string
	slots chan struct{}
	queue chan struct{}
	// done counts hash operations.
	done atomic.Int64
}

func newPasswords(memoryKiB, iterations uint32) (*passwords, error) {
	cores := runtime.GOMAXPROCS(0)
	p := &passwords{
		params: &argon2id.Params{Memory: memoryKiB, Iterations: iterations, Parallelism: 1, SaltLength: 16, KeyLength: 32},
		slots:  make(chan struct{}, cores),
		queue:  make(chan struct{}, cores*queuePerCore),
	}
	var err error
	if p.dummy, err = argon2id.CreateHash(string(random(16)), p.params); err != nil {
		return nil, fmt.Errorf("identity: argon2id: %w", err)
	}
	return p, nil
}

// hash makes the form in which a password is stored.
func (p *passwords) hash(ctx context.Context, password string) (hash string, err error) {
	err = p.run(ctx, func() error {
		hash, err = argon2id.CreateHash(canonical(password), p.params)
		return err
	})
	return hash, err
}

// matches compares a password with a stored hash. An empty hash, which stands
// for no account, costs the same and never matches.
func (p *passwords) matches(ctx context.Context, password, hash string) (ok bool, err error) {
	known := hash != ""
	if !known {
		hash = p.dummy
	}
	err = p.run(ctx, func() error {
		ok, err = argon2id.ComparePasswordAndHash(canonical(password), hash)
		return err
	})
	return ok && known, err
}

// canonical makes one password of the different bytes that keyboards send for
// it (NIST SP 800-63B 5.1.1.2).
func canonical(password string) string { return norm.NFKC.String(password) }

func (p *passwords) run(ctx context.Context, work func() error) error {
	select {
	case p.queue <- struct{}{}:
		defer func() { <-p.queue }()
	default:
		return errBusy()
	}
	wait := time.NewTimer(maxWait)
	defer wait.Stop()
	select {
	case p.slots <- struct{}{}:
		defer func() { <-p.slots }()
	case <-wait.C:
		return errBusy()
	case <-ctx.Done():
		return ctx.Err()
	}
	p.done.Add(1)
	if err := work(); err != nil {
		return fmt.Errorf("identity: argon2id: %w", err)
	}
	return nil
}

func errBusy() error {
	return fault.Retry(fault.New(connect.CodeResourceExhausted, ReasonThrottled, "too many logins at this moment"), maxWait)
}
