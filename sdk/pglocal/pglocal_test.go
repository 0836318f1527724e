package pglocal

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
)

// TestMain is also the program that TestAKilledProcess kills.
func TestMain(m *testing.M) {
	if dir := os.Getenv("PGLOCAL_TEST_DIR"); dir != "" {
		c, err := Start(context.Background(), Options{Dir: dir})
		if err != nil {
			fmt.Println("error:", err)
			os.Exit(1)
		}
		fmt.Println(c.process.Pid)
		select {}
	}
	os.Exit(m.Run())
}

// folder is one that the account PostgreSQL runs as can reach: the testing
// package's own are closed to all but their maker.
func folder(t *testing.T) string {
	dir, err := os.MkdirTemp("", "pglocal-")
	require.NoError(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

func start(t *testing.T, opts Options) *Cluster {
	c, err := Start(t.Context(), opts)
	require.NoError(t, err)
	t.Cleanup(func() { _ = c.Stop(context.Background()) })
	return c
}

func query(t *testing.T, c *Cluster, sql string) string {
	conn, err := pgx.Connect(t.Context(), c.URL("postgres"))
	require.NoError(t, err)
	defer func() { _ = conn.Close(context.Background()) }()
	rows, err := conn.Query(t.Context(), sql)
	require.NoError(t, err)
	all, err := pgx.CollectRows(rows, pgx.RowTo[string])
	require.NoError(t, err)
	return strings.Join(all, ",")
}

func TestAClusterKeepsItsDataOverAStopAndSaysWhenItEnds(t *testing.T) {
	t.Parallel()
	dir := folder(t)
	c := start(t, Options{Dir: dir, Durable: true})
	require.GreaterOrEqual(t, c.Version, MinVersion)
	require.Equal(t, "on,on,on", query(t, c, `SELECT setting FROM pg_settings WHERE name IN ('fsync', 'full_page_writes', 'synchronous_commit')`))
	require.Empty(t, query(t, c, "SHOW listen_addresses"), "no port is opened")
	require.Equal(t, "UTF8", query(t, c, "SHOW server_encoding"))
	query(t, c, "CREATE TABLE kept AS SELECT 'yes' AS a")

	_, err := pgx.Connect(t.Context(), c.URLFor(Superuser, "wrong", "postgres"))
	require.ErrorContains(t, err, "password authentication failed")

	require.NoError(t, c.Stop(t.Context()))
	require.NoError(t, c.Stop(t.Context()), "stopping again is harmless")
	<-c.Exited()
	require.Equal(t, "yes", query(t, start(t, Options{Dir: dir}), "SELECT a FROM kept"))
}

func TestAFolderBelongsToOneProcess(t *testing.T) {
	t.Parallel()
	dir := folder(t)
	c := start(t, Options{Dir: dir})
	_, err := Start(t.Context(), Options{Dir: dir})
	require.ErrorIs(t, err, ErrInUse)
	require.ErrorContains(t, err, fmt.Sprint(os.Getpid()))
	require.Equal(t, "1", query(t, c, "SELECT '1'"), "the one that runs is not harmed")
}

// other starts a cluster from another process, and returns that process and
// the server's.
func other(t *testing.T, dir string) (*os.Process, int) {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "PGLOCAL_TEST_DIR="+dir)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	var pid int
	_, err = fmt.Fscan(out, &pid)
	require.NoError(t, err)
	t.Cleanup(func() { _ = cmd.Process.Kill(); _, _ = io.Copy(io.Discard, out); _ = cmd.Wait() })
	return cmd.Process, pid
}

func TestPostgreSQLEndsWithAKilledProcess(t *testing.T) {
	t.Parallel()
	dir := folder(t)
	process, pid := other(t, dir)
	require.NoError(t, process.Kill())
	gone, err := waitGone(t.Context(), pid, time.Minute)
	require.NoError(t, err)
	require.True(t, gone)
	require.Equal(t, "1", query(t, start(t, Options{Dir: dir}), "SELECT '1'"))
}

func TestAServerThatWasLeftBehindIsEndedAndTheDataRecovered(t *testing.T) {
	t.Parallel()
	dir := folder(t)
	c := start(t, Options{Dir: dir})
	query(t, c, "CREATE TABLE kept AS SELECT 'yes' AS a")
	// As after a kill that also took the watchdog: the lock is free, the
	// server runs.
	c.watchdog()
	unlockDir(c.lock)

	again := start(t, Options{Dir: dir})
	<-c.Exited()
	require.Equal(t, "yes", query(t, again, "SELECT a FROM kept"))
}

func TestAStrangersProcessNumberInAStaleFileIsNotKilled(t *testing.T) {
	t.Parallel()
	dir := folder(t)
	c := start(t, Options{Dir: dir})
	pidFile := filepath.Join(dir, "data", "postmaster.pid")
	stale, err := os.ReadFile(pidFile)
	require.NoError(t, err)
	require.NoError(t, c.process.Signal(syscall.SIGKILL))
	<-c.Exited()
	require.NoError(t, c.Stop(t.Context()))
	_, rest, _ := strings.Cut(string(stale), "\n")
	require.NoError(t, os.WriteFile(pidFile, fmt.Appendf(nil, "%d\n%s", os.Getpid(), rest), 0o600))
	require.Equal(t, "1", query(t, start(t, Options{Dir: dir}), "SELECT '1'"))
}

func TestALongPathGetsAShortSocket(t *testing.T) {
	t.Parallel()
	top := folder(t)
	require.NoError(t, os.Chmod(top, 0o755))
	dir := filepath.Join(top, strings.Repeat("long/", 24)+"data")
	require.NoError(t, os.MkdirAll(dir, 0o755))
	c := start(t, Options{Dir: dir})
	require.LessOrEqual(t, len(filepath.Join(c.socketDir, socketName)), socketLimit)
	require.Equal(t, "1", query(t, c, "SELECT '1'"))
	t.Cleanup(func() { _ = os.RemoveAll(c.socketDir) })
}

func TestRootIsToldWhichFolderKeepsPostgreSQLOut(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root changes the account")
	}
	closed := folder(t)
	_, err := Start(t.Context(), Options{Dir: filepath.Join(closed, "data")})
	require.ErrorContains(t, err, "may not enter "+closed)
	require.ErrorContains(t, err, "chmod o+x "+closed)
}

func TestVersionsAreRead(t *testing.T) {
	for in, want := range map[string]int{
		"postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)": 15,
		"postgres (PostgreSQL) 18beta1":                        18,
		"postgres (PostgreSQL) 17":                             17,
	} {
		got, err := majorVersion(in)
		require.NoError(t, err, in)
		require.Equal(t, want, got, in)
	}
	_, err := majorVersion("mysqld 8.0")
	require.Error(t, err)
}

func TestWithoutProgramsTheErrorSaysWhatToInstall(t *testing.T) {
	require.Contains(t, remedy(), "install")
	_, err := findVersion(3)
	require.ErrorIs(t, err, ErrNotInstalled)
	require.ErrorContains(t, err, "pg_upgrade")
}
