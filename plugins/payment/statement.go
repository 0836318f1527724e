package main

import (
	"bytes"
	"context"
	"encoding/csv"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/timestamppb"

	paymentv1 "github.com/entrepot/entrepot/proto/entrepot/payment/v1"
	"github.com/entrepot/entrepot/proto/entrepot/payment/v1/paymentv1connect"
	"github.com/entrepot/entrepot/sdk/fault"
	"github.com/entrepot/entrepot/sdk/store"
)

const (
	// statementBatch is how many lines are read and sent at once.
	statementBatch = 500
	// statementOpens answers what a merchant had before a period, and how many
	// lines the period has.
	statementOpens = `SELECT coalesce(sum(CASE WHEN t.at < $4 THEN CASE WHEN t.credit LIKE $1 THEN t.amount ELSE 0 END - CASE WHEN t.debit LIKE $1 THEN t.amount ELSE 0 END END), 0)::bigint,
  count(*) FILTER (WHERE t.at >= $4) FROM transfer t WHERE (t.credit = ANY ($2) OR t.debit = ANY ($2)) AND t.currency = $3 AND t.at < $5`
	// statementPage reads the lines after a place.
	statementPage = `SELECT t.id, t.at, t.kind, t.payment, coalesce(p.reference, ''),
  CASE WHEN t.credit LIKE $1 THEN t.amount ELSE 0 END - CASE WHEN t.debit LIKE $1 THEN t.amount ELSE 0 END,
  CASE WHEN t.credit = $6 THEN t.amount WHEN t.debit = $6 THEN -t.amount ELSE 0 END, t.instance
  FROM transfer t LEFT JOIN payment p ON p.id = t.payment WHERE (t.credit = ANY ($2) OR t.debit = ANY ($2)) AND t.currency = $3
   AND (t.at, t.id) > ($4, $7) AND t.at < $5 ORDER BY t.at, t.id LIMIT $8`
)

// ExportStatement streams a merchant's postings of a period as a file.
func (s *service) ExportStatement(ctx context.Context, req *paymentv1.ExportStatementRequest, stream paymentv1connect.SettlementServiceExportStatementServerStream) error {
	merchant, err := whose(ctx, req.GetMerchantId())
	from, until := req.GetFrom(), req.GetUntil()
	switch {
	case err != nil:
		return err
	case merchant == "":
		return fault.Field("merchant_id", "is needed")
	case from.CheckValid() != nil || until.CheckValid() != nil || !from.AsTime().Before(until.AsTime()):
		return fault.Field("until", "must be after from")
	}
	own := "merchant:" + merchant + ":"
	accounts := accountsOf(merchant)
	f := &statementFile{json: req.GetFormat() == paymentv1.ExportStatementRequest_FORMAT_JSON_LINES, currency: req.GetCurrencyCode()}
	var total, done int64
	if err := s.db.Row(ctx, statementOpens, own+"%", accounts, f.currency, from.AsTime(), until.AsTime()).Scan(&f.balance, &total); err != nil {
		return store.Wrap(err)
	}
	if err := f.head(); err != nil {
		return err
	}
	// Ids begin with 1: the first page begins with the period.
	at, after := from.AsTime(), int64(0)
	for {
		n := 0
		rows, err := s.db.Rows(ctx, statementPage, own+"%", accounts, f.currency, at, until.AsTime(), availableOf(merchant), after, statementBatch)
		if err := each(rows, err, func() error {
			n++
			l := &paymentv1.StatementLine{}
			var when time.Time
			if err := rows.Scan(&after, &when, &l.Kind, &l.SubjectId, &l.Reference, &l.MinorUnits, &l.AvailableMinor, &l.Instance); err != nil {
				return err
			}
			at, l.At = when, timestamppb.New(when)
			return f.line(l)
		}); err != nil {
			return store.Wrap(err)
		}
		done += int64(n)
		if n > 0 || done == 0 {
			if err := stream.Send(&paymentv1.ExportStatementResponse{Data: bytes.Clone(f.text.Bytes()), Done: done, Total: max(total, done)}); err != nil {
				return err
			}
			f.text.Reset()
		}
		if n < statementBatch {
			return nil
		}
	}
}

// statementFile writes lines of a statement as a file.
type statementFile struct {
	json     bool
	currency string
	// balance is what the merchant has after the last line.
	balance int64
	text    bytes.Buffer
}

func (f *statementFile) head() error {
	if f.json {
		return nil
	}
	return f.row("at", "kind", "subject_id", "reference", "instance", "currency", "minor_units", "available_minor", "balance_minor")
}

func (f *statementFile) line(l *paymentv1.StatementLine) error {
	f.balance += l.GetMinorUnits()
	if f.json {
		b, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(l)
		f.text.Write(append(b, '\n'))
		return err
	}
	number := func(n int64) string { return strconv.FormatInt(n, 10) }
	return f.row(l.GetAt().AsTime().Format(time.RFC3339Nano), l.GetKind(), l.GetSubjectId(), text(l.GetReference()), text(l.GetInstance()), f.currency,
		number(l.GetMinorUnits()), number(l.GetAvailableMinor()), number(f.balance))
}

// text is a cell of words. One that a spreadsheet would take for a formula is
// made a text: https://owasp.org/www-community/attacks/CSV_Injection
func text(cell string) string {
	if cell != "" && strings.ContainsRune("=+-@\t\r\n", rune(cell[0])) {
		return "'" + cell
	}
	return cell
}

func (f *statementFile) row(cells ...string) error {
	w := csv.NewWriter(&f.text)
	w.UseCRLF = true
	if err := w.Write(cells); err != nil {
		return err
	}
	w.Flush()
	return w.Error()
}
