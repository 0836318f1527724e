// Package fault makes the errors that cross a contract: a Connect code, a
// reason a program can act on, words for people, and where it arose. What is
// not made here reaches no client with its text.
package fault

import (
	"errors"
	"time"

	"connectrpc.com/connect/v2"
	"connectrpc.com/connect/v2/connectproto"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"

	typev1 "github.com/entrepot/entrepot/proto/entrepot/type/v1"
)

// Domain is the ErrorInfo domain of Entrepot's own reasons.
const Domain = "entrepot"

// Reasons that the kernel and the SDK give themselves. Contracts name theirs.
const (
	ReasonIdempotencyKeyRequired = "IDEMPOTENCY_KEY_REQUIRED"
	ReasonIdempotencyKeyReused   = "IDEMPOTENCY_KEY_REUSED"
	ReasonInProgress             = "IN_PROGRESS"
	ReasonOutcomeUnknown         = "OUTCOME_UNKNOWN"
	ReasonPluginUnavailable      = "PLUGIN_UNAVAILABLE"
	ReasonStaleDelivery          = "STALE_DELIVERY"
	ReasonStaleSaga              = "STALE_SAGA"
	ReasonUndone                 = "UNDONE"
)

// New makes an error with a reason in upper snake case. metadata comes in
// pairs of key and value.
func New(code connect.Code, reason, message string, metadata ...string) *connect.Error {
	info := &errdetails.ErrorInfo{Reason: reason, Domain: Domain}
	for i := 0; i+1 < len(metadata); i += 2 {
		if info.Metadata == nil {
			info.Metadata = make(map[string]string, len(metadata)/2)
		}
		info.Metadata[metadata[i]] = metadata[i+1]
	}
	return with(connect.NewError(code, message), info)
}

// Retry adds how long to wait before the call is tried again.
func Retry(err *connect.Error, after time.Duration) *connect.Error {
	return with(err, &errdetails.RetryInfo{RetryDelay: durationpb.New(after)})
}

// Downstream marks an error as one of a company or system outside, so that it
// is not counted as the plugin's own.
func Downstream(err *connect.Error) *connect.Error {
	return with(err, &typev1.ErrorSource{Source: typev1.ErrorSource_SOURCE_DOWNSTREAM})
}

// Field makes invalid_argument with one field violation.
func Field(field, description string) *connect.Error {
	err := connect.NewError(connect.CodeInvalidArgument, field+": "+description)
	return with(err, &errdetails.BadRequest{FieldViolations: []*errdetails.BadRequest_FieldViolation{
		{Field: field, Description: description},
	}})
}

// Info returns the ErrorInfo of an error, and false when it has none.
func Info(err error) (*errdetails.ErrorInfo, bool) {
	return Detail[*errdetails.ErrorInfo](err)
}

// Reason returns the reason of an error, empty when it has none.
func Reason(err error) string {
	info, _ := Info(err)
	return info.GetReason()
}

// IsDownstream tells whether an error arose outside.
func IsDownstream(err error) bool {
	s, ok := Detail[*typev1.ErrorSource](err)
	return ok && s.GetSource() == typev1.ErrorSource_SOURCE_DOWNSTREAM
}

// Detail returns the first detail of an error that is a T.
func Detail[T proto.Message](err error) (T, bool) {
	var zero T
	var ce *connect.Error
	if !errors.As(err, &ce) {
		return zero, false
	}
	for _, d := range ce.Details() {
		m, err := connectproto.UnmarshalErrorDetail(d)
		if err != nil {
			continue
		}
		if t, ok := m.(T); ok {
			return t, true
		}
	}
	return zero, false
}

// Status is an error as it is stored and sent between processes. An error
// that nobody authored keeps its code alone.
func Status(err error) *spb.Status {
	var ce *connect.Error
	if !errors.As(err, &ce) {
		return &spb.Status{Code: int32(connect.CodeOf(err))}
	}
	st := &spb.Status{Code: int32(ce.Code()), Message: ce.Message()}
	for _, d := range ce.Details() {
		m, err := connectproto.UnmarshalErrorDetail(d)
		if err != nil {
			continue
		}
		if a, err := anypb.New(m); err == nil {
			st.Details = append(st.Details, a)
		}
	}
	return st
}

// FromStatus makes the error of a status; details of unknown types are left
// out.
func FromStatus(st *spb.Status) *connect.Error {
	err := connect.NewError(connect.Code(st.GetCode()), st.GetMessage())
	for _, d := range st.GetDetails() {
		if m, e := d.UnmarshalNew(); e == nil {
			err = with(err, m)
		}
	}
	return err
}

func with(err *connect.Error, detail proto.Message) *connect.Error {
	d, derr := connectproto.NewErrorDetail(detail)
	if derr != nil {
		// Only a message that cannot be marshalled gets here: ours can.
		return err
	}
	return err.WithDetail(d)
}
