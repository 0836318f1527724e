package router

import (
	"encoding/json"
	"net/http"

	"connectrpc.com/connect/v2"
)

// wireError is the error body of a Connect unary answer
// (connectrpc.com/docs/protocol#error-end-stream).
type wireError struct {
	Code    string       `json:"code"`
	Message string       `json:"message"`
	Details []wireDetail `json:"details"`
}

type wireDetail struct {
	Type  string `json:"type"`
	Value string `json:"value"`
}

// maxDetails bounds what a plugin can make the kernel keep of an error.
const maxDetails = 32

// decodeError reads the error of a Connect unary answer. Whatever stands in
// the body, the result is an error with a code.
func decodeError(status int, body []byte) *connect.Error {
	var w wireError
	if err := json.Unmarshal(body, &w); err != nil {
		return connect.NewError(codeOfHTTP(status), http.StatusText(status)).WithRemote()
	}
	var code connect.Code
	if code.UnmarshalText([]byte(w.Code)) != nil || code < connect.CodeCanceled || code > connect.CodeUnauthenticated {
		code = codeOfHTTP(status)
	}
	err := connect.NewError(code, w.Message)
	for i, d := range w.Details {
		value, derr := connect.DecodeBinaryHeader(d.Value)
		if derr != nil || i >= maxDetails {
			continue
		}
		err = err.WithDetail(&connect.ErrorDetail{Type: d.Type, Value: value})
	}
	return err.WithRemote()
}

// codeOfHTTP is the Connect protocol's table for answers without a readable
// error body.
func codeOfHTTP(status int) connect.Code {
	switch status {
	case http.StatusBadRequest:
		return connect.CodeInternal
	case http.StatusUnauthorized:
		return connect.CodeUnauthenticated
	case http.StatusForbidden:
		return connect.CodePermissionDenied
	case http.StatusNotFound:
		return connect.CodeUnimplemented
	case http.StatusTooManyRequests, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return connect.CodeUnavailable
	default:
		return connect.CodeUnknown
	}
}
