package customs

import "testing"

func TestBorder(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		from, to string
		union    []string
		want     bool
	}{
		{"DE", "FR", EuropeanUnion, false}, {"FR", "MC", EuropeanUnion, false}, {"GB", "DE", EuropeanUnion, true}, {"DE", "CH", EuropeanUnion, true},
		{"JP", "JP", EuropeanUnion, false}, {"DE", "FR", nil, true}, {"DE", "DE", nil, false}, {"CH", "LI", []string{"CH", "LI"}, false},
	} {
		if got := Border(c.from, c.to, c.union); got != c.want {
			t.Errorf("Border(%s, %s, %v) is %v", c.from, c.to, c.union, got)
		}
	}
}
