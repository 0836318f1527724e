package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
)

// rounds of ours and the limit in turns: what else the machine does then
// weighs on both.
const rounds = 3

// turn is what was done in a measured time, and the CPU it took.
type turn struct {
	done int
	took time.Duration
	// postgres is PostgreSQL's, others that of all who ask it.
	postgres, others time.Duration
}

func (t *turn) add(u turn) {
	t.done, t.took, t.postgres, t.others = t.done+u.done, t.took+u.took, t.postgres+u.postgres, t.others+u.others
}

func (t turn) rate() float64 { return float64(t.done) / t.took.Seconds() }

// per is the CPU of one.
func (t turn) per(d time.Duration) float64 { return ms(d) / float64(t.done) }

func (t turn) cpu() string { return fmt.Sprintf("%.3g + %.3g ms", t.per(t.postgres), t.per(t.others)) }

// beside shows ours and the limit.
func beside(what string, ours, limit turn, goal string) []figure {
	return []figure{
		{what + " a second over pgbench", fmt.Sprintf("%.2f", ours.rate()/limit.rate()), goal},
		{"  in turns, ours and pgbench", fmt.Sprintf("%.0f / %.0f", ours.rate(), limit.rate()), ""},
		{"  ours, CPU of PostgreSQL + all others for one", ours.cpu(), ""},
		{"  pgbench, CPU of PostgreSQL + pgbench for one", limit.cpu(), ""},
		{"  CPU of pgbench's over ours", fmt.Sprintf("%.2f", limit.per(limit.postgres+limit.others)/ours.per(ours.postgres+ours.others)), ""},
	}
}

// limit is a pgbench script on a copy of the shop's database: the same
// cluster, tables, indexes, triggers and durability, and no other process.
type limit struct {
	*cluster
	db     *pgx.Conn
	script string
	// schemas are where the script finds its tables; empty for all modules'.
	schemas string
	// base is the first number of the next run: rows are new in each.
	base int
}

// write keeps the script in a file.
func (l *limit) write(dir, name, text string) error {
	l.script = filepath.Join(dir, name)
	return os.WriteFile(l.script, []byte(text), 0o600)
}

var (
	processed = regexp.MustCompile(`(?m)^number of transactions actually processed: (\d+)`)
	tps       = regexp.MustCompile(`(?m)^tps = ([\d.]+) `)
)

// run runs the script n times by the bench's number of clients.
func (l *limit) run(ctx context.Context, b *bench, n int, define ...string) (t turn, err error) {
	l.base += firstNumber
	args := []string{
		"--no-vacuum", "--protocol=prepared", "--client=" + strconv.Itoa(b.width), "--transactions=" + strconv.Itoa(max(1, n/b.width)),
		"--file=" + l.script, "--define=turn=0", "--define=base=" + strconv.Itoa(l.base),
	}
	for _, d := range define {
		args = append(args, "--define="+d)
	}
	cmd := l.program(ctx, limitDatabase, "pgbench", args...)
	if l.schemas != "" {
		cmd.Env = append(cmd.Env, "PGOPTIONS=-c search_path="+l.schemas)
	}
	before, err := shares(b.shop.PID(), b.shop.Dir)
	if err != nil {
		return t, err
	}
	out, err := cmd.CombinedOutput()
	if err != nil {
		return t, fmt.Errorf("pgbench: %w: %s", err, out)
	}
	after, err := shares(b.shop.PID(), b.shop.Dir)
	if err != nil {
		return t, err
	}
	t.postgres, t.others = after[0]-before[0], cmd.ProcessState.UserTime()+cmd.ProcessState.SystemTime()
	count, rate := processed.FindSubmatch(out), tps.FindSubmatch(out)
	if count == nil || rate == nil {
		return t, fmt.Errorf("pgbench said %s", out)
	}
	t.done, _ = strconv.Atoi(string(count[1])) // digits, by the expression
	perSecond, err := strconv.ParseFloat(string(rate[1]), 64)
	t.took = time.Duration(float64(t.done) / perSecond * float64(time.Second))
	return t, err
}
