package supervisor

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/entrepot/entrepot/core/registry"
)

func TestAWedgedProcessIsEndedAndReplaced(t *testing.T) {
	t.Parallel()
	h := start(t, "", func(p *pace) { p.checkEvery, p.check = 50*time.Millisecond, 200*time.Millisecond })
	pid := h.plugin().Process.PID
	require.NoError(t, syscall.Kill(pid, syscall.SIGSTOP))
	h.until(t, func(p *registry.Plugin) bool { return p.State == registry.Backoff })
	require.Contains(t, h.plugin().Reason, "did not answer its check 3 times")
	h.until(t, func(p *registry.Plugin) bool { return p.State == registry.Ready && p.Process.PID != pid })
	require.False(t, alive(pid))
}

func TestWhatTheInstancesAnswerIsShown(t *testing.T) {
	t.Parallel()
	h := start(t, "degraded", func(p *pace) { p.checkEvery = 20 * time.Millisecond })
	require.Equal(t, registry.Degraded, h.plugin().State)
	require.Contains(t, h.plugin().Reason, "echo: CARRIER_DOWN")
	require.Less(t, len(h.plugin().Reason), 3000, "whatever the plugin writes")
	require.False(t, h.reg.Snapshot().Instances["echo"].Healthy)
	_, err := h.echo(t.Context(), "a degraded plugin serves")
	require.NoError(t, err)
	h.mode(t, "")
	h.until(t, func(p *registry.Plugin) bool { return p.State == registry.Ready })
	require.True(t, h.reg.Snapshot().Instances["echo"].Healthy)
	revision := h.reg.Snapshot().Revision
	h.mode(t, "failed")
	h.until(t, func(p *registry.Plugin) bool { return p.State == registry.Degraded })
	require.Equal(t, revision+1, h.reg.Snapshot().Revision, "a check that finds nothing new changes nothing")
	require.Equal(t, "echo: JOURNAL_LOST", h.plugin().Reason)
}

func TestAReplacementThatCannotWorkIsNotTaken(t *testing.T) {
	t.Parallel()
	h := start(t, "", func(p *pace) { p.checkEvery = time.Hour })
	pid := h.plugin().Process.PID
	h.mode(t, "failed")
	require.ErrorContains(t, h.Restart(t.Context(), "echo"), "the new process fails its check: instance echo: JOURNAL_LOST")
	h.mode(t, "bad-config")
	require.ErrorContains(t, h.Restart(t.Context(), "echo"), "colour is not known")
	require.Equal(t, pid, h.plugin().Process.PID)
	require.Equal(t, registry.Ready, h.plugin().State)
	require.Zero(t, h.plugin().Restarts)
}

func TestOnlyItsOwnPluginIsLetInToTheKernelsSocket(t *testing.T) {
	t.Parallel()
	h := start(t, "")
	found, err := filepath.Glob(filepath.Join(h.sockets.dir, "plugin-dir*", "k"))
	require.NoError(t, err)
	require.Len(t, found, 1)
	for name, certificates := range map[string][]tls.Certificate{"nobody": nil, "a stranger": {stranger(t)}} {
		conn, err := net.Dial("unix", found[0])
		require.NoError(t, err)
		defer func() { _ = conn.Close() }()
		require.NoError(t, conn.SetDeadline(time.Now().Add(5*time.Second)))
		c := tls.Client(conn, &tls.Config{InsecureSkipVerify: true, Certificates: certificates})
		err = c.Handshake()
		if err == nil { // TLS 1.3: the refusal comes with the first read
			_, err = c.Read(make([]byte, 1))
		}
		require.ErrorContains(t, err, "remote error: tls", name)
	}
}

func stranger(t *testing.T) tls.Certificate {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{"localhost"}, NotAfter: time.Now().Add(time.Hour), ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	require.NoError(t, err)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func TestAGrandchildEndsWithACrash(t *testing.T) {
	t.Parallel()
	h := start(t, "grandchild")
	b, err := os.ReadFile(filepath.Join(h.dir, "grandchild"))
	require.NoError(t, err)
	child, err := strconv.Atoi(string(b))
	require.NoError(t, err)
	h.mode(t, "")
	_, err = h.echo(t.Context(), "crash")
	require.Error(t, err)
	h.until(t, func(p *registry.Plugin) bool { return p.State == registry.Ready && p.Restarts == 1 })
	require.Eventually(t, func() bool { return !running(child) }, 10*time.Second, 5*time.Millisecond)
}

func TestPluginsEndWithTheKernel(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	cmd := exec.Command(os.Args[0], "-test.run=^$")
	cmd.Env = append(os.Environ(), "SUPERVISOR_TEST_KERNEL="+dir, "SUPERVISOR_TEST_PLUGIN="+binary)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	var pid int
	var folder string
	_, err = fmt.Fscanf(out, "pid %d sockets %s\n", &pid, &folder)
	require.NoError(t, err)
	require.True(t, running(pid))
	require.NoError(t, cmd.Process.Kill())
	_ = cmd.Wait()
	require.Eventually(t, func() bool { return !running(pid) }, 10*time.Second, 5*time.Millisecond)
	// The next kernel clears up, and leaves alone what others use.
	foreign, err := os.MkdirTemp("", "entrepot-")
	require.NoError(t, err)
	defer func() { _ = os.RemoveAll(foreign) }()
	require.NoError(t, os.WriteFile(filepath.Join(foreign, lockFile), nil, 0o600))
	next, err := openSockets()
	require.NoError(t, err)
	require.NoDirExists(t, folder)
	another, err := openSockets()
	require.NoError(t, err)
	require.DirExists(t, next.dir)
	require.DirExists(t, foreign)
	next.close()
	another.close()
}

// kernelToKill is a process that supervises a plugin until it is killed.
func kernelToKill(dir string) {
	binary = os.Getenv("SUPERVISOR_TEST_PLUGIN")
	h := newHouse(&testing.T{}, dir, "")
	if err := h.Start(context.Background()); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Printf("pid %d sockets %s\n", h.plugin().Process.PID, h.sockets.dir)
	select {}
}
