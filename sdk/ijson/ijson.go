// Package ijson reads JSON that all readers read alike (I-JSON, RFC 7493):
// what is signed, hashed or compared must not be understood in two ways.
package ijson

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"strings"
	"unicode/utf8"
)

// ErrAmbiguous is wrapped by errors about JSON that is well-formed, and yet
// read differently by different readers.
var ErrAmbiguous = errors.New("JSON that readers understand differently")

// maxDepth bounds how deep values stand in one another.
const maxDepth = 64

// maxNumber bounds the characters of a number: a double needs far fewer.
const maxNumber = 400

// mantissa is a number without its exponent.
func mantissa(n json.Number) string {
	m, _, _ := strings.Cut(strings.ToLower(n.String()), "e")
	return m
}

// Decode reads one JSON value: objects as map[string]any, arrays as []any,
// numbers as json.Number. A name that stands twice in an object, text that is
// no UTF-8, a number that no double holds, not even nearly, and nesting deeper than 64 are
// errors. The caller bounds the length.
func Decode(b []byte) (any, error) {
	if !utf8.Valid(b) {
		return nil, fmt.Errorf("%w: it is no UTF-8", ErrAmbiguous)
	}
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.UseNumber()
	v, err := value(dec, 0)
	if err != nil {
		return nil, err
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("more than one JSON value")
	}
	return v, nil
}

// Object reads one JSON object.
func Object(b []byte) (map[string]any, error) {
	v, err := Decode(b)
	if err != nil {
		return nil, err
	}
	o, ok := v.(map[string]any)
	if !ok {
		return nil, errors.New("no JSON object")
	}
	return o, nil
}

func value(dec *json.Decoder, depth int) (any, error) {
	t, err := dec.Token()
	if err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return nil, err
	}
	switch t := t.(type) {
	case json.Number:
		if f, err := t.Float64(); err != nil || math.IsInf(f, 0) || len(t) > maxNumber || f == 0 && strings.Trim(mantissa(t), "-0.") != "" {
			return nil, fmt.Errorf("%w: number %.40s", ErrAmbiguous, t)
		}
		return t, nil
	case json.Delim:
		if depth == maxDepth {
			return nil, fmt.Errorf("JSON nested deeper than %d", maxDepth)
		}
		if t == '{' {
			return object(dec, depth+1)
		}
		return array(dec, depth+1)
	}
	return t, nil
}

func object(dec *json.Decoder, depth int) (any, error) {
	out := make(map[string]any)
	for dec.More() {
		t, err := dec.Token()
		if err != nil {
			return nil, err
		}
		name, ok := t.(string)
		if !ok {
			return nil, errors.New("a JSON object's name is a text")
		}
		if _, twice := out[name]; twice {
			return nil, fmt.Errorf("%w: %.60q stands twice in an object", ErrAmbiguous, name)
		}
		if out[name], err = value(dec, depth); err != nil {
			return nil, err
		}
	}
	_, err := dec.Token()
	return out, err
}

func array(dec *json.Decoder, depth int) (any, error) {
	out := []any{}
	for dec.More() {
		v, err := value(dec, depth)
		if err != nil {
			return nil, err
		}
		out = append(out, v)
	}
	_, err := dec.Token()
	return out, err
}
