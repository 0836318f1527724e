package plugintest

import (
	"context"
	"strings"

	"connectrpc.com/connect/v2"

	kernelv1 "github.com/entrepot/entrepot/proto/entrepot/kernel/v1"
	"github.com/entrepot/entrepot/sdk/fault"
)

// Instances binds instances to a contract in every market, best first: what
// the plugin lists. Without it nothing is bound. Calls to them reach the one
// fake of the contract, which finds in call.From who was meant.
func Instances(contract string, all ...*kernelv1.Instance) Option {
	return func(o *options) {
		if o.instances == nil {
			o.instances = make(map[string][]*kernelv1.Instance)
		}
		o.instances[contract] = all
	}
}

// bound lists instances as the options bind them.
type bound struct {
	module *Module
	all    map[string][]*kernelv1.Instance
}

func (b *bound) ListInstances(_ context.Context, req *kernelv1.ListInstancesRequest) (*kernelv1.ListInstancesResponse, error) {
	if !has(b.module.manifest.GetCalls(), req.GetContract()) {
		return nil, fault.New(connect.CodePermissionDenied, "SCOPE_MISSING", "the manifest does not list the contract under calls", "contract", req.GetContract())
	}
	return &kernelv1.ListInstancesResponse{Instances: b.all[req.GetContract()]}, nil
}

// serves tells whether a server has a service already: a test's own fake
// stands in for the kernel's.
func serves(s *connect.Server, service string) bool {
	for spec := range s.Specs() {
		if strings.HasPrefix(spec.Procedure, "/"+service+"/") {
			return true
		}
	}
	return false
}
