package deployment

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	pluginv1 "github.com/entrepot/entrepot/proto/entrepot/plugin/v1"
	"github.com/entrepot/entrepot/sdk/manifest"
)

// manifestTimeout bounds a binary that is asked for its manifest.
const manifestTimeout = 5 * time.Second

// ReadManifest runs a plugin's binary with the flag --manifest and reads what
// it prints. The binary is bounded in time and output, gets no environment,
// and is killed with all it started.
func ReadManifest(ctx context.Context, binary string) (*pluginv1.Manifest, error) {
	ctx, cancel := context.WithTimeout(ctx, manifestTimeout)
	defer cancel()
	out := bounded{stop: cancel}
	cmd := exec.CommandContext(ctx, binary, "--manifest")
	cmd.Dir, cmd.Env, cmd.Stdout = filepath.Dir(binary), []string{"LANG=C.UTF-8"}, &out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second
	err := cmd.Run()
	if cmd.Process != nil {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // what it may have left
	}
	switch {
	case out.full:
		return nil, fmt.Errorf("%s --manifest prints more than %d bytes", binary, manifest.MaxBytes)
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return nil, fmt.Errorf("%s --manifest does not answer within %s", binary, manifestTimeout)
	case err != nil:
		return nil, fmt.Errorf("%s --manifest: %w; is it a plugin of this release?", binary, err)
	}
	return manifest.Parse(out.kept.Bytes(), filepath.Base(binary)+" plugin.hcl")
}

// bounded keeps as much as a manifest may have. The buffer is no embedded
// field: its ReadFrom would pass Write by.
type bounded struct {
	kept bytes.Buffer
	full bool
	stop context.CancelFunc
}

func (b *bounded) Write(p []byte) (int, error) {
	if b.kept.Len()+len(p) > manifest.MaxBytes {
		b.full = true
		b.stop() // a program may write on into a closed pipe
		return 0, errors.New("too much output")
	}
	return b.kept.Write(p)
}
