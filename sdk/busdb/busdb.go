// Package busdb is the bus's SQL face: the schema that the kernel creates and
// the functions that a module's role may call in its own transactions. The
// kernel and the test kit lay down the same schema from here.
package busdb

import (
	"embed"
	"io/fs"
)

//go:embed migrations/*.sql
var migrations embed.FS

// Schema is the PostgreSQL schema of the bus.
const Schema = "bus"

// Migrations returns the bus's schema as files "<14 digits>_<words>.sql" at
// the root, to be run in order by the kernel's role.
func Migrations() fs.FS {
	sub, err := fs.Sub(migrations, "migrations")
	if err != nil {
		panic(err) // the folder is embedded above
	}
	return sub
}

// ModuleFunctions are the functions that every module's runtime role may
// execute. Nothing else of the schema is granted.
var ModuleFunctions = []string{
	"bus.publish(text[], text[], bytea[], text)",
	"bus.ack(smallint, smallint[], bigint[], bigint[])",
	"bus.ack_parked(smallint, bigint)",
	"bus.timer_set(text, text, text, bytea, timestamptz)",
	"bus.timer_cancel(text)",
	"bus.saga_start(uuid, text, int, text, bytea, text)",
	"bus.saga_signal(uuid, text, bytea)",
	"bus.step_begin(uuid, smallint, smallint, bigint)",
	"bus.step_end(uuid, smallint, smallint, smallint, bytea, boolean)",
}

// OwnerFunctions are the functions that the owner of a module's schema may
// execute: what the body of a SECURITY DEFINER function of the module may ask.
var OwnerFunctions = []string{"bus.heard(bigint)"}

// SQLSTATEs that the functions raise.
const (
	// StaleDelivery: the lane's position is elsewhere; another delivery won.
	StaleDelivery = "BU001"
	// StaleSaga: the saga's driver was taken over, or the saga has ended.
	StaleSaga = "BU002"
	// StepEnded: the step has its record already, or is being undone.
	StepEnded = "BU003"
)

// Lanes is the number of ordered stripes of the log. Fixed for ever: a key's
// lane is hashtextextended(key, 0) & (Lanes-1).
const Lanes = 64

// Status of a saga as bus.saga holds it.
const (
	SagaRunning      = 0
	SagaWaiting      = 1
	SagaCompensating = 2
	SagaDone         = 3
	SagaCompensated  = 4
	SagaStuck        = 5
)

// Status of a saga step as bus.saga_step holds it.
const (
	StepBegun   = 0
	StepDone    = 1
	StepRefused = 2
	StepUnknown = 3
)
