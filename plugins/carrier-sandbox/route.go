package main

import (
	"time"

	providerv1 "github.com/entrepot/entrepot/proto/entrepot/logistics/provider/v1"
)

// Fates of parcels.
const (
	fateLost   = "lost"
	fateReturn = "return"
	fateAbsent = "absent"
	fateDelay  = "delay"
)

// stop is one scan of a route, so many of the company's hours after the
// parcel was handed over.
type stop struct {
	hours  int
	code   string
	status providerv1.Status
	text   string
	reason string
	// there says that it happens at the destination's side.
	there bool
}

const (
	statusHanded    = providerv1.Status_STATUS_HANDED_OVER
	statusTransit   = providerv1.Status_STATUS_IN_TRANSIT
	statusOut       = providerv1.Status_STATUS_OUT_FOR_DELIVERY
	statusDelivered = providerv1.Status_STATUS_DELIVERED
	statusFailed    = providerv1.Status_STATUS_DELIVERY_FAILED
	statusHold      = providerv1.Status_STATUS_ON_HOLD
	statusBack      = providerv1.Status_STATUS_RETURN_TO_SENDER
	statusReturned  = providerv1.Status_STATUS_RETURNED
	statusLost      = providerv1.Status_STATUS_LOST
)

// statuses of the company's codes.
var statuses = map[string]providerv1.Status{
	"handed_over": statusHanded, "hub": statusTransit, "customs": statusHold, "cleared": statusTransit, "delayed": statusTransit,
	"out": statusOut, "delivered": statusDelivered, "absent": statusFailed, "refused": statusBack, "back": statusReturned, "lost": statusLost,
}

// route is the way of a parcel by its fate, in the order it happens.
func route(border bool, fate string) []stop {
	all := []stop{{0, "handed_over", statusHanded, "taken over from the sender", "", false}, {2, "hub", statusTransit, "sorted", "", false}}
	at := 12
	if border {
		all = append(all, stop{10, "customs", statusHold, "presented to customs", "CUSTOMS_INSPECTION", true},
			stop{14, "cleared", statusTransit, "released by customs", "", true})
		at = 24
	}
	switch fate {
	case fateLost:
		return append(all, stop{at + 48, "lost", statusLost, "cannot be found", "CARRIER_LOST", true})
	case fateDelay:
		all = append(all, stop{at, "delayed", statusTransit, "the lorry is late", "CARRIER_DELAY", true})
		at += 24
	}
	all = append(all, stop{at, "out", statusOut, "on the van", "", true})
	switch fate {
	case fateReturn:
		return append(all, stop{at + 4, "refused", statusBack, "the consignee does not take it", "CONSIGNEE_REFUSED", true},
			stop{at + 28, "back", statusReturned, "given back to the sender", "", false})
	case fateAbsent:
		all = append(all, stop{at + 4, "absent", statusFailed, "nobody was in", "CONSIGNEE_ABSENT", true},
			stop{at + 24, "out", statusOut, "on the van again", "", true})
		at += 24
	}
	return append(all, stop{at + 4, "delivered", statusDelivered, "delivered", "", true})
}

// service is what the company sells.
type service struct {
	name, title string
	days        int32
	// price in hundredths of the price of a kilogram inside one country.
	price int64
}

var services = []service{{"economy", "Economy", 4, 100}, {"express", "Express", 1, 240}}

// Limits of a parcel.
const (
	maxGrams    = 31_500
	maxLengthMM = 1_200
	maxGirthMM  = 3_000
)

// price of a parcel: by the kilogram begun, three times as much across a
// border.
func (s service) total(perKilo int64, grams int32, border bool) int64 {
	kilos := int64(grams+999) / 1000
	n := perKilo * s.price / 100 * (4 + kilos) / 5
	if border {
		n *= 3
	}
	return n
}

// after is the time of a stop.
func (s stop) after(handed time.Time, hour time.Duration) time.Time {
	return handed.Add(time.Duration(s.hours) * hour)
}
