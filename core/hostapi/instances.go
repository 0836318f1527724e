package hostapi

import (
	"context"
	"slices"
	"strings"

	"connectrpc.com/connect/v2"

	"github.com/entrepot/entrepot/core/router"
	kernelv1 "github.com/entrepot/entrepot/proto/entrepot/kernel/v1"
	"github.com/entrepot/entrepot/proto/entrepot/kernel/v1/kernelv1connect"
	"github.com/entrepot/entrepot/sdk/call"
)

var _ kernelv1connect.InstanceServiceHandler = (*Instances)(nil)

// Instances serves InstanceService: which instances a plugin can choose from.
// Safe for concurrent use.
type Instances struct {
	router  *router.Router
	markets []string
}

// NewInstances makes the service. markets are the deployment's.
func NewInstances(r *router.Router, markets []string) *Instances {
	return &Instances{router: r, markets: markets}
}

// ListInstances implements InstanceService. A plugin is told of the contracts
// that it may call, and of no others.
func (s *Instances) ListInstances(ctx context.Context, req *kernelv1.ListInstancesRequest) (*kernelv1.ListInstancesResponse, error) {
	c, ok := CallerFrom(ctx)
	if !ok {
		return nil, connect.NewError(connect.CodePermissionDenied, "only plugins choose among instances")
	}
	contract, market := req.GetContract(), req.GetMarket()
	if err := granted(c.Manifest, contract); err != nil {
		return nil, err
	}
	if market == "" {
		market = call.From(ctx).Market
	} else if !slices.Contains(s.markets, market) {
		return nil, unknownMarket(s.markets)
	}
	res := &kernelv1.ListInstancesResponse{}
	for _, b := range s.router.Bound(contract, market, req.GetMerchantId()) {
		out := &kernelv1.Instance{Instance: b.Name, Priority: int32(b.Priority), Weight: int32(b.Weight)}
		if in := b.Instance; in != nil {
			out.Plugin, out.Ready = in.Plugin.Name, in.Healthy && in.Plugin.Process != nil
			for _, served := range in.Plugin.Manifest.GetServes() {
				if served.GetContract() == contract {
					out.Capabilities = served.GetCapabilities()
				}
			}
		}
		res.Instances = append(res.Instances, out)
	}
	return res, nil
}

func unknownMarket(markets []string) *connect.Error {
	return router.Fault(connect.CodeInvalidArgument, ReasonMarketUnknown, "the markets here are "+strings.Join(markets, ", "))
}
