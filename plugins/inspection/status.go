package main

import (
	"context"
	"fmt"
	"net/url"
	"time"

	"connectrpc.com/connect/v2"

	inspectionv1 "github.com/entrepot/entrepot/proto/entrepot/inspection/v1"
	"github.com/entrepot/entrepot/proto/entrepot/inspection/v1/inspectionv1connect"
	"github.com/entrepot/entrepot/sdk/credential"
	"github.com/entrepot/entrepot/sdk/fault"
	"github.com/entrepot/entrepot/sdk/store"
)

const (
	// listValid is how long a status list may be used for: who keeps an older
	// one learns nothing of what was revoked since.
	listValid = 24 * time.Hour
	// listFresh is how long one is answered again while nothing changes.
	listFresh = time.Hour
)

// signedList is a status list as it was signed.
type signedList struct {
	revoked    int
	at         time.Time
	credential []byte
}

// listURL is where a status list is read: GetStatusList, called by GET.
func (s *service) listURL(list int32) string {
	return s.base + inspectionv1connect.CertificateServiceGetStatusListProcedure + "?connect=v1&encoding=json&message=" +
		url.QueryEscape(fmt.Sprintf(`{"list":%d}`, list))
}

// GetStatusList answers a list as it is now. It is signed anew when something
// was revoked since, which the number of revoked ones tells: none comes back.
func (s *service) GetStatusList(ctx context.Context, req *inspectionv1.GetStatusListRequest) (*inspectionv1.GetStatusListResponse, error) {
	n := req.GetList()
	var revoked int
	var there bool
	if err := s.db.Row(ctx, `SELECT (SELECT count(*) FROM certificate WHERE list = $1 AND revoked_at IS NOT NULL),
		$1 = 1 OR (SELECT is_called AND last_value >= ($1::int8 - 1) * $2 FROM certificate_number)`, n, credential.Entries).Scan(&revoked, &there); err != nil {
		return nil, store.Wrap(err)
	}
	if !there {
		return nil, fault.New(connect.CodeNotFound, "LIST_UNKNOWN", "no such list yet")
	}
	s.listsMu.Lock()
	known := s.lists[n]
	s.listsMu.Unlock()
	now := time.Now()
	if known.credential != nil && known.revoked == revoked && now.Sub(known.at) < listFresh {
		return &inspectionv1.GetStatusListResponse{Credential: known.credential}, nil
	}
	list := credential.NewList()
	fresh := signedList{at: now}
	rows, err := s.db.Rows(ctx, `SELECT entry FROM certificate WHERE list = $1 AND revoked_at IS NOT NULL`, n)
	if err := each(rows, err, func(r row) error {
		var entry int
		if err := r.Scan(&entry); err != nil {
			return err
		}
		fresh.revoked++
		list.Set(entry)
		return nil
	}); err != nil {
		return nil, store.Wrap(err)
	}
	if fresh.credential, err = s.signer.SignList(s.listURL(n), list, now, listValid); err != nil {
		return nil, err
	}
	s.listsMu.Lock()
	s.lists[n] = fresh
	s.listsMu.Unlock()
	return &inspectionv1.GetStatusListResponse{Credential: fresh.credential}, nil
}
