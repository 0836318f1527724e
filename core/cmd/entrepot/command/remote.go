package command

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"connectrpc.com/connect/v2"
	"connectrpc.com/connect/v2/connecthttp"
	"github.com/spf13/cobra"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/entrepot/entrepot/core/deployment"
	"github.com/entrepot/entrepot/proto/entrepot/operator/v1/operatorv1connect"
	"github.com/entrepot/entrepot/sdk/fault"
)

// errUnreachable is wrapped when no kernel answers.
var errUnreachable = errors.New("no kernel answers")

// tokenFile is where a running kernel leaves the operator's token.
const tokenFile = "operator.token"

// remote speaks to the kernel of a deployment.
type remote struct {
	operator operatorv1connect.OperatorServiceClient
	bus      operatorv1connect.BusServiceClient
	sagas    operatorv1connect.SagaServiceClient
	file     string
}

func dial(file string) (*remote, error) {
	at, err := deployment.ReadEndpoint(file)
	if err != nil {
		return nil, err
	}
	path := filepath.Join(at.DataDir, tokenFile)
	token, err := os.ReadFile(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil, fmt.Errorf("%w: there is no %s; start one with: entrepot serve %s", errUnreachable, path, file)
	case errors.Is(err, os.ErrPermission):
		return nil, fmt.Errorf("%s may be read by the account that runs the kernel alone: use that account", path)
	case err != nil:
		return nil, err
	}
	base := http.DefaultTransport.(*http.Transport).Clone()
	base.Proxy = nil // the kernel is on this machine
	transport := connecthttp.NewTransport(&http.Client{Transport: bearer{token: strings.TrimSpace(string(token)), base: base}}, at.URL, connecthttp.WithReadMaxBytes(32<<20))
	client := connect.NewClient(transport)
	return &remote{
		operator: operatorv1connect.NewOperatorServiceClient(client),
		bus:      operatorv1connect.NewBusServiceClient(client),
		sagas:    operatorv1connect.NewSagaServiceClient(client),
		file:     file,
	}, nil
}

// bearer sets the operator's token.
type bearer struct {
	token string
	base  http.RoundTripper
}

// RoundTrip implements http.RoundTripper.
func (b bearer) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Header.Set("Authorization", "Bearer "+b.token)
	return b.base.RoundTrip(r)
}

// explain turns an answer of the kernel into a sentence.
func (r *remote) explain(err error) error {
	if err == nil {
		return nil
	}
	var dialed *net.OpError
	if errors.As(err, &dialed) && dialed.Op == "dial" {
		return fmt.Errorf("%w at %s: %w; start one with: entrepot serve %s", errUnreachable, dialed.Addr, dialed.Err, r.file)
	}
	var ce *connect.Error
	if !errors.As(err, &ce) {
		return err
	}
	text := fmt.Sprintf("%s (%s)", ce.Message(), ce.Code())
	if reason := fault.Reason(err); reason != "" {
		text = fmt.Sprintf("%s (%s, %s)", ce.Message(), ce.Code(), reason)
	}
	if ce.Code() == connect.CodeUnauthenticated {
		text += "; the token is of a kernel that ended: is this the right file?"
	}
	return errors.New(oneLine(text))
}

// online makes a command that speaks to a running kernel.
type online struct {
	use, short, long string
	least, most      int
	// fileArg says that the one argument is the operator's file; otherwise the
	// file is named by a flag.
	fileArg bool
	timeout time.Duration
	// call does the work and returns what --json prints, and how people are
	// told.
	call func(ctx context.Context, r *remote, args []string) (proto.Message, func(out io.Writer), error)
}

func (o online) command() *cobra.Command {
	var asJSON bool
	var file string
	cmd := &cobra.Command{Use: o.use, Short: o.short, Long: o.long, Args: between(o.least, o.most)}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the answer as JSON")
	if !o.fileArg {
		cmd.Flags().StringVarP(&file, "file", "f", defaultFile, "the deployment's file")
	}
	if o.timeout == 0 {
		o.timeout = 30 * time.Second
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if o.fileArg {
			file = fileOf(args)
		}
		r, err := dial(file)
		if err != nil {
			return err
		}
		ctx, cancel := context.WithTimeout(cmd.Context(), o.timeout)
		defer cancel()
		msg, tell, err := o.call(ctx, r, args)
		if err != nil {
			return r.explain(err)
		}
		if asJSON {
			return printJSON(cmd.OutOrStdout(), msg)
		}
		tell(cmd.OutOrStdout())
		return nil
	}
	return cmd
}

// printJSON prints a message in the contract's JSON. It is indented here:
// protojson varies its blanks on purpose.
func printJSON(out io.Writer, msg proto.Message) error {
	text, err := protojson.MarshalOptions{EmitUnpopulated: true}.Marshal(msg)
	if err != nil {
		return err
	}
	var indented bytes.Buffer
	if err := json.Indent(&indented, text, "", "  "); err != nil {
		return err
	}
	say(out, "%s", indented.String())
	return nil
}
