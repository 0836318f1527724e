package main

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"connectrpc.com/connect/v2"

	benchv1 "github.com/entrepot/entrepot/proto/entrepot/inspection/bench/v1"
	"github.com/entrepot/entrepot/proto/entrepot/inspection/bench/v1/benchv1connect"
	providerv1 "github.com/entrepot/entrepot/proto/entrepot/inspection/provider/v1"
	"github.com/entrepot/entrepot/proto/entrepot/inspection/provider/v1/providerv1connect"
	kernelv1 "github.com/entrepot/entrepot/proto/entrepot/kernel/v1"
	"github.com/entrepot/entrepot/sdk/call"
	"github.com/entrepot/entrepot/sdk/fault"
	"github.com/entrepot/entrepot/sdk/plugin"
	"github.com/entrepot/entrepot/sdk/state"
)

// bench is the authenticator of one instance, and the place where its people
// work.
type bench struct {
	// The capability retain is not declared: people look at goods, not at what
	// became of them.
	providerv1connect.UnimplementedAuthenticatorServiceHandler

	in         *plugin.Instance
	checklists checklists
	tasks      *state.Map[task]
}

func register(_ context.Context, in *plugin.Instance) error {
	var s settings
	if err := in.Config(&s); err != nil {
		return err
	}
	b := &bench{in: in, tasks: openTasks(in)}
	var err error
	if b.checklists, err = readChecklists(s.Checklist); err != nil {
		return err
	}
	providerv1connect.RegisterAuthenticatorServiceHandler(in.Server, b)
	benchv1connect.RegisterBenchServiceHandler(in.Server, b)
	return nil
}

// Check implements the authenticator: it opens a task, or tells how the one
// that the key opened stands.
func (b *bench) Check(ctx context.Context, req *providerv1.CheckRequest) (*providerv1.CheckResponse, error) {
	t, err := b.tasks.Update(ctx, req.GetKey(), func(t *task, known bool) (bool, error) {
		if !known {
			*t = task{
				Case: req.GetCaseId(), Unit: req.GetUnitId(), SKU: req.GetSku(), GTIN: req.GetGtin(), Serial: req.GetSerial(),
				Category: req.GetCategory(), Quantity: req.GetQuantity(), Opened: time.Now().UnixMilli(),
			}
		}
		return !known, nil
	})
	if err != nil {
		return nil, err
	}
	return &providerv1.CheckResponse{Outcome: t.outcome(req.GetKey())}, nil
}

// usualPage is how many tasks a page has where nobody says.
const usualPage = 50

// ListTasks implements the bench.
func (b *bench) ListTasks(ctx context.Context, req *benchv1.ListTasksRequest) (*benchv1.ListTasksResponse, error) {
	after, err := parsePlace(req.GetPageToken())
	if err != nil {
		return nil, fault.Field("page_token", "is none that was given out")
	}
	all, err := b.tasks.All(ctx)
	if err != nil {
		return nil, err
	}
	var found []place
	for id, t := range all {
		if at := (place{t.Opened, id}); at.compare(after) > 0 && (req.GetState() == 0 || (req.GetState() == benchv1.Task_STATE_DONE) == (t.Done != 0)) {
			found = append(found, at)
		}
	}
	slices.SortFunc(found, place.compare)
	res := &benchv1.ListTasksResponse{}
	for i, at := range found {
		if i == cmp.Or(int(req.GetPageSize()), usualPage) {
			res.NextPageToken = found[i-1].token()
			break
		}
		t := all[at.id]
		res.Tasks = append(res.Tasks, t.proto(at.id, b.checklists.of(t.Category)))
	}
	return res, nil
}

// place is where a task stands in the list: by when it was opened.
type place struct {
	opened int64
	id     string
}

func (p place) compare(q place) int {
	return cmp.Or(cmp.Compare(p.opened, q.opened), strings.Compare(p.id, q.id))
}

func (p place) token() string {
	return base64.RawURLEncoding.EncodeToString([]byte(strconv.FormatInt(p.opened, 10) + "/" + p.id))
}

func parsePlace(token string) (p place, err error) {
	if token == "" {
		return p, nil
	}
	text, err := base64.RawURLEncoding.DecodeString(token)
	if err != nil {
		return p, err
	}
	opened, id, _ := strings.Cut(string(text), "/")
	p.id = id
	p.opened, err = strconv.ParseInt(opened, 10, 64)
	return p, err
}

// GetTask implements the bench. Of a task that is done it shows everything.
func (b *bench) GetTask(ctx context.Context, req *benchv1.GetTaskRequest) (*benchv1.GetTaskResponse, error) {
	t, err := b.task(ctx, req.GetTaskId())
	if err != nil {
		return nil, err
	}
	out := t.proto(req.GetTaskId(), b.checklists.of(t.Category))
	for i, list := range out.GetChecklists() {
		res, err := b.in.Host.Blobs.GetBlob(ctx, &kernelv1.GetBlobRequest{BlobId: t.Sheets[i].Blob})
		if err != nil {
			return nil, err
		}
		if err := read(res.GetContent(), list); err != nil {
			return nil, err
		}
	}
	return &benchv1.GetTaskResponse{Task: out}, nil
}

func (b *bench) task(ctx context.Context, id string) (task, error) {
	t, known, err := b.tasks.Get(ctx, id)
	if err == nil && !known {
		err = fault.New(connect.CodeNotFound, "TASK_UNKNOWN", "there is no such task")
	}
	return t, err
}

// SubmitChecklist implements the bench. The sheet is kept as a blob first; the
// task then takes it in one write, and who ends the task tells everybody. If
// that is not heard, the sheet that is handed in again tells it, and Check does.
func (b *bench) SubmitChecklist(ctx context.Context, req *benchv1.SubmitChecklistRequest) (*benchv1.SubmitChecklistResponse, error) {
	who := call.From(ctx).Principal
	if who.Kind != call.Staff || who.Account == "" {
		return nil, fault.New(connect.CodePermissionDenied, "PERSON_UNKNOWN", "an inspector answers under their own account")
	}
	id := req.GetTaskId()
	t, err := b.task(ctx, id)
	if err != nil {
		return nil, err
	}
	filled, photos, err := fill(b.checklists.of(t.Category), req.GetAnswers())
	if err != nil {
		return nil, err
	}
	content, err := t.document(id, who.Account, req.GetResult(), req.GetNote(), filled)
	if err != nil {
		return nil, fmt.Errorf("checklist: %w", err)
	}
	sum := sha256.Sum256(content)
	s := sheet{
		Inspector: who.Account, Result: req.GetResult(), At: time.Now().UnixMilli(), Blob: "sha256-" + hex.EncodeToString(sum[:]),
		Photos: photos[:min(len(photos), photosTold)],
	}
	// What would be refused leaves no blob behind.
	if fresh, err := t.hand(s); err != nil {
		return nil, err
	} else if fresh {
		if err := b.there(ctx, photos); err != nil {
			return nil, err
		}
		if _, err := b.in.Host.Blobs.PutBlob(ctx, &kernelv1.PutBlobRequest{MediaType: "application/json", Content: content}); err != nil {
			return nil, err
		}
	}
	if t, err = b.tasks.Update(ctx, id, func(t *task, known bool) (bool, error) {
		if !known {
			return false, fault.New(connect.CodeNotFound, "TASK_UNKNOWN", "there is no such task")
		}
		return t.hand(s)
	}); err != nil {
		return nil, err
	}
	if t.Done != 0 {
		if err := b.in.Host.Publish(ctx, b.in.Name, &providerv1.CheckCompleted{Key: id, Outcome: t.outcome(id)}, id); err != nil {
			return nil, err
		}
	}
	res, err := b.GetTask(ctx, &benchv1.GetTaskRequest{TaskId: id})
	return &benchv1.SubmitChecklistResponse{Task: res.GetTask()}, err
}

// there makes sure that photos were sent.
func (b *bench) there(ctx context.Context, photos []string) error {
	for _, p := range photos {
		_, err := b.in.Host.Blobs.LinkBlob(ctx, &kernelv1.LinkBlobRequest{BlobId: p, Seconds: 1})
		if connect.CodeOf(err) == connect.CodeNotFound {
			return fault.Field("answers", "the photo "+p+" was not sent here")
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// GrantPhotoUpload implements the bench.
func (b *bench) GrantPhotoUpload(ctx context.Context, req *benchv1.GrantPhotoUploadRequest) (*benchv1.GrantPhotoUploadResponse, error) {
	t, err := b.task(ctx, req.GetTaskId())
	switch {
	case err != nil:
		return nil, err
	case t.Done != 0:
		return nil, fault.New(connect.CodeFailedPrecondition, "TASK_DONE", "the inspectors are done with this")
	}
	res, err := b.in.Host.Blobs.GrantUpload(ctx, &kernelv1.GrantUploadRequest{MediaTypes: []string{"image/jpeg", "image/png", "image/webp"}})
	return &benchv1.GrantPhotoUploadResponse{Path: res.GetPath()}, err
}

var _ benchv1connect.BenchServiceHandler = (*bench)(nil)
