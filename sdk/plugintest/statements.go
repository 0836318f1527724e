package plugintest

import (
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/entrepot/entrepot/sdk/id"
)

var logged = regexp.MustCompile(`LOG:  (?:statement|execute [^:]+): (.*)`)

// LogStatements has PostgreSQL log what the module runs from here on, in
// sessions that are yet to begin: those of before are ended, and the module
// finds each dead once. Call it some ten times before you count.
func (m *Module) LogStatements(t testing.TB) {
	t.Helper()
	_, err := m.Admin.Exec(t.Context(), fmt.Sprintf(`DO $$ BEGIN EXECUTE format('ALTER ROLE %s IN DATABASE %%I SET log_statement = ''all''', current_database()); END $$`, m.role()))
	require.NoError(t, err)
	_, err = m.Admin.Exec(t.Context(), `SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE usename = $1 AND datname = current_database()`, m.role())
	require.NoError(t, err)
}

// Statements answers the first line of each statement that the module runs
// while do runs, BEGIN and COMMIT too, but for what the driver asks of a session
// that it takes up again. LogStatements comes before. The test is skipped where
// PostgreSQL keeps no log that can be read back.
func (m *Module) Statements(t testing.TB, do func()) (all []string) {
	t.Helper()
	var database string
	var file *string
	require.NoError(t, m.Admin.QueryRow(t.Context(), `SELECT current_database(), pg_current_logfile()`).Scan(&database, &file))
	if file == nil {
		t.Skip("this PostgreSQL keeps no log that can be read back")
	}
	before := m.mark(t)
	do()
	after := m.mark(t)
	var text string
	require.Eventually(t, func() bool {
		require.NoError(t, m.Admin.QueryRow(t.Context(), `SELECT pg_read_file(pg_current_logfile())`).Scan(&text))
		return strings.Contains(text, after)
	}, 20*time.Second, 20*time.Millisecond, "the collector of the log writes when it comes to it")
	_, text, _ = strings.Cut(text, before)
	text, _, _ = strings.Cut(text, after)
	for l := range strings.Lines(text) {
		found := logged.FindStringSubmatch(l)
		if found == nil || !strings.Contains(l, m.role()+"@"+database+" ") {
			continue
		}
		switch strings.TrimSpace(found[1]) {
		case "-- ping", ";", "":
		default:
			all = append(all, found[1])
		}
	}
	return all
}

// mark writes a row into the log after everything that was run before it.
func (m *Module) mark(t testing.TB) string {
	t.Helper()
	mark := id.New("mark")
	conn, err := m.Admin.Acquire(t.Context())
	require.NoError(t, err)
	defer conn.Release()
	for _, s := range []string{"SET log_statement = 'all'", "SELECT '" + mark + "'", "RESET log_statement"} {
		_, err = conn.Exec(t.Context(), s)
		require.NoError(t, err)
	}
	return mark
}

// role is the module's in the database.
func (m *Module) role() string { return roleOf(m.manifest) }
