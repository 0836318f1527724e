package gs1

import (
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func TestADigitalLinkIsReadAndWritten(t *testing.T) {
	for in, want := range map[string]string{
		"http://a/00/006141411234567890":                                               "/00/006141411234567890",
		"HTTP://a/00/006141411234567890":                                               "/00/006141411234567890",
		"HTTPS://a/00/006141411234567890":                                              "/00/006141411234567890",
		"https://a.:65535/01/12312312312333":                                           "/01/12312312312333",
		"https://[2001:db8::1]/01/12312312312333":                                      "/01/12312312312333",
		"https://xn--fsq.xn--0zwm56d/01/12312312312333":                                "/01/12312312312333",
		"https://a/more/stem/00/006141411234567890":                                    "/00/006141411234567890",
		"https://a/00/faux/00/006141411234567890":                                      "/00/006141411234567890",
		"https://a/01/12312312312333/22/TEST/10/ABC/21/XYZ":                            "/01/12312312312333/22/TEST/10/ABC/21/XYZ",
		"https://a/01/12312312312333/235/TEST":                                         "/01/12312312312333/235/TEST",
		"https://a/253/1231231231232TEST5678901234567":                                 "/253/1231231231232TEST5678901234567",
		"https://a/8018/123456789012345675/8019/123":                                   "/8018/123456789012345675/8019/123",
		"https://a/stem/00/006141411234567890?":                                        "/00/006141411234567890",
		"https://a/01/12312312312333?&&&99=ABC&&singleton&unknown=666":                 "/01/12312312312333",
		"https://a/01/12312312312333/22/ABC%2d123":                                     "/01/12312312312333/22/ABC-123",
		"https://a/01/12312312312333/22/ABC+123":                                       "/01/12312312312333/22/ABC%2B123",
		"https://a/01/12312312312333/22/test/10/abc/21/xyz#fragment":                   "/01/12312312312333/22/test/10/abc/21/xyz",
		"https://id.gs1.org/01/09520123456788/10/ABC1/21/12345?17=180426":              "/01/09520123456788/10/ABC1/21/12345?17=180426",
		"https://example.com/01/09520123456788?3103=000195&3922=0299&17=201200":        "/01/09520123456788?17=201200",
		"https://id.gs1.org/414/9520123456788/254/32a%2Fb":                             "/414/9520123456788/254/32a%2Fb",
		"https://example.com/8004/9520614141234567?01=09520123456788":                  "/8004/9520614141234567",
		"https://id.gs1.org/01/09520123456788/235/XYZ?10=ABC123":                       "/01/09520123456788/235/XYZ",
		"https://a/01/12312312312333/21/%21%22%25%26%27%28%29%2A%2B%2C%2F%3A%3B%3C%3D": "/01/12312312312333/21/%21%22%25%26%27%28%29%2A%2B%2C%2F%3A%3B%3C%3D",
		"https://a/01/12312312312333/21/!'()*,:;=":                                     "/01/12312312312333/21/%21%27%28%29%2A%2C%3A%3B%3D",
	} {
		l, err := ParseDigitalLink(in)
		require.NoError(t, err, in)
		require.Equal(t, Canonical+want, l.URI(Canonical), in)
	}
	l, err := ParseDigitalLink("HTTPS://Shop.example/p/x/01/09520123456788/10/L/21/S?17=270229")
	require.ErrorIs(t, err, ErrSyntax, "a day that is none: %v", l)
	l, err = ParseDigitalLink("HTTPS://Shop.example/p/x/01/09520123456788/22/V/10/L/21/S?17=280229")
	require.NoError(t, err)
	require.Equal(t, "https://Shop.example/p/x", l.Base)
	require.Equal(t, []string{"09520123456788", "L", "S", "V", "280229"}, []string{l.GTIN(), l.Lot(), l.Serial(), l.Value(AICPV), l.Expiry})
	require.Equal(t, "https://id.gs1.org/01/09520123456788/21/S", l.Finest().URI(Canonical))
	require.Equal(t, "http://h/01/09520123456788/10/L/21/S", TradeItem("09520123456788", "L", "S").URI("http://h/"))
}

func TestWhatIsNoDigitalLinkIsRefused(t *testing.T) {
	for in, want := range map[string]error{
		"": ErrSyntax, "ftp://": ErrSyntax, "ftp://a/01/12312312312333": ErrSyntax, "http://": ErrSyntax, "http:///": ErrSyntax, "http://a": ErrSyntax, "http://a/": ErrSyntax,
		"http://a/b": ErrSyntax, "http://a/b/": ErrSyntax, "HtTp://a/b/00/006141411234567890": ErrSyntax, "https://00/006141411234567890": ErrSyntax,
		"https://u@a/01/12312312312333": ErrSyntax, "https://a$/01/12312312312333": ErrSyntax, "https://[fe80::1%25lo]/01/12312312312333": ErrSyntax,
		"https://a/01/12312312312333<bad": ErrSyntax, "https://a/01/12312312312333/21/a b": ErrSyntax, "https://a/01/12312312312333/21/é": ErrSyntax,
		"https://a/gtin/12312312312333": ErrSyntax, "https://a/01//12312312312333": ErrSyntax, "https://a/01/1231231231233%003": ErrSyntax,
		"https://a/01/12312312312333/10/": ErrSyntax, "https://a/01/12312312312333/99/ABC": ErrSyntax, "https://a/01/12312312312333/21/a%zz": ErrSyntax,
		"https://a/01/2112345678900": ErrSyntax, "https://a/01/02345673": ErrSyntax, // short ones, not allowed
		"https://a/01/12312312312334": ErrCheckDigit, "https://a/stem/00/006141411234567890/": ErrSyntax,
		"https://a/253/1231231231232TEST56789012345678": ErrSyntax, "https://a/01/12312312312333/21/A/10/B": ErrSyntax,
		"https://a/01/12312312312333/22/A/235/B": ErrSyntax, "https://a/01/12312312312333/21/A/21/B": ErrSyntax, "https://a/01/12312312312333/21/123456789012345678901": ErrSyntax,
		"https://example.com/01/09520123456788?10=ABC123":      ErrSyntax,
		"https://example.com/01/09520123456788/21/A?21=B":      ErrSyntax,
		"https://example.com/01/09520123456788?01=09520123456": ErrSyntax,
		"https://example.com/01/09520123456788?17=991301":      ErrSyntax, "https://example.com/01/09520123456788?17=200101&17=200102": ErrSyntax,
	} {
		_, err := ParseDigitalLink(in)
		require.ErrorIs(t, err, want, in)
	}
}

func TestShortGTINsAreReadWhereTheyAreLetPass(t *testing.T) {
	for in, want := range map[string]string{
		"https://a/01/2112345678900": "02112345678900", "https://a/01/416000336108": "00416000336108", "https://a/01/02345673": "00000002345673",
		"https://a/01/09520123456788": "09520123456788",
	} {
		l, err := ParseDigitalLink(in, ShortGTIN)
		require.NoError(t, err, in)
		require.Equal(t, want, l.GTIN())
	}
	_, err := ParseDigitalLink("https://a/01/02345674", ShortGTIN)
	require.ErrorIs(t, err, ErrCheckDigit)
}

// Facts of the CBV's event hash: how EPC URIs are written as links.
func TestAnEPCNamesWhatALinkNames(t *testing.T) {
	for in, want := range map[string]string{
		"urn:epc:id:sgtin:4012345.011111.98%22":                          "01/04012345111118/21/98%22",
		"urn:epc:id:sgtin:415056789012.0.987654":                         "01/04150567890128/21/987654",
		"urn:epc:id:sgtin:0614141.812345.6789%2F%26%25%22!%3F()":         "01/80614141123458/21/6789%2F%26%25%22%21%3F%28%29",
		"urn:epc:id:sscc:4012345.3111111111":                             "00/340123451111111111",
		"urn:epc:id:sscc:4012345.0000000011":                             "00/040123450000000115",
		"urn:epc:id:sgln:4012345.00005.122":                              "414/4012345000054/254/122",
		"urn:epc:id:sgln:4012345.00005.0":                                "414/4012345000054",
		"urn:epc:id:grai:4012345.00022.334455":                           "8003/04012345000221334455",
		"urn:epc:id:giai:4012345.ABC345":                                 "8004/4012345ABC345",
		"urn:epc:id:gsrn:4012345.9876540000":                             "8018/401234598765400000",
		"urn:epc:id:gsrnp:4012345.0000098765":                            "8017/401234500000987658",
		"urn:epc:id:gdti:4012345.00009.PO-4711":                          "253/4012345000092PO-4711",
		"urn:epc:id:gdti:987659999999..9":                                "253/98765999999929",
		"urn:epc:id:cpi:0614141.11111111111111-A%23%2F.1234":             "8010/061414111111111111111-A%23%2F/8011/1234",
		"urn:epc:id:sgcn:4012345.99999.44":                               "255/401234599999044",
		"urn:epc:id:ginc:0614141.xyz47%2F11":                             "401/0614141xyz47%2F11",
		"urn:epc:id:gsin:4012345.222333444":                              "402/40123452223334442",
		"urn:epc:id:itip:4012345.011111.01.02.987":                       "8006/040123451111180102/21/987",
		"urn:epc:id:upui:1234567.098765.51qIgY)%3C%26Jp3*j7SDB":          "01/01234567987651/235/51qIgY%29%3C%26Jp3%2Aj7SDB",
		"urn:epc:id:pgln:4000001.00000":                                  "417/4000001000005",
		"urn:epc:id:pgln:999999999999.":                                  "417/9999999999994",
		"urn:epc:class:lgtin:4012345.012345.Lot987":                      "01/04012345123456/10/Lot987",
		"urn:epc:idpat:sgtin:4012345.012345.*":                           "01/04012345123456",
		"urn:epc:idpat:grai:4012345.99999.*":                             "8003/04012345999990",
		"urn:epc:idpat:gdti:4012345.11111.*":                             "253/4012345111118",
		"urn:epc:idpat:sgcn:4012345.22222.*":                             "255/4012345222227",
		"urn:epc:idpat:cpi:4012345.AB12.*":                               "8010/4012345AB12",
		"urn:epc:idpat:itip:4012345.012345.01.02.*":                      "8006/040123451234560102",
		"urn:epc:idpat:upui:4012345.012345.*":                            "01/04012345123456",
		"https://gs1.test.example.org/01/9780345418913/10/1223":          "01/09780345418913/10/1223",
		"https://id.gs1.org/01/9780345418913/22/344/10/1223/21/765tz":    "01/09780345418913/21/765tz",
		"https://example.org/01/9780345418913/21/765tz?11=221109":        "01/09780345418913/21/765tz",
		"https://fashion-corp.com/8006/040123451234560102/22/AB/21/4433": "8006/040123451234560102/21/4433",
	} {
		require.Equal(t, Canonical+"/"+want, Normal(in), in)
	}
	for _, in := range []string{
		"42", "Hello World!", "http://example.de/abc/9780345418913", "http://example.de/01/97803", "http://example.org/123/4012345ABC987/456/4711",
		"urn:epc:id:sgtin:4012345.11111.98", "urn:epc:id:sgtin:4012345", "urn:epc:id:sgtin:40123.45011111.98", "urn:epc:id:what:4012345.11111.98",
		"urn:epc:id:sgtin:4012345.011111.", "urn:epc:idpat:sgtin:4012345.012345.7", "urn:epc:id:itip:4012345.011111.1.02.987",
		"urn:epc:id:sgln:4012345..", "urn:epc:id:giai:4012345", "urn:epc:id:sgtin:4012345.0111x1.98",
	} {
		require.Equal(t, in, Normal(in))
	}
}

func TestWhatIsWrittenIsReadBack(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		of := rapid.StringOfN(rapid.RuneFrom([]rune(cset82)), 1, 20, -1)
		gtin, err := Append(rapid.StringMatching(`[0-9]{13}`).Draw(t, "gtin"))
		require.NoError(t, err)
		l := TradeItem(gtin, of.Draw(t, "lot"), of.Draw(t, "serial"))
		got, err := ParseDigitalLink(l.URI("https://h.example/some/path"))
		require.NoError(t, err)
		require.Equal(t, l.Path, got.Path)
		require.Equal(t, "https://h.example/some/path", got.Base)
	})
}

func FuzzDigitalLink(f *testing.F) {
	for _, s := range []string{
		"https://a/01/12312312312333/22/TEST/10/ABC/21/X%2FZ?17=280229#x", "HTTP://a/00/faux/00/006141411234567890", "urn:epc:id:sgtin:0614141.812345.6789%2F%26",
		"urn:epc:id:cpi:0614141.111-A%23%2F.1234", "urn:epc:idpat:itip:4012345.012345.01.02.*", "https://a/414/9520123456788/254/32a%2Fb",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		for _, lets := range [][]Leniency{nil, {ShortGTIN}} {
			l, err := ParseDigitalLink(s, lets...)
			if err != nil {
				continue
			}
			again, err := ParseDigitalLink(l.URI(Canonical))
			require.NoError(t, err)
			require.Equal(t, l.Path, again.Path)
			require.Equal(t, l.Expiry, again.Expiry)
		}
		n := Normal(s)
		require.Equal(t, n, Normal(n), "what is normal stays so")
	})
}
