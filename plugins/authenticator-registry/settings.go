package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"

	pluginv1 "github.com/entrepot/entrepot/proto/entrepot/plugin/v1"
)

// settings are an instance's configuration; the manifest describes them.
type settings struct {
	Registers []string `json:"registers"`
	Reload    string   `json:"reload"`
}

const maxRegisters = 100

// validate reads the registers, so that a bad line is found before anything
// depends on it.
func validate(config json.RawMessage) (found []*pluginv1.Diagnostic) {
	var s settings
	wrong := func(field, format string, args ...any) {
		found = append(found, &pluginv1.Diagnostic{Severity: pluginv1.Diagnostic_SEVERITY_ERROR, Field: field, Message: fmt.Sprintf(format, args...)})
	}
	if err := json.Unmarshal(config, &s); err != nil {
		wrong("registers", "want a list of files")
		return found
	}
	if _, err := s.every(); err != nil {
		wrong("reload", "%v", err)
	}
	if len(s.Registers) == 0 || len(s.Registers) > maxRegisters {
		wrong("registers", "want 1 to %d files", maxRegisters)
	} else if _, err := readRegisters(s.Registers); err != nil {
		wrong("registers", "%v", err)
	}
	return found
}

func (s *settings) every() (time.Duration, error) {
	if s.Reload == "" {
		return 5 * time.Second, nil
	}
	d, err := time.ParseDuration(s.Reload)
	if err != nil || d < 0 || d > 24*time.Hour {
		return 0, errors.New("want between \"0s\" and \"24h\"")
	}
	return d, nil
}
