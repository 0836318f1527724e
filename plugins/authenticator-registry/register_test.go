package main

import (
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	providerv1 "github.com/entrepot/entrepot/proto/entrepot/inspection/provider/v1"
)

var quiet = slog.New(slog.DiscardHandler)

func TestABadLineIsNamed(t *testing.T) {
	t.Parallel()
	const head = "gtin,serial,serial_to,made_on,country,complete\n"
	for _, x := range []struct{ name, text, says string }{
		{"a.csv", "", "a.csv:1: the first line names the columns"},
		{"a.csv", "gtin,colour\n", `a.csv:1: column "colour"`},
		{"a.csv", "gtin,gtin\n", `a.csv:1: column "gtin"`},
		{"a.csv", "serial\n", "a.csv:1: there is no column gtin"},
		{"a.csv", head + "4006381333932,1,,,,\n", "a.csv:2: wrong check digit"},
		{"a.csv", head + "4006381333931,1,,,,\n4006381333931,,,,,\n", "a.csv:3: serial"},
		{"a.csv", head + "4006381333931,two words,,,,\n", "a.csv:2: serial"},
		{"a.csv", head + "4006381333931,1,,31.1.2026,,\n", "a.csv:2: made_on"},
		{"a.csv", head + "4006381333931,1,,,ch,\n", "a.csv:2: country"},
		{"a.csv", head + "4006381333931,1,,,,perhaps\n", "a.csv:2: complete"},
		{"a.csv", head + "4006381333931,A1,A20,,,\n", "a.csv:2: serials"},
		{"a.csv", head + "4006381333931,A9,A1,,,\n", "a.csv:2: serials"},
		{"a.csv", head + "4006381333931,A1,B2,,,\n", "a.csv:2: serials"},
		{"a.csv", head + "4006381333931,1A,2A,,,\n", "a.csv:2: serials"},
		{"a.csv", head + "4006381333931,1\n", "a.csv:2: wrong number of fields"},
		{"a.csv", head + "4006381333931,\"1\n", "a.csv:2:"},
		{"a.jsonl", `{"gtin": "4006381333931", "serial": 1}`, "a.jsonl:1:"},
		{"a.jsonl", "\n" + `{"gtin": "4006381333931", "serial": "1", "colour": "red"}`, "a.jsonl:2:"},
		{"a.jsonl", `{"gtin": "4006381333931", "serial": "1"} {}`, "a.jsonl:1: more than one object"},
		{"a.jsonl", `{"gtin": "` + strings.Repeat("1", 5000) + `"}`, "a.jsonl:1:"},
		{"a.txt", "", "a.txt: want a name that ends in .csv or .jsonl"},
	} {
		name := write(t, x.name, x.text)
		_, err := readRegisters([]string{name})
		require.ErrorContains(t, err, x.says, "%q", x.text)
		found := validate([]byte(fmt.Sprintf(`{"registers": [%q]}`, name)))
		require.Len(t, found, 1)
		require.Equal(t, "registers", found[0].GetField())
	}
	for _, config := range []string{`{"registers": []}`, `{"registers": [1]}`, `{"registers": ["/no/such/file.csv"]}`} {
		require.Len(t, validate([]byte(config)), 1, config)
	}
	good := write(t, "a.csv", head)
	require.Empty(t, validate([]byte(fmt.Sprintf(`{"registers": [%q], "reload": "0s"}`, good))))
	require.Len(t, validate([]byte(fmt.Sprintf(`{"registers": [%q], "reload": "-1s"}`, good))), 1)
}

func TestARangeHoldsWhatIsCountedFromItsFirstToItsLast(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		width := rapid.IntRange(1, 6).Draw(t, "width")
		top := 1
		for range width {
			top *= 10
		}
		prefix := rapid.StringMatching(`[A-Z0-9-]{0,6}`).Draw(t, "prefix")
		from := rapid.IntRange(0, top-1).Draw(t, "from")
		to := rapid.IntRange(from, top-1).Draw(t, "to")
		n := rapid.IntRange(0, top-1).Draw(t, "n")
		serial := func(n int) string { return fmt.Sprintf("%s%0*d", prefix, width, n) }
		r := make(registers)
		require.NoError(t, r.add("r", line{GTIN: "4006381333931", Serial: serial(from), SerialTo: serial(to)}))
		_, holds := r["04006381333931"].find(serial(n))
		require.Equal(t, from <= n && n <= to, holds)
		if from < to {
			s := []byte(serial(n))
			s[len(s)-1] = 'x'
			_, holds = r["04006381333931"].find(string(s))
			require.False(t, holds, "what counts are digits")
		}
	})
}

func TestTheLastFateIsInForceInWhateverOrderItIsTold(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		type event struct {
			fate providerv1.RetainRequest_Fate
			at   int64
		}
		var events []event
		for i := range rapid.IntRange(1, 6).Draw(t, "events") {
			events = append(events, event{rapid.SampledFrom([]providerv1.RetainRequest_Fate{sold, returned, destroyed}).Draw(t, "fate"), int64(i)})
		}
		var m memory
		told := append(rapid.Permutation(events).Draw(t, "order"), rapid.SliceOfN(rapid.SampledFrom(events), 0, 3).Draw(t, "again")...)
		for _, e := range told {
			m.became(e.fate, e.at, fmt.Sprint(e.at))
		}
		want := events[len(events)-1].fate
		for _, e := range events {
			if e.fate == destroyed {
				want = destroyed
			}
		}
		require.Equal(t, want, m.Fate)
	})
}

func TestCountriesAreWhereTheyAre(t *testing.T) {
	t.Parallel()
	require.Len(t, places, 247)
	for code, list := range places {
		require.Regexp(t, "^[A-Z]{2}$", code)
		for _, p := range list {
			require.InDelta(t, 0, p.lat, 90)
			require.InDelta(t, 0, p.lon, 180)
		}
		require.Zero(t, distance(code, code))
	}
	require.InDelta(t, 8900, distance("DE", "JP"), 300)
	require.InDelta(t, 5570, distance("GB", "US"), 1200, "from the nearest of its cities")
	require.Less(t, distance("DE", "NL"), 600.0)
	require.InDelta(t, distance("BR", "IN"), distance("IN", "BR"), 1e-6)
	require.Zero(t, distance("DE", "XX"))
	require.True(t, tooFast("DE", "JP", 6*time.Hour))
	require.True(t, tooFast("DE", "JP", -6*time.Hour))
	require.False(t, tooFast("DE", "JP", 8*time.Hour))
	require.False(t, tooFast("DE", "FR", 0))
}

func FuzzRegister(f *testing.F) {
	f.Add(csvText)
	f.Add(jsonText)
	f.Fuzz(func(t *testing.T, text string) {
		all := make(registers)
		take := func(_ int, l line, err error) error {
			if err != nil {
				return err
			}
			return all.add("r", l)
		}
		_ = readCSV(strings.NewReader(text), take)
		_ = readJSON(strings.NewReader(text), take)
		for _, p := range all {
			for serial := range p.serials {
				_, known := p.find(serial)
				require.True(t, known)
			}
			for _, s := range p.spans {
				require.True(t, s.holds(s.from) && s.holds(s.to))
			}
		}
	})
}
