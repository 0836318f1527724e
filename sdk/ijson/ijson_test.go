package ijson

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestJSONIsReadAsItStands(t *testing.T) {
	v, err := Decode([]byte(` {"a":[1,2.50,"x",true,null,{}],"b":{"a":1e3}} `))
	require.NoError(t, err)
	require.Equal(t, map[string]any{
		"a": []any{json.Number("1"), json.Number("2.50"), "x", true, nil, map[string]any{}}, "b": map[string]any{"a": json.Number("1e3")},
	}, v)
	_, err = Object([]byte(`[]`))
	require.Error(t, err)
}

func TestWhatReadersUnderstandDifferentlyIsRefused(t *testing.T) {
	for _, s := range []string{`{"a":1,"a":2}`, `{"x":[{"a":1,"\u0061":2}]}`, "\"\xff\"", `1e999`, `[-1e999]`, `1e-999`, `-0.01E-99999`, "1." + strings.Repeat("0", 400)} {
		_, err := Decode([]byte(s))
		require.ErrorIs(t, err, ErrAmbiguous, s)
	}
	for _, s := range []string{``, `{`, `[1,]`, `{"a":1}{}`, `{"a":1} x`, `{1:2}`, `[}`, `{]`, `nul`, strings.Repeat("[", 65) + strings.Repeat("]", 65)} {
		_, err := Decode([]byte(s))
		require.Error(t, err, s)
	}
	_, err := Decode([]byte(`[0e-999,-0.0,1e-300]`))
	require.NoError(t, err)
	_, err = Decode([]byte(strings.Repeat("[", 64) + strings.Repeat("]", 64)))
	require.NoError(t, err)
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte(`{"a":[1,2.5,"x",true,null]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		v, err := Decode(b)
		if err != nil {
			return
		}
		require.True(t, json.Valid(b))
		again, err := json.Marshal(v)
		require.NoError(t, err)
		w, err := Decode(again)
		require.NoError(t, err)
		require.Equal(t, v, w)
	})
}
