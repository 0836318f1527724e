package manifest

import (
	"fmt"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
)

// maxDepth is deeper than any manifest: a block, and a list in it.
const maxDepth = 4

// literals looks at the words of a manifest before it is parsed. A manifest
// holds literal values alone, so an operator, a reference or deep nesting is
// refused here; the parser and the evaluator recurse on them, and a manifest
// printed by a hostile binary could exhaust their stack.
func (r *reader) literals(src []byte, filename string) {
	tokens, diags := hclsyntax.LexConfig(src, filename, hcl.InitialPos)
	if diags.HasErrors() {
		r.found.AddHCL(diags)
		return
	}
	depth := 0
	for _, t := range tokens {
		switch t.Type {
		case hclsyntax.TokenOBrace, hclsyntax.TokenOBrack:
			if depth++; depth > maxDepth {
				r.found.Add(t.Range, "brackets are nested too deep", "A manifest has blocks, and lists in them")
				return
			}
		case hclsyntax.TokenCBrace, hclsyntax.TokenCBrack:
			if depth--; depth < 0 {
				r.found.Add(t.Range, "nothing is open that this closes", "Take it out")
				return
			}
		case hclsyntax.TokenIdent, hclsyntax.TokenEqual, hclsyntax.TokenComma, hclsyntax.TokenNumberLit,
			hclsyntax.TokenOQuote, hclsyntax.TokenCQuote, hclsyntax.TokenQuotedLit,
			hclsyntax.TokenOHeredoc, hclsyntax.TokenCHeredoc, hclsyntax.TokenStringLit,
			hclsyntax.TokenComment, hclsyntax.TokenNewline, hclsyntax.TokenEOF:
		default:
			r.found.Add(t.Range, fmt.Sprintf("%q is not expected here", t.Bytes), "A manifest holds literal values alone: texts, numbers, true, false and lists")
			return
		}
	}
}
