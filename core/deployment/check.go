package deployment

import (
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/agext/levenshtein"
	"github.com/hashicorp/hcl/v2"
	"golang.org/x/text/language"

	"github.com/entrepot/entrepot/sdk/money"
)

func (p *parser) executable(g *Plugin) {
	info, err := os.Stat(g.Path)
	switch {
	case err != nil:
		p.found.Add(g.pathAt, fmt.Sprintf("plugin %q: there is no file %s", g.Name, g.Path), "Build the plugin, or write the path to its binary relative to this file")
	case info.IsDir():
		p.found.Add(g.pathAt, fmt.Sprintf("plugin %q: %s is a folder", g.Name, g.Path), "Write the path to the binary")
	case info.Mode().Perm()&0o111 == 0:
		p.found.Add(g.pathAt, fmt.Sprintf("plugin %q: %s is not executable", g.Name, g.Path), "chmod +x %s", g.Path)
	}
}

// suggest names the instance that was probably meant, else all there are.
func (p *parser) suggest(given string) string {
	names := make([]string, 0, len(p.instances))
	for n := range p.instances {
		names = append(names, n)
	}
	slices.Sort(names)
	nearest, least := "", 3
	for _, n := range names {
		if d := levenshtein.Distance(given, n, nil); d < least {
			nearest, least = n, d
		}
	}
	if nearest != "" {
		return fmt.Sprintf("Did you mean %q?", nearest)
	}
	return "There are " + strings.Join(names, ", ")
}

func (p *parser) markets(blocks []marketBlock) {
	if len(blocks) == 0 {
		p.found.Add(p.whole, "no market is named", `Write at least one block: market "GB" { currency = "GBP" languages = ["en"] }, an attribute a line`)
	}
	seen := map[string]bool{}
	for _, b := range blocks {
		if r, err := language.ParseRegion(b.Code); err != nil || !r.IsCountry() || r.Canonicalize().String() != b.Code {
			p.found.Add(b.At, fmt.Sprintf("market %q is no country", b.Code), `Write its two capital letters (ISO 3166-1), like "GB"`)
		}
		if seen[b.Code] {
			p.found.Add(b.At, fmt.Sprintf("market %q stands twice", b.Code), "Make one block of them")
		}
		seen[b.Code] = true
		if _, ok := money.Lookup(b.Currency); !ok {
			p.found.Add(b.CurrencyAt, fmt.Sprintf("%q is no currency", b.Currency), `Write its three capital letters (ISO 4217), like "EUR"`)
		}
		if len(b.Languages) == 0 {
			p.found.Add(b.LanguagesAt, fmt.Sprintf("market %q has no language", b.Code), `Write at least one, like ["en"]`)
		}
		for _, l := range b.Languages {
			if _, err := language.Parse(l); err != nil {
				p.found.Add(b.LanguagesAt, fmt.Sprintf("%q is no language", l), `Write BCP 47 tags, like "en" or "pt-BR"`)
			}
		}
		p.d.Markets = append(p.d.Markets, &Market{Code: b.Code, Currency: b.Currency, Languages: b.Languages})
	}
}

func (p *parser) kernel(b *kernelBlock) {
	k := Kernel{Listen: b.Listen, DataDir: b.DataDir, PublicURL: strings.TrimSuffix(b.PublicURL, "/"), DefaultMarket: b.DefaultMarket}
	if k.Listen == "" {
		k.Listen = "127.0.0.1:8080"
	}
	if _, port, err := net.SplitHostPort(k.Listen); err != nil || !isPort(port) {
		p.found.Add(b.ListenAt, fmt.Sprintf("listen %q is no address", k.Listen), `Write host and port, like "127.0.0.1:8080" or ":8080"`)
	}
	if k.DataDir == "" {
		k.DataDir = ".run/data"
	}
	k.DataDir = resolve(p.dir, k.DataDir)
	if k.PublicURL == "" {
		k.PublicURL = "http://" + k.Listen
	} else if u, err := url.Parse(k.PublicURL); err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.RawQuery != "" {
		p.found.Add(b.PublicURLAt, fmt.Sprintf("public_url %q is no web address", b.PublicURL), `Write it like "https://shop.example"`)
	}
	if k.DefaultMarket == "" && len(p.d.Markets) > 0 {
		k.DefaultMarket = p.d.Markets[0].Code
	}
	if b.DefaultMarket != "" && !slices.ContainsFunc(p.d.Markets, func(m *Market) bool { return m.Code == b.DefaultMarket }) {
		p.found.Add(b.DefaultMarketAt, fmt.Sprintf("default_market %q is none of the markets", b.DefaultMarket), "Write one of those below, or add it")
	}
	if b.DatabaseURL != nil && *b.DatabaseURL != "" {
		if u, err := url.Parse(*b.DatabaseURL); err != nil || u.Scheme != "postgres" && u.Scheme != "postgresql" {
			p.found.Add(b.DatabaseURLAt, "database_url is no PostgreSQL URL", `Write it like "postgres://role:password@host:5432/name", or leave it out for a private cluster`)
		}
		k.DatabaseURL = Secret(*b.DatabaseURL)
	}
	if b.LogLevel != "" {
		if err := k.LogLevel.UnmarshalText([]byte(b.LogLevel)); err != nil {
			p.found.Add(b.LogLevelAt, fmt.Sprintf("log_level %q is unknown", b.LogLevel), `Write "debug", "info", "warn" or "error"`)
			k.LogLevel = slog.LevelInfo
		}
	}
	p.limits(b, &k)
	p.metrics(b, &k)
	p.bus(b.Bus, &k)
	p.blobs(b.Blobs, &k)
	p.d.Kernel = k
}

// metrics are for operators: they go where the public does not reach.
func (p *parser) metrics(b *kernelBlock, k *Kernel) {
	if b.Metrics == "" {
		return
	}
	host, port, err := net.SplitHostPort(b.Metrics)
	ip := net.ParseIP(host)
	switch {
	case err != nil || !isPort(port):
		p.found.Add(b.MetricsAt, fmt.Sprintf("metrics %q is no address", b.Metrics), `Write host and port, like "127.0.0.1:9464"`)
	case host != "localhost" && (ip == nil || !ip.IsLoopback() && !ip.IsPrivate()):
		p.found.Add(b.MetricsAt, fmt.Sprintf("metrics %q is open to the public", b.Metrics), `Write an address of this machine or of a private network, like "127.0.0.1:9464"`)
	case b.Metrics == k.Listen:
		p.found.Add(b.MetricsAt, "metrics is the public port", "Write another port")
	}
	k.Metrics = b.Metrics
}

// mostDays is a bound for typing mistakes: a hundred years.
const mostDays = 36_500

func (p *parser) bus(b *busBlock, k *Kernel) {
	if b == nil {
		return
	}
	if b.KeepDays < 1 || b.KeepDays > mostDays {
		p.found.Add(b.KeepDaysAt, fmt.Sprintf("keep_days %d is out of range", b.KeepDays), "Write 1 or more, or leave the bus block out to keep the log for ever")
	}
	k.Bus.KeepDays = b.KeepDays
}

func (p *parser) blobs(b *blobsBlock, k *Kernel) {
	k.Blobs.Dir = filepath.Join(k.DataDir, "blobs")
	if b == nil {
		return
	}
	u, err := url.Parse(b.URL)
	if err != nil || u.Scheme != "file" || u.Host != "" || u.RawQuery != "" || u.Fragment != "" || !filepath.IsAbs(u.Path) || filepath.Clean(u.Path) == "/" {
		p.found.Add(b.URLAt, fmt.Sprintf("url %q is no folder", b.URL), `Write it like "file:///srv/shop/blobs", or leave the blobs block out to keep them in data_dir`)
		return
	}
	k.Blobs.Dir = filepath.Clean(u.Path)
}

func (p *parser) limits(b *kernelBlock, k *Kernel) {
	if l := b.Limits; l != nil {
		k.Limits = Limits{RatePerSecond: l.RatePerSecond, Burst: l.Burst, InFlight: l.InFlight}
		if l.RatePerSecond < 0 || l.Burst < 0 || l.InFlight < 0 {
			p.found.Add(l.At, "a limit is negative", "Write a number above 0, or leave it out")
		}
		if l.Body != "" {
			var ok bool
			if k.Limits.Body, ok = parseSize(l.Body); !ok {
				p.found.Add(l.BodyAt, fmt.Sprintf("body %q is no size", l.Body), `Write it like "512KiB" or "1MiB", at most "1GiB"`)
			}
		}
	}
	if b.CORS != nil {
		for _, o := range b.CORS.Origins {
			if u, err := url.Parse(o); o != "*" && (err != nil || u.Host == "" || u.Scheme+"://"+u.Host != o) {
				p.found.Add(b.CORS.OriginsAt, fmt.Sprintf("%q is no web origin", o), `Write scheme and host without a path, like "https://shop.example"`)
			}
		}
		k.CORS.Origins = b.CORS.Origins
	}
	p.identity(b.Identity, k)
}

func (p *parser) identity(i *identityBlock, k *Kernel) {
	k.Identity = Identity{Mail: "file", Argon2MemoryKiB: 19456}
	if i == nil {
		return
	}
	if i.Mail != "" {
		k.Identity.Mail = i.Mail
	}
	if !slices.Contains([]string{"file", "discard"}, k.Identity.Mail) {
		p.found.Add(i.MailAt, fmt.Sprintf("mail %q is unknown", i.Mail), `Write "file" or "discard"`)
	}
	if i.Argon2MemoryKiB != 0 {
		k.Identity.Argon2MemoryKiB = i.Argon2MemoryKiB
		p.argon2(i.Argon2MemoryKiB, i.Argon2At)
	}
	if l := i.Limits; l != nil {
		k.Identity.ClientBurst, k.Identity.ClientPerSecond = l.ClientBurst, l.ClientPerSecond
		if l.ClientBurst < 0 || l.ClientPerSecond < 0 {
			p.found.Add(l.At, "a limit is negative", "Write a number above 0, or leave it out")
		}
	}
}

func (p *parser) argon2(kib uint32, at hcl.Range) {
	if kib < 8 || kib > 4<<20 {
		p.found.Add(at, fmt.Sprintf("argon2_memory_kib %d is out of range", kib), "Write at least 8, for people's passwords at least 19456 (19 MiB)")
	}
}

func isPort(s string) bool {
	_, err := strconv.ParseUint(s, 10, 16)
	return err == nil
}

// parseSize reads "512KiB", "1MiB" or a number of bytes.
func parseSize(s string) (int64, bool) {
	unit := int64(1)
	for suffix, u := range map[string]int64{"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30} {
		if before, ok := strings.CutSuffix(s, suffix); ok {
			s, unit = strings.TrimSpace(before), u
		}
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n <= 0 || n > (1<<30)/unit {
		return 0, false
	}
	return n * unit, true
}
