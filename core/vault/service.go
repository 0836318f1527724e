package vault

import (
	"context"
	"slices"

	"connectrpc.com/connect/v2"

	kernelv1 "github.com/entrepot/entrepot/proto/entrepot/kernel/v1"
	"github.com/entrepot/entrepot/proto/entrepot/kernel/v1/kernelv1connect"
	"github.com/entrepot/entrepot/sdk/fault"
)

var _ kernelv1connect.VaultServiceHandler = (*Vault)(nil)

// Seal implements VaultService: any plugin may hand over what it was told.
func (v *Vault) Seal(ctx context.Context, req *kernelv1.SealRequest) (*kernelv1.SealResponse, error) {
	if _, err := v.caller(ctx); err != nil {
		return nil, err
	}
	return v.seal(ctx, v.pool, req.GetSubjectId(), req.GetItems())
}

// Reveal implements VaultService. Its purpose must be one of the caller's.
func (v *Vault) Reveal(ctx context.Context, req *kernelv1.RevealRequest) (*kernelv1.RevealResponse, error) {
	c, err := v.caller(ctx)
	if err != nil {
		return nil, err
	}
	if !slices.Contains(c.Reveals, req.GetPurpose()) {
		return nil, fault.New(connect.CodePermissionDenied, ReasonPurposeMissing,
			"the manifest does not name this purpose under reveals", "purpose", req.GetPurpose())
	}
	items, err := v.reveal(ctx, c.Plugin, req.GetPurpose(), req.GetRefs())
	if err != nil {
		return nil, err
	}
	res := &kernelv1.RevealResponse{Items: make([]*kernelv1.Revealed, len(items))}
	for i, r := range items {
		res.Items[i] = &kernelv1.Revealed{Ref: r.Ref, Kind: r.Kind, Plaintext: r.Plaintext, Erased: r.Erased}
	}
	return res, nil
}

func (v *Vault) caller(ctx context.Context) (Caller, error) {
	if v.callerFrom != nil {
		if c, ok := v.callerFrom(ctx); ok {
			return c, nil
		}
	}
	return Caller{}, connect.NewError(connect.CodePermissionDenied, "the vault answers plugins only")
}
