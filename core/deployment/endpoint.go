package deployment

import (
	"fmt"
	"net"
	"path/filepath"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/zclconf/go-cty/cty"

	"github.com/entrepot/entrepot/sdk/manifest/diagnostic"
)

// Endpoint is where the kernel of a deployment is reached on this machine.
type Endpoint struct {
	// URL of the public port.
	URL     string
	DataDir string
}

// ReadEndpoint reads no more of an operator's file than is needed to reach
// its kernel: a status asks neither for the plugins nor for the secrets.
func ReadEndpoint(path string) (Endpoint, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return Endpoint{}, err
	}
	src, err := readBounded(abs, maxFile)
	if err != nil {
		return Endpoint{}, fmt.Errorf("deployment: %w", err)
	}
	parsed, diags := hclsyntax.ParseConfig(src, path, hcl.InitialPos)
	values := map[string]string{"listen": "127.0.0.1:8080", "data_dir": ".run/data"}
	if !diags.HasErrors() {
		diags = append(diags, readKernel(parsed.Body, functions(filepath.Dir(abs)), values)...)
	}
	var found diagnostic.List
	found.AddHCL(diags)
	if err := found.Err(); err != nil {
		return Endpoint{}, err
	}
	host, port, err := net.SplitHostPort(values["listen"])
	if err != nil {
		return Endpoint{}, fmt.Errorf("%s: listen %q is no address", path, values["listen"])
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	return Endpoint{URL: "http://" + net.JoinHostPort(host, port), DataDir: resolve(filepath.Dir(abs), values["data_dir"])}, nil
}

func readKernel(body hcl.Body, ctx *hcl.EvalContext, values map[string]string) hcl.Diagnostics {
	content, _, diags := body.PartialContent(&hcl.BodySchema{Blocks: []hcl.BlockHeaderSchema{{Type: "kernel"}}})
	for _, b := range content.Blocks {
		attrs, _, more := b.Body.PartialContent(&hcl.BodySchema{Attributes: []hcl.AttributeSchema{{Name: "listen"}, {Name: "data_dir"}}})
		diags = append(diags, more...)
		for name, a := range attrs.Attributes {
			v, more := a.Expr.Value(ctx)
			diags = append(diags, more...)
			if !more.HasErrors() && v.Type() == cty.String && v.IsKnown() && !v.IsNull() {
				values[name] = v.AsString()
			}
		}
	}
	return diags
}
