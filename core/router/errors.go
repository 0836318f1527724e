package router

import (
	"errors"
	"net/http"
	"time"

	"connectrpc.com/connect/v2"
	"connectrpc.com/connect/v2/connecthttp"
	"connectrpc.com/connect/v2/connectproto"

	typev1 "github.com/entrepot/entrepot/proto/entrepot/type/v1"
	"github.com/entrepot/entrepot/sdk/fault"
)

// ErrNotSent is wrapped by errors of calls that certainly had no effect: no
// byte of the request reached a plugin. Any other failure may have happened.
var ErrNotSent = errors.New("router: the request was not sent")

// Reasons of the errors that the kernel itself answers on a call's way.
const (
	ReasonAccessUndeclared  = "ACCESS_UNDECLARED"
	ReasonAccessDenied      = "ACCESS_DENIED"
	ReasonPermissionMissing = "PERMISSION_MISSING"
	ReasonLoginRequired     = "LOGIN_REQUIRED"
	ReasonMethodUnknown     = "METHOD_UNKNOWN"
	ReasonInstanceUnknown   = "INSTANCE_UNKNOWN"
	ReasonNoRoute           = "NO_ROUTE"
	ReasonCapabilityMissing = "CAPABILITY_MISSING"
	ReasonPluginUnavailable = fault.ReasonPluginUnavailable
	ReasonPluginAnswer      = "PLUGIN_ANSWER_INVALID"
	ReasonDeadline          = "DEADLINE_EXCEEDED"
	ReasonBodyTooLarge      = "BODY_TOO_LARGE"
	ReasonLoop              = "CALL_LOOP"
)

// retryAfter is the hint given when a plugin is down: the supervisor's first
// restart takes about this long.
const retryAfter = time.Second

// Fault makes an error of the kernel itself: fault.New with the source KERNEL.
func Fault(code connect.Code, reason, message string, metadata ...string) *connect.Error {
	err := fault.New(code, reason, message, metadata...)
	d, derr := connectproto.NewErrorDetail(&typev1.ErrorSource{Source: typev1.ErrorSource_SOURCE_KERNEL})
	if derr != nil {
		return err
	}
	return err.WithDetail(d)
}

// unavailable is a plugin that is down. The words do not tell why.
func unavailable(instance string, cause error) *connect.Error {
	err := fault.Retry(Fault(connect.CodeUnavailable, ReasonPluginUnavailable, "the service is not available now", "instance", instance), retryAfter)
	return err.WithCause(cause)
}

// UnknownMethod is the answer to a procedure that nothing serves.
func UnknownMethod(procedure string) *connect.Error {
	return Fault(connect.CodeUnimplemented, ReasonMethodUnknown, "nothing here serves the method", "procedure", procedure)
}

var errorWriter = connecthttp.NewErrorWriter()

// WriteError answers a request with an error in the protocol its client
// speaks: Connect unary JSON, a Connect end-of-stream frame, gRPC trailers, or
// gRPC-Web trailers. Only an authored *connect.Error keeps its words.
func WriteError(w http.ResponseWriter, r *http.Request, err error) {
	var ce *connect.Error
	if !errors.As(err, &ce) {
		err = Fault(connect.CodeInternal, "INTERNAL", "internal error")
	}
	// A failed write means that the client is gone: nobody is left to tell.
	_ = errorWriter.Write(w, r, err)
}
