package epcis

import (
	"errors"
	"fmt"
	"maps"
	"strings"
)

// namespaces are the prefixes of a document: extensions' names and short URIs
// begin with one.
type namespaces map[string]string

// predefined are those of the standard's own context.
var predefined = namespaces{
	"epcis": "https://ref.gs1.org/epcis/", "cbv": cbv, "cbvmda": "urn:epcglobal:cbv:mda:", "gs1": voc,
	"rdfs": "http://www.w3.org/2000/01/rdf-schema#", "owl": "http://www.w3.org/2002/07/owl#", "xsd": "http://www.w3.org/2001/XMLSchema#",
	"dcterms": "http://purl.org/dc/terms/",
}

// Context is the standard's context, which every document names.
const Context = "https://ref.gs1.org/standards/epcis/2.0.0/epcis-context.jsonld"

// maxContexts bounds the contexts of a document, and the terms of each.
const maxContexts = 100

// isStandard tells whether a context is the standard's, of any release.
func isStandard(s string) bool {
	return strings.HasPrefix(s, "https://ref.gs1.org/standards/epcis/") && strings.HasSuffix(s, "epcis-context.jsonld")
}

// readContext adds the prefixes of a context to others. Contexts of others that
// stand for their address are not looked up; a prefix that only they define is
// not known. entries are what is not the standard's.
func readContext(v any, to namespaces) (ns namespaces, entries []any, standard bool, err error) {
	ns = maps.Clone(to)
	all, ok := v.([]any)
	if !ok {
		all = []any{v}
	}
	if len(all) > maxContexts {
		return nil, nil, false, fmt.Errorf("has more than %d contexts", maxContexts)
	}
	for _, c := range all {
		switch c := c.(type) {
		case string:
			if isStandard(c) {
				standard = true
				continue
			}
			if err := isURI(c, nil); err != nil {
				return nil, nil, false, fmt.Errorf("context %w", err)
			}
		case map[string]any:
			if len(c) > maxContexts {
				return nil, nil, false, fmt.Errorf("has a context of more than %d terms", maxContexts)
			}
			for term, def := range c {
				if err := ns.define(term, def); err != nil {
					return nil, nil, false, err
				}
			}
		default:
			return nil, nil, false, errors.New("has a context that is none")
		}
		entries = append(entries, c)
	}
	return ns, entries, standard, nil
}

// define takes a term of a context: a prefix with its namespace, or what type
// an extension has, which changes nothing here. The standard's own terms are
// protected.
func (ns namespaces) define(term string, def any) error {
	uri, isText := def.(string)
	_, ours := fields[term]
	switch {
	case strings.Contains(term, ":") && !strings.HasPrefix(term, "@"):
		return nil
	case ours, strings.HasPrefix(term, "@"), strings.Contains(uri, "{"), predefined[term] != "" && predefined[term] != uri && term != "cbvmda":
		return fmt.Errorf("context redefines %.60q", term)
	case !isText || isURI(uri, nil) != nil:
		return fmt.Errorf("context defines %.60q as what is no namespace", term)
	}
	switch term {
	case "http", "https", "urn", "ni", "geo", "did", "":
		return fmt.Errorf("context takes %q for a prefix", term)
	}
	ns[term] = uri
	return nil
}

// name is the full name of an extension: "{namespace}local".
func (ns namespaces) name(short string) (string, error) {
	prefix, local, ok := strings.Cut(short, ":")
	if uri := ns[prefix]; ok && uri != "" && local != "" {
		return "{" + uri + "}" + local, nil
	}
	if i := strings.LastIndexAny(short, "/#"); strings.HasPrefix(local, "//") && i > len(prefix)+2 && i+1 < len(short) && isURI(short, nil) == nil {
		return "{" + short[:i+1] + "}" + short[i+1:], nil
	}
	if !ok {
		return "", fmt.Errorf("has a member %.60q that it does not take", short)
	}
	return "", fmt.Errorf("has an extension %.60q of no namespace", short)
}

// expand writes a short URI in full.
func (ns namespaces) expand(s string) string {
	prefix, local, ok := strings.Cut(s, ":")
	if uri := ns[prefix]; ok && uri != "" && !strings.HasPrefix(local, "//") {
		return uri + local
	}
	return s
}
