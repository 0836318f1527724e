package main

import (
	"context"
	"strings"

	inspectionv1 "github.com/entrepot/entrepot/proto/entrepot/inspection/v1"
	"github.com/entrepot/entrepot/sdk/store"
)

const sums = `SELECT 'case', state::int, '', count(*) FROM case_file GROUP BY state
UNION ALL SELECT 'verdict', verdict::int, '', sum(quantity)::bigint FROM case_file WHERE state >= 5 AND origin <> 4 GROUP BY verdict
UNION ALL SELECT 'disposition', 0, disposition, count(*) FROM unit GROUP BY disposition
UNION ALL SELECT 'holder', 0, split_part(holder, '/', 1), count(*) FROM unit GROUP BY 3
UNION ALL SELECT 'destroyed', 0, '', coalesce(sum(quantity), 0)::bigint FROM destruction WHERE state >= 2
UNION ALL SELECT 'clones', 0, '', count(*) FROM sighting
UNION ALL SELECT 'held', 0, '', count(*) FROM doubt WHERE standing`

// SumInspection counts everything there is, in one look at one moment.
func (s *service) SumInspection(ctx context.Context, _ *inspectionv1.SumInspectionRequest) (*inspectionv1.SumInspectionResponse, error) {
	res := &inspectionv1.SumInspectionResponse{
		Cases: make(map[string]int64), Verdicts: make(map[string]int64), Dispositions: make(map[string]int64), Holders: make(map[string]int64),
	}
	rows, err := s.db.Rows(ctx, sums)
	if err := each(rows, err, func(r row) error {
		var of, key string
		var number int32
		var n int64
		if err := r.Scan(&of, &number, &key, &n); err != nil {
			return err
		}
		switch of {
		case "case":
			res.Cases[named(inspectionv1.Case_State(number).String(), "STATE_")] = n
		case "verdict":
			res.Verdicts[named(inspectionv1.Verdict(number).String(), "VERDICT_")] = n
		case "disposition":
			res.Dispositions[key] = n
		case "holder":
			res.Holders[key] = n
		case "destroyed":
			res.Destroyed = n
		case "clones":
			res.ClonesSuspected = n
		case "held":
			res.SalesHeld = n
		}
		return nil
	}); err != nil {
		return nil, store.Wrap(err)
	}
	if res.CertificatesIssued, res.CertificatesRevoked, err = s.countCertificates(ctx); err != nil {
		return nil, store.Wrap(err)
	}
	return res, nil
}

// named is a word of the contract without its prefix, in small letters.
func named(word, prefix string) string { return strings.ToLower(strings.TrimPrefix(word, prefix)) }
