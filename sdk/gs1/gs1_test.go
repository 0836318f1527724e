package gs1

import (
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func TestKnownKeysAreGood(t *testing.T) {
	for _, s := range []string{"02345673", "416000336108", "4006381333931", "12345678901231"} {
		got, err := GTIN(s)
		require.NoError(t, err, s)
		require.Len(t, got, 14)
	}
	require.NoError(t, SSCC("106141411234567897"))
}

func TestBadKeysAreRefused(t *testing.T) {
	for s, want := range map[string]error{"02345674": ErrCheckDigit, "4006381333930": ErrCheckDigit, "400638133393": ErrCheckDigit, "": ErrSyntax, "123": ErrSyntax, "40063813339x1": ErrSyntax, "400638133393x": ErrSyntax} {
		_, err := GTIN(s)
		require.ErrorIs(t, err, want, s)
	}
	require.ErrorIs(t, SSCC("106141411234567898"), ErrCheckDigit)
	require.ErrorIs(t, SSCC("4006381333931"), ErrSyntax)
}

func TestOneWrongDigitIsAlwaysSeen(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s, err := Append(rapid.StringMatching(`[0-9]{12}`).Draw(t, "body"))
		require.NoError(t, err)
		_, err = GTIN(s)
		require.NoError(t, err)
		i, d := rapid.IntRange(0, 12).Draw(t, "at"), byte(rapid.IntRange(1, 9).Draw(t, "by"))
		b := []byte(s)
		b[i] = '0' + (b[i]-'0'+d)%10
		_, err = GTIN(string(b))
		require.ErrorIs(t, err, ErrCheckDigit)
	})
}

func FuzzGTIN(f *testing.F) {
	f.Add("4006381333931")
	f.Fuzz(func(t *testing.T, s string) {
		if g, err := GTIN(s); err == nil {
			again, err := GTIN(g)
			require.NoError(t, err)
			require.Equal(t, g, again)
		}
	})
}
