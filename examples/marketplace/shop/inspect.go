package shop

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"image"
	"image/color"
	"image/png"
	"io"
	"net/http"

	"connectrpc.com/connect/v2"

	benchv1 "github.com/entrepot/entrepot/proto/entrepot/inspection/bench/v1"
	"github.com/entrepot/entrepot/proto/entrepot/inspection/bench/v1/benchv1connect"
	providerv1 "github.com/entrepot/entrepot/proto/entrepot/inspection/provider/v1"
	inspectionv1 "github.com/entrepot/entrepot/proto/entrepot/inspection/v1"
	"github.com/entrepot/entrepot/proto/entrepot/inspection/v1/inspectionv1connect"
	"github.com/entrepot/entrepot/sdk/id"
)

// Inspect has the inspectors look at every piece, decide by two persons, send
// what is genuine to the warehouse and destroy what is not. It fails where a
// verdict is not what the piece is. step is told of each.
func (s *Shop) Inspect(ctx context.Context, c *Consignments, staff *Staff, step func(n int)) error {
	cases := inspectionv1connect.NewCaseServiceClient(staff.Inspectors[0].Client())
	if err := side(ctx, len(c.pieces), 4, func(ctx context.Context, i int) error {
		p := c.pieces[i]
		run := &inspectionv1.RunChecksRequest{CaseId: p.caseID, RunId: "first-look"}
		if p.url != "" {
			run.Evidence = []*inspectionv1.Evidence{{UnitId: p.unit, Kind: "tag-url", Text: p.url, Country: "GB"}}
		}
		_, err := Patient(ctx, func(ctx context.Context) (*inspectionv1.RunChecksResponse, error) { return cases.RunChecks(ctx, run) })
		return err
	}); err != nil {
		return fmt.Errorf("checks: %w", err)
	}
	if err := s.bench(ctx, c, staff); err != nil {
		return fmt.Errorf("bench: %w", err)
	}
	return side(ctx, len(c.pieces), 4, func(ctx context.Context, i int) error {
		defer step(1)
		p := c.pieces[i]
		if err := s.judge(ctx, staff, p.caseID, p.fake); err != nil {
			return fmt.Errorf("%s serial %s: %w", p.article.Title, p.serial, err)
		}
		return nil
	})
}

// judge has the first inspector propose what the checks say, and the chief
// confirm it; fakes are destroyed.
func (s *Shop) judge(ctx context.Context, staff *Staff, caseID string, fake bool) error {
	verdict, reason := inspectionv1.Verdict_VERDICT_GENUINE, "every check agrees"
	if fake {
		verdict, reason = inspectionv1.Verdict_VERDICT_COUNTERFEIT, "a check says counterfeit"
	}
	first := inspectionv1connect.NewCaseServiceClient(staff.Inspectors[0].Client())
	if err := until(ctx, func(ctx context.Context) (bool, error) {
		res, err := first.GetCase(ctx, &inspectionv1.GetCaseRequest{CaseId: caseID})
		return res.GetCase().GetState() == inspectionv1.Case_STATE_CHECKING, err
	}); err != nil {
		return fmt.Errorf("answers: %w", err)
	}
	if _, err := Patient(ctx, func(ctx context.Context) (*inspectionv1.ProposeVerdictResponse, error) {
		return first.ProposeVerdict(ctx, &inspectionv1.ProposeVerdictRequest{CaseId: caseID, Verdict: verdict, Reason: reason})
	}); err != nil {
		return fmt.Errorf("proposal: %w", err)
	}
	chief := inspectionv1connect.NewCaseServiceClient(staff.Chief.Client())
	if _, err := Patient(ctx, func(ctx context.Context) (*inspectionv1.ConfirmVerdictResponse, error) {
		return chief.ConfirmVerdict(ctx, &inspectionv1.ConfirmVerdictRequest{CaseId: caseID, Verdict: verdict})
	}); err != nil {
		return fmt.Errorf("confirmation: %w", err)
	}
	if !fake {
		return nil
	}
	return s.destroy(ctx, staff, caseID)
}

// destroy has one inspector order it, the chief carry it out before a witness,
// and a photo show what is left.
func (s *Shop) destroy(ctx context.Context, staff *Staff, caseID string) error {
	order := &inspectionv1.OrderDestructionRequest{
		DestructionId: id.New("dst"), CaseId: caseID, Ground: inspectionv1.Ground_GROUND_IP_INFRINGING, Reason: "found counterfeit",
	}
	if _, err := Patient(ctx, func(ctx context.Context) (*inspectionv1.OrderDestructionResponse, error) {
		return inspectionv1connect.NewDestructionServiceClient(staff.Inspectors[0].Client()).OrderDestruction(ctx, order)
	}); err != nil {
		return fmt.Errorf("order of destruction: %w", err)
	}
	blob, err := s.evidence(ctx, staff.Chief, caseID)
	if err != nil {
		return err
	}
	_, err = Patient(ctx, func(ctx context.Context) (*inspectionv1.ConfirmDestructionResponse, error) {
		return inspectionv1connect.NewDestructionServiceClient(staff.Chief.Client()).ConfirmDestruction(ctx, &inspectionv1.ConfirmDestructionRequest{
			DestructionId: order.GetDestructionId(), Witness: "inspector-2", WeightGrams: 40, BlobIds: []string{blob},
		})
	})
	return err
}

// evidence takes a photo for a case.
func (s *Shop) evidence(ctx context.Context, who *Person, caseID string) (string, error) {
	return s.photo(ctx, caseID, func(ctx context.Context) (string, error) {
		res, err := inspectionv1connect.NewCaseServiceClient(who.Client()).GrantEvidenceUpload(ctx, &inspectionv1.GrantEvidenceUploadRequest{CaseId: caseID})
		return res.GetPath(), err
	})
}

// bench has both inspectors fill their checklists, until no piece waits on the
// bench.
func (s *Shop) bench(ctx context.Context, c *Consignments, staff *Staff) error {
	fake := make(map[string]bool)
	for _, p := range c.pieces {
		fake[p.unit] = p.fake
	}
	for _, who := range staff.Inspectors {
		b := benchv1connect.NewBenchServiceClient(who.Client())
		var tasks []*benchv1.Task
		for token := ""; ; {
			res, err := Patient(ctx, func(ctx context.Context) (*benchv1.ListTasksResponse, error) {
				return b.ListTasks(ctx, &benchv1.ListTasksRequest{State: benchv1.Task_STATE_OPEN, PageSize: 100, PageToken: token})
			})
			if err != nil {
				return err
			}
			tasks = append(tasks, res.GetTasks()...)
			if token = res.GetNextPageToken(); token == "" {
				break
			}
		}
		if err := side(ctx, len(tasks), 2, func(ctx context.Context, i int) error {
			return s.look(ctx, b, tasks[i], fake[tasks[i].GetUnitId()])
		}); err != nil {
			return err
		}
	}
	return nil
}

// look is one inspector's checklist.
func (s *Shop) look(ctx context.Context, b benchv1connect.BenchServiceClient, t *benchv1.Task, fake bool) error {
	sheet := &benchv1.SubmitChecklistRequest{TaskId: t.GetTaskId(), Result: providerv1.Result_RESULT_GENUINE}
	if fake {
		sheet.Result = providerv1.Result_RESULT_COUNTERFEIT
	}
	for n, q := range t.GetQuestions() {
		a := &benchv1.Answer{QuestionId: q.GetId(), Finding: benchv1.Answer_FINDING_AS_EXPECTED}
		if fake && q.GetId() == "markings" {
			a.Finding, a.Note = benchv1.Answer_FINDING_DEVIATES, "the seam is crooked and the letters are blurred"
		}
		if q.GetPhoto() {
			blob, err := s.photo(ctx, fmt.Sprint(t.GetTaskId(), n), func(ctx context.Context) (string, error) {
				res, err := b.GrantPhotoUpload(ctx, &benchv1.GrantPhotoUploadRequest{TaskId: t.GetTaskId()})
				return res.GetPath(), err
			})
			if err != nil {
				return err
			}
			a.BlobIds = []string{blob}
		}
		sheet.Answers = append(sheet.Answers, a)
	}
	_, err := Patient(ctx, func(ctx context.Context) (*benchv1.SubmitChecklistResponse, error) {
		return b.SubmitChecklist(ctx, sheet)
	})
	return err
}

// photo takes a picture of something and sends it by a path that was granted.
func (s *Shop) photo(ctx context.Context, of string, grant func(context.Context) (string, error)) (string, error) {
	picture, err := snap(of)
	if err != nil {
		return "", err
	}
	return Patient(ctx, func(ctx context.Context) (string, error) {
		path, err := grant(ctx)
		if err != nil {
			return "", err
		}
		req, err := http.NewRequestWithContext(ctx, http.MethodPut, s.URL+path, bytes.NewReader(picture))
		if err != nil {
			return "", err
		}
		req.Header.Set("Content-Type", "image/png")
		res, err := (&http.Client{Transport: transport}).Do(req)
		if err != nil {
			return "", connect.NewError(connect.CodeUnavailable, err.Error())
		}
		defer func() { _ = res.Body.Close() }()
		body, err := io.ReadAll(io.LimitReader(res.Body, 4096))
		switch {
		case err != nil || res.StatusCode == http.StatusTooManyRequests || res.StatusCode >= http.StatusInternalServerError || res.StatusCode == http.StatusNotFound:
			return "", connect.NewError(connect.CodeUnavailable, "photo: "+res.Status)
		case res.StatusCode != http.StatusOK:
			return "", fmt.Errorf("photo: %s: %s", res.Status, body)
		}
		var sent struct {
			BlobID string `json:"blob_id"`
		}
		return sent.BlobID, json.Unmarshal(body, &sent)
	})
}

// snap is a picture that is of this and nothing else.
func snap(of string) ([]byte, error) {
	sum := sha256.Sum256([]byte(of))
	img := image.NewGray(image.Rect(0, 0, 16, 16))
	for i := range 16 * 16 {
		img.SetGray(i%16, i/16, color.Gray{Y: sum[i%len(sum)] ^ byte(binary.BigEndian.Uint16(sum[:])>>(i%8))})
	}
	var b bytes.Buffer
	err := png.Encode(&b, img)
	return b.Bytes(), err
}
