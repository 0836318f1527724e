package id

import (
	"sort"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func TestEveryUUIDSurvivesTheRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var u uuid.UUID
		copy(u[:], rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "uuid"))
		back, err := Parse("ord", From("ord", u))
		require.NoError(t, err)
		require.Equal(t, u, back)
	})
}

func TestTheOrderOfTextsIsTheOrderOfUUIDs(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var a, b uuid.UUID
		copy(a[:], rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "a"))
		copy(b[:], rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "b"))
		require.Equal(t, string(a[:]) < string(b[:]), From("x", a) < From("x", b))
	})
}

func TestNewIdentifiersRise(t *testing.T) {
	made := make([]string, 1000)
	for i := range made {
		made[i] = New("crt")
	}
	require.True(t, sort.StringsAreSorted(made))
}

func TestWhatIsNotOneIsRefused(t *testing.T) {
	good := New("ord")
	for name, s := range map[string]string{
		"another kind": New("pay"), "upper case": "ORD" + good[3:], "too short": good[:29], "a letter outside": good[:29] + "u",
		"more than 128 bits": "ord_8" + good[5:], "empty": "",
	} {
		_, err := Parse("ord", s)
		require.Error(t, err, name)
	}
}

func TestADerivedIdentifierFollowsFromItsKey(t *testing.T) {
	first := Derive("sku", "a")
	require.Equal(t, first, Derive("sku", "a"))
	require.NotEqual(t, Derive("sku", "a"), Derive("sku", "b"))
	require.NotEqual(t, Derive("sku", "a")[4:], Derive("prd", "a")[4:])
	_, err := Parse("sku", Derive("sku", "a"))
	require.NoError(t, err)
}

func FuzzParse(f *testing.F) {
	f.Add("ord_01900000000000000000000000")
	f.Fuzz(func(t *testing.T, s string) {
		if u, err := Parse("ord", s); err == nil {
			require.Equal(t, s, From("ord", u))
		}
	})
}
