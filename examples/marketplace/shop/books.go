package shop

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
)

// Company sums what a payment company's own books say it did.
type Company struct {
	Currency                                        string
	Authorized, Captured, Voided, Refunded, PaidOut int64
	// Disputed is what banks took and did not give back; Disputes are counted by
	// how they stand: open, won, lost; Fees are what the company keeps for them.
	Disputed, Fees int64
	Disputes       map[string]int64
}

// companies reads the books of every payment company where the company wrote
// them (plugins/payment-sandbox/README.md): no code of the marketplace stands
// between.
func (s *Shop) companies() (map[string]Company, error) {
	paths, err := filepath.Glob(filepath.Join(s.Dir, "data", "instances", "*", "journal.jsonl"))
	if err != nil {
		return nil, err
	}
	out := make(map[string]Company, len(paths))
	for _, path := range paths {
		c, err := readCompany(path)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		out[filepath.Base(filepath.Dir(path))] = c
	}
	return out, nil
}

func readCompany(path string) (c Company, err error) {
	f, err := os.Open(path)
	if err != nil {
		return c, err
	}
	defer func() { _ = f.Close() }()
	type line struct {
		Operation, Status, Currency, Reference string
		Minor, Fee                             int64
	}
	// The last line of a dispute is how it stands.
	disputes := map[string]line{}
	for lines := bufio.NewScanner(f); lines.Scan(); {
		var v line
		if err := json.Unmarshal(lines.Bytes(), &v); err != nil {
			return c, err
		}
		if v.Operation == "dispute" {
			disputes[v.Reference] = v
		}
		if v.Status != "succeeded" {
			continue
		}
		c.Currency = v.Currency
		switch v.Operation {
		case "authorize":
			c.Authorized += v.Minor
		case "capture":
			c.Captured += v.Minor
		case "void":
			c.Voided += v.Minor
		case "refund":
			c.Refunded += v.Minor
		case "payout":
			c.PaidOut += v.Minor
		}
	}
	c.Disputes = map[string]int64{}
	for _, v := range disputes {
		switch v.Status {
		case "won", "lost":
			c.Disputes[v.Status]++
		default:
			c.Disputes["open"]++
		}
		c.Fees += v.Fee
		if v.Status != "won" {
			c.Disputed += v.Minor
		}
	}
	return c, nil
}
