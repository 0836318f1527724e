package router

import (
	"connectrpc.com/connect/v2"

	optionsv1 "github.com/entrepot/entrepot/proto/entrepot/options/v1"
	"github.com/entrepot/entrepot/sdk/call"
)

// Permit tells whether a method's access rule admits a principal, and with
// which error it does not. byPlugin is true when a plugin makes the call on
// its socket: only then AUDIENCE_PLUGIN counts. A method without a rule is
// refused to everybody.
func Permit(rule *optionsv1.Access, p call.Principal, byPlugin bool) *connect.Error {
	if len(rule.GetAllow()) == 0 {
		return Fault(connect.CodePermissionDenied, ReasonAccessUndeclared, "the method declares nobody who may call it")
	}
	lacking, login := false, false
	for _, a := range rule.GetAllow() {
		kind, ok := audience(a, byPlugin)
		switch {
		case !ok:
			continue
		case a == optionsv1.Audience_AUDIENCE_PUBLIC, a == optionsv1.Audience_AUDIENCE_PLUGIN:
			return nil
		case p.Kind != kind:
			login = login || p.Kind == call.Nobody
		case kind != call.Merchant && kind != call.Staff, p.May(rule.GetPermission()):
			return nil
		default:
			lacking = true
		}
	}
	switch {
	case lacking:
		return Fault(connect.CodePermissionDenied, ReasonPermissionMissing,
			"this needs the permission "+rule.GetPermission(), "permission", rule.GetPermission())
	case login:
		return Fault(connect.CodeUnauthenticated, ReasonLoginRequired, "log in first: the header Authorization holds no token")
	default:
		return Fault(connect.CodePermissionDenied, ReasonAccessDenied, "this is not for "+described(p.Kind))
	}
}

// audience is the kind of principal an audience stands for; false for one
// that does not count here.
func audience(a optionsv1.Audience, byPlugin bool) (call.Kind, bool) {
	switch a {
	case optionsv1.Audience_AUDIENCE_PUBLIC:
		return call.Nobody, true
	case optionsv1.Audience_AUDIENCE_CONSUMER:
		return call.Consumer, true
	case optionsv1.Audience_AUDIENCE_MERCHANT:
		return call.Merchant, true
	case optionsv1.Audience_AUDIENCE_STAFF:
		return call.Staff, true
	case optionsv1.Audience_AUDIENCE_OPERATOR:
		return call.Operator, true
	case optionsv1.Audience_AUDIENCE_PLUGIN:
		return call.Plugin, byPlugin
	default:
		return call.Nobody, false
	}
}

func described(k call.Kind) string {
	switch k {
	case call.Nobody:
		return "callers from outside"
	case call.Merchant:
		return "merchants"
	case call.Staff:
		return "staff"
	default:
		return string(k) + "s"
	}
}
