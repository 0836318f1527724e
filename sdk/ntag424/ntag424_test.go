package ntag424

import (
	"encoding/hex"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/tink-crypto/tink-go/v2/mac/subtle"
	"pgregory.net/rapid"
)

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	require.NoError(t, err)
	return b
}

// The examples of RFC 4493, section 4.
func TestCMACIsThatOfTheRFC(t *testing.T) {
	t.Parallel()
	k, err := ParseKey("2b7e151628aed2a6abf7158809cf4f3c")
	require.NoError(t, err)
	m := "6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e5130c81c46a35ce411e5fbc1191a0a52eff69f2445df4f9b17ad2b417be66c3710"
	for n, want := range map[int]string{
		0: "bb1d6929e95937287fa37d129b756746", 16: "070a16b46b4d4144f79bdd9dd04a287c",
		40: "dfa66747de9ae63030ca32611497c827", 64: "51f0bebf7e3b9d92fc49741779363cfe",
	} {
		got := cmac(k, unhex(t, m)[:n])
		require.Equal(t, want, hex.EncodeToString(got[:]), "%d bytes", n)
	}
}

func TestCMACIsThatOfAnotherImplementation(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		var k Key
		copy(k[:], rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "key"))
		m := rapid.SliceOfN(rapid.Byte(), 0, 100).Draw(t, "message")
		other, err := subtle.NewAESCMAC(k[:], 16)
		require.NoError(t, err)
		want, err := other.ComputeMAC(m)
		require.NoError(t, err)
		got := cmac(k, m)
		require.Equal(t, want, got[:])
	})
}

// AN10922 table 2; there a DESFire application's number stands before the
// name "NXP Abu" in the identifier.
func TestKeysAreDiversifiedAfterAN10922(t *testing.T) {
	t.Parallel()
	master, err := ParseKey("00112233445566778899AABBCCDDEEFF")
	require.NoError(t, err)
	uid, err := ParseUID("04782E21801D80")
	require.NoError(t, err)
	k, err := Diversify(master, uid, unhex(t, "3042F54E585020416275"))
	require.NoError(t, err)
	require.Equal(t, "a8dd63a3b89d54b37ca802473fda9175", hex.EncodeToString(k[:]))
	_, err = Diversify(master, uid, make([]byte, 25))
	require.Error(t, err)
	// Even an input of one block is padded to two; plain CMAC is another key.
	short, err := Diversify(master, uid, nil)
	require.NoError(t, err)
	require.NotEqual(t, Key(cmac(master, append([]byte{1}, uid[:]...))), short)
	// One that fills both needs no padding.
	full, err := Diversify(master, uid, make([]byte, 24))
	require.NoError(t, err)
	require.Equal(t, Key(cmac(master, append(append([]byte{1}, uid[:]...), make([]byte, 24)...))), full)
}

// The worked examples of AN12196: keys of zeros.
func TestTheMessagesOfAN12196AreVerified(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, text string
		form       Form
		uid        string
		counter    uint32
		file       string
	}{
		{
			"UID and counter", "https://ntag.nxp.com/424?e=EF963FF7828658A599F3041510671E88&c=94EED9EE65337086",
			Form{Prefix: "https://ntag.nxp.com/424", PICC: "e", CMAC: "c"}, "04DE5F1EACC040", 61, "",
		},
		{
			"the query alone, in small letters", "e=ef963ff7828658a599f3041510671e88&c=94eed9ee65337086",
			Form{Prefix: "https://ntag.nxp.com/424", PICC: "e", CMAC: "c"}, "04DE5F1EACC040", 61, "",
		},
		{
			"with file data", "https://www.my424dna.com/?picc_data=FD91EC264309878BE6345CBE53BADF40&enc=CEE9A53E3E463EF1F459635736738962&cmac=ECC1E7F6C6C73BF6",
			Form{Prefix: "https://www.my424dna.com/", PICC: "picc_data", Enc: "enc", CMAC: "cmac"}, "04958CAA5C5E80", 8, "xxxxxxxxxxxxxxxx",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			r, err := c.form.Parse(c.text)
			require.NoError(t, err)
			tap, err := r.Open(Key{})
			require.NoError(t, err)
			require.Equal(t, c.uid, tap.UID.String())
			require.Equal(t, c.counter, tap.Counter)
			require.NoError(t, r.Verify(Key{}, tap))
			require.Equal(t, c.file, string(r.File(Key{}, tap)))
		})
	}
}

func TestNoBitOfAMessageCanBeChanged(t *testing.T) {
	t.Parallel()
	f := Form{PICC: "e", Enc: "x", CMAC: "c"}
	tag := Tag{Form: f, UID: UID{4, 1, 2, 3}, Meta: Key{1}, File: Key{2}, Data: []byte("CC--------------")}
	text, err := tag.Tap()
	require.NoError(t, err)
	r, err := f.Parse(strings.TrimPrefix(text, "?"))
	require.NoError(t, err)
	sound := func(r Reading) error {
		tap, err := r.Open(tag.Meta)
		if err != nil {
			return err
		}
		return r.Verify(tag.File, tap)
	}
	require.NoError(t, sound(r))
	for bit := range 128 {
		forged := r
		forged.PICC[bit/8] ^= 1 << (bit % 8)
		require.ErrorIs(t, sound(forged), ErrForged)
	}
	for bit := range 64 {
		forged := r
		forged.MAC[bit/8] ^= 1 << (bit % 8)
		require.ErrorIs(t, sound(forged), ErrForged)
	}
	for bit := range 128 {
		enc := append([]byte(nil), r.Enc...)
		enc[bit/8] ^= 1 << (bit % 8)
		forged, err := f.Parse("e=" + digits(r.PICC[:]) + "&x=" + digits(enc) + "&c=" + digits(r.MAC[:]))
		require.NoError(t, err)
		require.ErrorIs(t, sound(forged), ErrForged)
	}
}

func TestWhatAChipWritesIsReadBack(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		f := Form{Prefix: "https://x.example/t", PICC: "e", CMAC: "c"}
		tag := Tag{Form: f, Counter: rapid.Uint32Range(0, MaxCounter-1).Draw(t, "counter")}
		draw := func(into []byte, name string) {
			copy(into, rapid.SliceOfN(rapid.Byte(), len(into), len(into)).Draw(t, name))
		}
		draw(tag.UID[:], "uid")
		draw(tag.Meta[:], "meta")
		draw(tag.File[:], "file")
		if blocks := rapid.IntRange(0, 7).Draw(t, "blocks"); blocks > 0 {
			tag.Form.Enc = "m"
			tag.Data = make([]byte, 16*blocks)
			draw(tag.Data, "data")
		}
		text, err := tag.Tap()
		require.NoError(t, err)
		r, err := tag.Form.Parse(text)
		require.NoError(t, err)
		tap, err := r.Open(tag.Meta)
		require.NoError(t, err)
		require.Equal(t, Tap{tag.UID, tag.Counter}, tap)
		require.NoError(t, r.Verify(tag.File, tap))
		require.Equal(t, tag.Data, r.File(tag.File, tap))
		require.ErrorIs(t, r.Verify(tag.File, Tap{tag.UID, tap.Counter ^ 1}), ErrForged)
	})
}

func TestWhatNoChipWritesIsMalformed(t *testing.T) {
	t.Parallel()
	const e, c, m = "EF963FF7828658A599F3041510671E88", "94EED9EE65337086", "CEE9A53E3E463EF1F459635736738962"
	plain := Form{Prefix: "https://x.example/t", PICC: "e", CMAC: "c"}
	withData := Form{Prefix: "https://x.example/t", PICC: "e", Enc: "m", CMAC: "c"}
	for _, x := range []struct {
		form Form
		text string
		good bool
	}{
		{plain, "https://x.example/t?e=" + e + "&c=" + c, true},
		{plain, "https://x.example/t?utm=1&e=" + e + "&c=" + c + "#top", true},
		{plain, "c=" + c + "&e=" + e, true},
		{plain, "", false},
		{plain, "https://evil.example/t?e=" + e + "&c=" + c, false},
		{plain, "e=" + e, false},
		{plain, "e=" + e + "&e=" + e + "&c=" + c, false},
		{plain, "e=" + e[2:] + "&c=" + c, false},
		{plain, "e=" + e + "&c=" + c + "00", false},
		{plain, "e=" + e[:30] + "zz&c=" + c, false},
		{plain, "e=" + e + "&c=" + c + "&x=" + strings.Repeat("y", 600), false},
		{withData, "e=" + e + "&m=" + m + "&c=" + c, true},
		{withData, "e=" + e + "&c=" + c, false},
		{withData, "m=" + m + "&e=" + e + "&c=" + c, false},
		{withData, "e=" + e + "&m=" + m + "&x=1&c=" + c, false},
		{withData, "e=" + e + "&m=" + m[1:] + "&c=" + c, false},
		{withData, "e=" + e + "&m=" + m[2:] + "&c=" + c, false},
		{withData, "e=" + e + "&m=" + strings.Repeat(m, 8) + "&c=" + c, false},
	} {
		_, err := x.form.Parse(x.text)
		if x.good {
			require.NoError(t, err, x.text)
		} else {
			require.ErrorIs(t, err, ErrMalformed, x.text)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add("https://x.example/t?e=EF963FF7828658A599F3041510671E88&c=94EED9EE65337086")
	f.Add("e=EF963FF7828658A599F3041510671E88&m=CEE9A53E3E463EF1F459635736738962&c=94EED9EE65337086")
	f.Fuzz(func(t *testing.T, text string) {
		for _, form := range []Form{{Prefix: "https://x.example/t", PICC: "e", CMAC: "c"}, {PICC: "e", Enc: "m", CMAC: "c"}} {
			r, err := form.Parse(text)
			if err != nil {
				require.ErrorIs(t, err, ErrMalformed)
				continue
			}
			require.Equal(t, form.Enc != "", len(r.Enc) > 0)
			if tap, err := r.Open(Key{}); err == nil {
				_ = r.Verify(Key{}, tap)
				require.Len(t, r.File(Key{}, tap), len(r.Enc))
			}
		}
	})
}
