package supervisor

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"sync"

	"buf.build/go/protovalidate"
	"connectrpc.com/connect/v2"

	"github.com/entrepot/entrepot/core/registry"
	pluginv1 "github.com/entrepot/entrepot/proto/entrepot/plugin/v1"
)

// launch brings a process to where it can serve: verified, started, described,
// compared with what the operator granted, admitted, configured, checked.
func (u *unit) launch(ctx context.Context) (_ *process, _ health, err error) {
	defer func() {
		if err != nil {
			err = told{err}
		}
	}()
	path, err := u.spec.Verify()
	if err != nil {
		return nil, health{}, err
	}
	p, err := u.spawn(ctx, path)
	if err != nil {
		return nil, health{}, crash{err}
	}
	h, err := u.prepare(ctx, p)
	if err != nil {
		// A call that broke off may be seen before the end of the process is.
		if connect.CodeOf(err) == connect.CodeUnavailable && within(p.exit, lastWords) || p.gone() {
			err = crash{fmt.Errorf("%w: %w", err, p.epitaph())}
		}
		p.end()
		return nil, health{}, err
	}
	return p, h, nil
}

func (u *unit) prepare(ctx context.Context, p *process) (health, error) {
	if err := u.describe(ctx, p); err != nil {
		return health{}, crash{fmt.Errorf("describe: %w", err)}
	}
	pctx, cancel := context.WithTimeout(ctx, p.pace.prepare)
	defer cancel()
	var err error
	if p.requests, err = u.sup.cfg.Prepare(pctx, u.spec.Name, p.describe); err != nil {
		return health{}, err
	}
	// It is what was granted: it may ask the kernel now, also while it is
	// configured.
	p.admit(u.sup.cfg.HostHandler(u.spec.Name))
	for _, req := range p.requests {
		if err := configure(ctx, p, req); err != nil {
			return health{}, fmt.Errorf("instance %s: %w", req.GetInstance(), err)
		}
	}
	return p.check(ctx)
}

// describe asks what the process is and holds the answer to the limits of the
// contract.
func (u *unit) describe(ctx context.Context, p *process) error {
	ctx, cancel := context.WithTimeout(ctx, p.pace.describe)
	defer cancel()
	d, err := p.life.Describe(ctx, &pluginv1.DescribeRequest{})
	if err != nil {
		return err
	}
	if d.GetManifest() == nil {
		return errors.New("no manifest")
	}
	if err := protovalidate.Validate(d); err != nil {
		return err
	}
	if d.GetManifest().GetName() != u.spec.Name {
		return fmt.Errorf("the binary is plugin %q, the deployment names it %q", d.GetManifest().GetName(), u.spec.Name)
	}
	p.describe = d
	p.schema, err = registry.ReadSchema(d)
	return err
}

func configure(ctx context.Context, p *process, req *pluginv1.ConfigureRequest) error {
	ctx, cancel := context.WithTimeout(ctx, p.pace.configure)
	defer cancel()
	found, err := p.life.ValidateConfig(ctx, &pluginv1.ValidateConfigRequest{Instance: req.GetInstance(), Config: req.GetConfig()})
	if err != nil {
		return fmt.Errorf("validate: %w", err)
	}
	var wrong []string
	for _, d := range found.GetDiagnostics() {
		if d.GetSeverity() == pluginv1.Diagnostic_SEVERITY_ERROR {
			wrong = append(wrong, strings.TrimSpace(d.GetField()+" "+d.GetMessage()))
		}
	}
	if len(wrong) > 0 {
		return fmt.Errorf("configuration: %s", strings.Join(wrong, "; "))
	}
	if _, err := p.life.Configure(ctx, req); err != nil {
		return fmt.Errorf("configure: %w", err)
	}
	return nil
}

// told is an error with words of a plugin in it: bounded.
type told struct{ error }

func (t told) Error() string { return brief(t.error.Error()) }
func (t told) Unwrap() error { return t.error }

// health is what the instances of a process answered to a check.
type health struct {
	// ill has the reason of each instance that is not well.
	ill map[string]string
	// failed is the reason of one that cannot work at all.
	failed string
}

func (h health) equal(o health) bool { return h.failed == o.failed && maps.Equal(h.ill, o.ill) }

// check asks every instance at once how it is. An error means that the process
// did not answer.
func (p *process) check(ctx context.Context) (health, error) {
	ctx, cancel := context.WithTimeout(ctx, p.pace.check)
	defer cancel()
	h := health{ill: map[string]string{}}
	var (
		mu   sync.Mutex
		errs error
		wg   sync.WaitGroup
	)
	for _, req := range p.requests {
		wg.Go(func() {
			res, err := p.life.Check(ctx, &pluginv1.CheckRequest{Instance: req.GetInstance()})
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				errs = errors.Join(errs, fmt.Errorf("check of instance %s: %w", req.GetInstance(), err))
				return
			}
			if res.GetStatus() == pluginv1.CheckResponse_STATUS_OK {
				return
			}
			reason := brief(strings.TrimSpace(res.GetReason() + " " + res.GetMessage()))
			h.ill[req.GetInstance()] = reason
			if res.GetStatus() != pluginv1.CheckResponse_STATUS_DEGRADED {
				h.failed = fmt.Sprintf("instance %s: %s", req.GetInstance(), reason)
			}
		})
	}
	wg.Wait()
	return h, errs
}
