package main

import (
	"context"
	"time"

	"github.com/entrepot/entrepot/sdk/store"
)

// step is something that happened to goods: a row of unit_step for each unit,
// and one EPCIS event.
type step struct {
	// units, or a quantity of a sku and lot where goods have none.
	units    []*unit
	sku, lot string
	gtin     string
	quantity int64
	merchant string
	// bizStep and disposition are CBV words; disposition is the one after it.
	bizStep, disposition string
	// from held the goods before, holder holds them now: read point and
	// location are made of them. Empty from: nobody before, or the same.
	from, holder string
	// document of it, and what that is: a CBV business transaction type
	// ("desadv", "rma", "inv", "testres", ...), or empty.
	document, transaction string
	// action is the EPCIS one; empty means OBSERVE.
	action string
	at     time.Time
	// event is the id of the EPCIS event that told it; empty: one is written.
	event string
}

// recordStep writes what happened: the units' steps and the EPCIS events of
// them, in the transaction in which it happens.
func (s *service) recordStep(ctx context.Context, tx *store.Tx, steps ...step) error {
	steps = byMerchant(steps)
	var units, bizSteps, dispositions, holders, documents, eventIDs []string
	var ats []time.Time
	for i := range steps {
		if steps[i].action == "" {
			steps[i].action = "OBSERVE"
		}
		if steps[i].at.IsZero() {
			steps[i].at = time.Now().UTC()
		}
	}
	events, err := s.epcisEvents(ctx, tx, steps)
	if err != nil {
		return err
	}
	for i, st := range steps {
		for _, u := range st.units {
			units, ats, bizSteps, dispositions = append(units, u.id), append(ats, st.at), append(bizSteps, st.bizStep), append(dispositions, st.disposition)
			holders, documents, eventIDs = append(holders, st.holder), append(documents, st.document), append(eventIDs, events[i])
		}
	}
	if len(units) == 0 {
		return nil
	}
	_, err = tx.Do(ctx, `INSERT INTO unit_step (unit, at, biz_step, disposition, holder, reference, event_id)
		SELECT u, a, b, d, h, r, e FROM unnest($1::text[], $2::timestamptz[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[])
		WITH ORDINALITY x(u, a, b, d, h, r, e, n) ORDER BY n`, units, ats, bizSteps, dispositions, holders, documents, eventIDs)
	if err != nil {
		return err
	}
	return s.lose(ctx, tx, steps)
}
