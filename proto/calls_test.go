package proto_test

import (
	"fmt"
	"maps"
	"os"
	"path"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	_ "github.com/entrepot/entrepot/proto/entrepot/aftersale/v1"
	_ "github.com/entrepot/entrepot/proto/entrepot/analytics/v1"
	_ "github.com/entrepot/entrepot/proto/entrepot/catalog/v1"
	_ "github.com/entrepot/entrepot/proto/entrepot/identity/v1"
	_ "github.com/entrepot/entrepot/proto/entrepot/inspection/v1"
	_ "github.com/entrepot/entrepot/proto/entrepot/logistics/v1"
	_ "github.com/entrepot/entrepot/proto/entrepot/notification/v1"
	_ "github.com/entrepot/entrepot/proto/entrepot/operator/v1"
	optionsv1 "github.com/entrepot/entrepot/proto/entrepot/options/v1"
	_ "github.com/entrepot/entrepot/proto/entrepot/order/v1"
	_ "github.com/entrepot/entrepot/proto/entrepot/payment/v1"
	_ "github.com/entrepot/entrepot/proto/entrepot/warehouse/v1"
)

// page is where every call from outside is told.
const page = "../docs/calls.md"

// callers are who may call from outside, as the page names them.
var callers = map[optionsv1.Audience]string{
	optionsv1.Audience_AUDIENCE_PUBLIC: "anybody", optionsv1.Audience_AUDIENCE_CONSUMER: "consumer", optionsv1.Audience_AUDIENCE_MERCHANT: "merchant",
	optionsv1.Audience_AUDIENCE_STAFF: "staff", optionsv1.Audience_AUDIENCE_OPERATOR: "operator",
}

// Every call that a terminal, staff or an operator can make is on one page,
// with who may make it and what for, as the contract says it. A method that
// says nothing of itself fails here. UPDATE=1 writes the page anew.
func TestThePageOfCallsTellsAll(t *testing.T) {
	t.Parallel()
	var text strings.Builder
	text.WriteString("# Calls\n\nEvery call from outside, by module: who may make it, with which permission, and what it is for, as the contract says it. " +
		"A call is\n`POST /entrepot.<area>.v1.<Service>/<Call>` with JSON, or Connect, gRPC and gRPC-Web with the generated clients; how the pieces go together is told for\n" +
		"[consumers](user-terminal.md) and [merchants](enterprise-terminal.md). Messages, bounds and errors stand in [`proto/`](../proto/entrepot).\n")
	services := make(map[string]protoreflect.ServiceDescriptor)
	protoregistry.GlobalFiles.RangeFiles(func(f protoreflect.FileDescriptor) bool {
		for i := range f.Services().Len() {
			s := f.Services().Get(i)
			services[string(s.FullName())] = s
		}
		return true
	})
	area := ""
	for _, name := range slices.Sorted(maps.Keys(services)) {
		s := services[name]
		rows := calls(t, s)
		if len(rows) == 0 {
			continue
		}
		if a := strings.Split(name, ".")[1]; a != area {
			area = a
			fmt.Fprintf(&text, "\n## %s\n", area)
		}
		fmt.Fprintf(&text, "\n### %s.v1.%s\n\n| call | who | what for |\n| --- | --- | --- |\n%s", area, s.Name(), strings.Join(rows, ""))
	}
	if os.Getenv("UPDATE") != "" {
		require.NoError(t, os.WriteFile(page, []byte(text.String()), 0o644))
	}
	have, err := os.ReadFile(page)
	require.NoError(t, err)
	require.Equal(t, text.String(), string(have), "docs/calls.md does not tell what the contract says; UPDATE=1 go test ./proto writes it anew")
}

// calls are a service's rows.
func calls(t *testing.T, s protoreflect.ServiceDescriptor) (rows []string) {
	t.Helper()
	file, err := os.ReadFile(s.ParentFile().Path())
	require.NoError(t, err)
	_, service, _ := strings.Cut(string(file), fmt.Sprintf("\nservice %s {", s.Name()))
	for i := range s.Methods().Len() {
		m := s.Methods().Get(i)
		access, _ := proto.GetExtension(m.Options(), optionsv1.E_Access).(*optionsv1.Access)
		var who []string
		for _, a := range access.GetAllow() {
			if name := callers[a]; name != "" {
				who = append(who, name)
			}
		}
		if len(who) == 0 {
			continue
		}
		names := strings.Join(who, ", ")
		if access.GetPermission() != "" {
			names += " (`" + access.GetPermission() + "`)"
		}
		words := saying(service, string(m.Name()))
		require.NotEmpty(t, words, "%s: %s says nothing of what it is for", path.Join("proto", s.ParentFile().Path()), m.Name())
		if m.IsStreamingServer() && !strings.Contains(strings.ToLower(words), "stream") {
			words += " A stream."
		}
		rows = append(rows, fmt.Sprintf("| `%s` | %s | %s |\n", m.Name(), names, strings.ReplaceAll(words, "|", `\|`)))
	}
	return rows
}

var sentence = regexp.MustCompile(`[.](\s|$)`)

// saying is the first sentence of a method's comment, without its name.
func saying(service, method string) string {
	lines := strings.Split(service, "\n")
	at := slices.IndexFunc(lines, func(l string) bool { return strings.HasPrefix(l, "  rpc "+method+"(") })
	var words []string
	for i := at - 1; i >= 0 && strings.HasPrefix(lines[i], "  // "); i-- {
		words = append([]string{strings.TrimPrefix(lines[i], "  // ")}, words...)
	}
	text := strings.Join(words, " ")
	if end := sentence.FindStringIndex(text); end != nil {
		text = text[:end[0]+1]
	}
	text = strings.TrimLeft(strings.TrimPrefix(text, method), " :")
	return strings.ToUpper(text[:min(1, len(text))]) + text[min(1, len(text)):]
}
