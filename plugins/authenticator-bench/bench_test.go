package main

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"connectrpc.com/connect/v2"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	benchv1 "github.com/entrepot/entrepot/proto/entrepot/inspection/bench/v1"
	"github.com/entrepot/entrepot/proto/entrepot/inspection/bench/v1/benchv1connect"
	providerv1 "github.com/entrepot/entrepot/proto/entrepot/inspection/provider/v1"
	"github.com/entrepot/entrepot/proto/entrepot/inspection/provider/v1/providerv1connect"
	kernelv1 "github.com/entrepot/entrepot/proto/entrepot/kernel/v1"
	"github.com/entrepot/entrepot/proto/entrepot/kernel/v1/kernelv1connect"
	"github.com/entrepot/entrepot/sdk/call"
	"github.com/entrepot/entrepot/sdk/fault"
	"github.com/entrepot/entrepot/sdk/plugin"
	"github.com/entrepot/entrepot/sdk/plugintest"
)

const (
	genuine      = providerv1.Result_RESULT_GENUINE
	counterfeit  = providerv1.Result_RESULT_COUNTERFEIT
	inconclusive = providerv1.Result_RESULT_INCONCLUSIVE
	pending      = providerv1.Result_RESULT_PENDING
	damaged      = providerv1.Result_RESULT_DAMAGED
)

// hall is a bench with an inspection department before it.
type hall struct {
	*plugintest.Module
	providerv1connect.AuthenticatorServiceClient
}

var short = map[string]any{"checklist": []string{"look|It looks right", "watches=dial|The dial is right|photo", "watches=crown|The crown turns"}}

func open(t testing.TB, p plugin.Plugin, config map[string]any) hall {
	t.Helper()
	m := plugintest.Start(t, p, plugintest.Config(config))
	return hall{m, providerv1connect.NewAuthenticatorServiceClient(m.Client(call.Info{Principal: call.Principal{Kind: call.Plugin, Plugin: "inspection"}}))}
}

// as is the bench as a person finds it.
func (h hall) as(account string) benchv1connect.BenchServiceClient {
	return benchv1connect.NewBenchServiceClient(h.Client(call.Info{Principal: call.Principal{Kind: call.Staff, Account: account, Permissions: []string{"inspection.write"}}}))
}

func (h hall) check(t require.TestingT, key, category string) *providerv1.Outcome {
	res, err := h.Check(context.Background(), &providerv1.CheckRequest{
		Key: key, CaseId: "cas_1", UnitId: "unt_" + key, Sku: "sku_1", Gtin: "04006381333931", Serial: "S1", Quantity: 1, Category: category,
	})
	require.NoError(t, err)
	return res.GetOutcome()
}

func (h hall) submit(account, task string, result providerv1.Result) (*benchv1.Task, error) {
	res, err := h.as(account).SubmitChecklist(context.Background(), &benchv1.SubmitChecklistRequest{
		TaskId: task, Result: result, Note: "by " + account,
		Answers: []*benchv1.Answer{{QuestionId: "look", Finding: benchv1.Answer_FINDING_AS_EXPECTED, Note: "seen by " + account}},
	})
	return res.GetTask(), err
}

func TestTheInspectorsDecide(t *testing.T) {
	t.Parallel()
	h := open(t, authenticator(), short)
	for i, x := range []struct {
		say    []providerv1.Result
		want   providerv1.Result
		reason string
	}{
		{[]providerv1.Result{genuine, genuine}, genuine, "INSPECTORS_AGREE"},
		{[]providerv1.Result{counterfeit, counterfeit}, counterfeit, "INSPECTORS_AGREE"},
		{[]providerv1.Result{inconclusive, inconclusive}, inconclusive, "INSPECTORS_AGREE"},
		{[]providerv1.Result{genuine, counterfeit, genuine}, genuine, "INSPECTORS_MAJORITY"},
		{[]providerv1.Result{genuine, counterfeit, counterfeit}, counterfeit, "INSPECTORS_MAJORITY"},
		{[]providerv1.Result{genuine, counterfeit, damaged}, inconclusive, "INSPECTORS_DIFFER"},
	} {
		key := fmt.Sprintf("cas_1/unt_%d/run/bench", i)
		out := h.check(t, key, "")
		require.Equal(t, pending, out.GetResult())
		require.True(t, proto.Equal(out, h.check(t, key, "")), "the same key has the same answer")
		for n, result := range x.say {
			require.Len(t, h.Published(t), i, "nobody is told before the end")
			task, err := h.submit("acc_"+strconv.Itoa(n), key, result)
			require.NoError(t, err)
			require.EqualValues(t, n+1, task.GetAnswered())
			if n+1 < len(x.say) {
				require.Equal(t, benchv1.Task_STATE_OPEN, task.GetState())
				require.Empty(t, task.GetChecklists(), "the next inspector does not see what the last one said")
				require.Nil(t, task.GetOutcome())
				require.Equal(t, pending, h.check(t, key, "").GetResult())
				continue
			}
			require.Equal(t, benchv1.Task_STATE_DONE, task.GetState())
			require.Len(t, task.GetChecklists(), len(x.say))
			require.Equal(t, "by acc_0", task.GetChecklists()[0].GetNote())
			require.Equal(t, "seen by acc_1", task.GetChecklists()[1].GetAnswers()[0].GetNote())
			require.Equal(t, benchv1.Answer_FINDING_AS_EXPECTED, task.GetChecklists()[1].GetAnswers()[0].GetFinding())
		}
		out = h.check(t, key, "")
		require.Equal(t, x.want, out.GetResult())
		require.Equal(t, x.reason, out.GetReason())
		require.Equal(t, "manual", out.GetMethod())
		require.Len(t, out.GetOperators(), len(x.say))
		require.Len(t, out.GetBlobIds(), len(x.say), "what each wrote is kept")
		told := h.Published(t)
		require.Len(t, told, i+1)
		require.True(t, proto.Equal(&providerv1.CheckCompleted{Key: key, Outcome: out}, told[i]))

		// Handed in again nothing changes; otherwise the end is the end.
		task, err := h.submit("acc_0", key, x.say[0])
		require.NoError(t, err)
		require.Equal(t, benchv1.Task_STATE_DONE, task.GetState())
		_, err = h.submit("acc_9", key, genuine)
		require.Equal(t, "TASK_DONE", fault.Reason(err))
		_, err = h.as("acc_9").GrantPhotoUpload(t.Context(), &benchv1.GrantPhotoUploadRequest{TaskId: key})
		require.Equal(t, "TASK_DONE", fault.Reason(err))
	}
}

func TestOnePersonIsOneInspector(t *testing.T) {
	t.Parallel()
	h := open(t, authenticator(), short)
	h.check(t, "k", "")
	for range 2 {
		task, err := h.submit("acc_1", "k", genuine)
		require.NoError(t, err)
		require.EqualValues(t, 1, task.GetAnswered())
	}
	_, err := h.submit("acc_1", "k", counterfeit)
	require.Equal(t, connect.CodePermissionDenied, connect.CodeOf(err))
	require.Equal(t, "SAME_PERSON", fault.Reason(err))
	_, err = h.submit("", "k", genuine)
	require.Equal(t, connect.CodePermissionDenied, connect.CodeOf(err))
	consumer := benchv1connect.NewBenchServiceClient(h.Client(call.Info{Principal: call.Principal{Kind: call.Consumer, Account: "acc_2"}}))
	_, err = consumer.SubmitChecklist(t.Context(), &benchv1.SubmitChecklistRequest{
		TaskId: "k", Result: genuine, Answers: []*benchv1.Answer{{QuestionId: "look", Finding: benchv1.Answer_FINDING_DEVIATES}},
	})
	require.Equal(t, connect.CodePermissionDenied, connect.CodeOf(err))
	_, err = h.submit("acc_1", "other", genuine)
	require.Equal(t, connect.CodeNotFound, connect.CodeOf(err))
}

// png is as much of a picture as tells that it is one.
var png = []byte("\x89PNG\r\n\x1a\n")

func TestEveryQuestionIsAnsweredAndPhotosAreSent(t *testing.T) {
	t.Parallel()
	h := open(t, authenticator(), short)
	h.check(t, "k", "watches/divers")
	got, err := h.as("acc_1").GetTask(t.Context(), &benchv1.GetTaskRequest{TaskId: "k"})
	require.NoError(t, err)
	require.Equal(t, "unt_k", got.GetTask().GetUnitId())
	require.Len(t, got.GetTask().GetQuestions(), 2)
	grant, err := h.as("acc_1").GrantPhotoUpload(t.Context(), &benchv1.GrantPhotoUploadRequest{TaskId: "k"})
	require.NoError(t, err)
	_, err = h.Upload(grant.GetPath(), "application/pdf", []byte("%PDF-1.7"))
	require.Error(t, err, "only pictures are taken")
	photo, err := h.Upload(grant.GetPath(), "image/png", png)
	require.NoError(t, err)
	var many []string
	for i := range 25 {
		id, err := h.Upload(grant.GetPath(), "image/png", append(png[:8:8], byte(i)))
		require.NoError(t, err)
		many = append(many, id)
	}
	answer := func(id string, photos ...string) *benchv1.Answer {
		return &benchv1.Answer{QuestionId: id, Finding: benchv1.Answer_FINDING_AS_EXPECTED, BlobIds: photos}
	}
	never := "sha256-" + strings.Repeat("0", 64)
	for _, x := range []struct {
		name    string
		answers []*benchv1.Answer
		says    string
	}{
		{"one is missing", []*benchv1.Answer{answer("dial", photo)}, "crown is not answered"},
		{"one is twice", []*benchv1.Answer{answer("dial", photo), answer("dial", photo)}, "answered twice"},
		{"one is of another list", []*benchv1.Answer{answer("dial", photo), answer("look")}, "no question"},
		{"a photo is missing", []*benchv1.Answer{answer("dial"), answer("crown")}, "wants a photo"},
		{"a photo was never sent", []*benchv1.Answer{answer("dial", never), answer("crown")}, "not sent here"},
		{"more photos than an answer has", []*benchv1.Answer{answer("dial", many[:11]...), answer("crown")}, "blob_ids"},
		{"a finding is missing", []*benchv1.Answer{{QuestionId: "dial", BlobIds: []string{photo}}, answer("crown")}, "finding"},
	} {
		_, err := h.as("acc_1").SubmitChecklist(t.Context(), &benchv1.SubmitChecklistRequest{TaskId: "k", Result: genuine, Answers: x.answers})
		require.Equal(t, connect.CodeInvalidArgument, connect.CodeOf(err), x.name)
		require.ErrorContains(t, err, x.says, x.name)
	}
	_, _, err = fill([]*benchv1.Question{{Id: "a"}, {Id: "b"}, {Id: "c"}}, []*benchv1.Answer{
		answer("a", many[:10]...), answer("b", many[10:20]...), answer("c", many[20]),
	})
	require.ErrorContains(t, err, "at most 20 photos")
	for _, who := range []string{"acc_1", "acc_2"} {
		_, err := h.as(who).SubmitChecklist(t.Context(), &benchv1.SubmitChecklistRequest{
			TaskId: "k", Result: damaged, Answers: []*benchv1.Answer{answer("crown"), answer("dial", many[:8]...)},
		})
		require.NoError(t, err)
	}
	out := h.check(t, "k", "watches/divers")
	require.Equal(t, damaged, out.GetResult())
	require.Len(t, out.GetBlobIds(), 2+photosTold)
	require.Subset(t, many[:8], out.GetBlobIds()[2:])
}

func TestTasksAreListedOldestFirstWhateverComesBetween(t *testing.T) {
	t.Parallel()
	h := open(t, authenticator(), short)
	var want []string
	for i := range 7 {
		want = append(want, fmt.Sprintf("k%d", i))
		h.check(t, want[i], "")
	}
	for _, who := range []string{"acc_1", "acc_2"} {
		_, err := h.submit(who, "k3", genuine)
		require.NoError(t, err)
	}
	list := func(state benchv1.Task_State, size int32, between func()) (ids []string) {
		req := &benchv1.ListTasksRequest{State: state, PageSize: size}
		for {
			res, err := h.as("acc_1").ListTasks(t.Context(), req)
			require.NoError(t, err)
			for _, task := range res.GetTasks() {
				require.True(t, state == 0 || task.GetState() == state)
				ids = append(ids, task.GetTaskId())
			}
			if req.PageToken = res.GetNextPageToken(); req.GetPageToken() == "" {
				return ids
			}
			between()
		}
	}
	nothing := func() {}
	require.ElementsMatch(t, want, list(0, 2, nothing))
	require.Equal(t, []string{"k3"}, list(benchv1.Task_STATE_DONE, 0, nothing))
	late := 0
	open := list(benchv1.Task_STATE_OPEN, 2, func() {
		if late++; late < 3 {
			h.check(t, fmt.Sprintf("late%d", late), "")
		}
	})
	require.NotContains(t, open, "k3")
	require.Subset(t, open, []string{"k0", "k1", "k2", "k4", "k5", "k6"})
	_, err := h.as("acc_1").ListTasks(t.Context(), &benchv1.ListTasksRequest{PageToken: "?"})
	require.Equal(t, connect.CodeInvalidArgument, connect.CodeOf(err))
}

func TestManyAtOnceLoseNothing(t *testing.T) {
	t.Parallel()
	h := open(t, authenticator(), short)
	const tasks, people = 30, 4
	var wg sync.WaitGroup
	var taken, late atomic.Int32
	for i := range tasks {
		key := "k" + strconv.Itoa(i)
		for p := range people {
			wg.Go(func() {
				h.check(t, key, "")
				_, err := h.submit("acc_"+strconv.Itoa(p), key, genuine)
				if err == nil {
					taken.Add(1)
					return
				}
				require.Equal(t, "TASK_DONE", fault.Reason(err))
				late.Add(1)
			})
		}
	}
	wg.Wait()
	require.EqualValues(t, 2*tasks, taken.Load(), "two inspectors of each are heard")
	require.EqualValues(t, (people-2)*tasks, late.Load())
	told := map[string]bool{}
	for _, m := range h.Published(t) {
		told[m.(*providerv1.CheckCompleted).GetKey()] = true
	}
	require.Len(t, told, tasks)
	require.Len(t, h.Published(t), tasks, "each end is told once")
	res, err := h.as("acc_1").ListTasks(t.Context(), &benchv1.ListTasksRequest{State: benchv1.Task_STATE_DONE, PageSize: 100})
	require.NoError(t, err)
	require.Len(t, res.GetTasks(), tasks)
}

// deaf is a kernel that does not answer some writes.
type deaf struct {
	kernelv1connect.StateServiceClient
	n *atomic.Int32
}

func (d deaf) PutState(ctx context.Context, req *kernelv1.PutStateRequest) (*kernelv1.PutStateResponse, error) {
	res, err := d.StateServiceClient.PutState(ctx, req)
	if d.n.Add(1)%2 == 0 && err == nil {
		return nil, connect.NewError(connect.CodeUnavailable, "lost")
	}
	return res, err
}

func TestAnEndThatWasNotHeardIsToldWhenTheSheetIsHandedInAgain(t *testing.T) {
	t.Parallel()
	p := authenticator()
	p.New = func(ctx context.Context, in *plugin.Instance) error {
		in.Host.State = deaf{in.Host.State, &atomic.Int32{}}
		return register(ctx, in)
	}
	h := open(t, p, short)
	h.check(t, "k", "")
	_, err := h.submit("acc_1", "k", genuine) // the second write: taken, not answered
	require.Equal(t, connect.CodeUnavailable, connect.CodeOf(err))
	_, err = h.submit("acc_1", "k", genuine)
	require.NoError(t, err)
	task, err := h.submit("acc_2", "k", genuine)
	require.NoError(t, err)
	require.Equal(t, benchv1.Task_STATE_DONE, task.GetState())
	require.Len(t, h.Published(t), 1)

	_, err = h.Check(t.Context(), &providerv1.CheckRequest{Key: "l"}) // the fourth
	require.Equal(t, connect.CodeUnavailable, connect.CodeOf(err))
	require.Equal(t, pending, h.check(t, "l", "").GetResult())
	_, err = h.submit("acc_1", "l", genuine) // the fifth
	require.NoError(t, err)
	_, err = h.submit("acc_2", "l", genuine)
	require.Equal(t, connect.CodeUnavailable, connect.CodeOf(err))
	require.Len(t, h.Published(t), 1)
	require.Equal(t, genuine, h.check(t, "l", "").GetResult(), "who asks is told")
	_, err = h.submit("acc_2", "l", genuine)
	require.NoError(t, err)
	require.Len(t, h.Published(t), 2)
}

func TestTheListOfTheLongestPrefixIsAsked(t *testing.T) {
	t.Parallel()
	lists, err := readChecklists([]string{"a|All", "watches=w|Watches", "watches/divers=d|Divers: x=1|photo", "/bags/=b|Bags"})
	require.NoError(t, err)
	for category, id := range map[string]string{
		"": "a", "shoes": "a", "watches": "w", "watches/divers": "d", "watches/divers/deep": "d", "watches/dress": "w", "watchesX": "a", "/bags/": "b", "bags/x": "b",
	} {
		require.Equal(t, id, lists.of(category)[0].GetId(), category)
	}
	rest, err := readChecklists([]string{"watches=w|Watches"})
	require.NoError(t, err)
	require.Len(t, rest.of("shoes"), len(usual))
	require.Empty(t, validate(nil))
	for _, bad := range []string{`["x"]`, `["x|"]`, `["X|text"]`, `["x|text|video"]`, `["x|a","x|b"]`, `["x|` + strings.Repeat("y", 301) + `"]`, `[1]`} {
		require.Len(t, validate([]byte(`{"checklist": `+bad+`}`)), 1, bad)
	}
}

func TestWhatTwoOfThreeSayIsSoWhateverTheirOrder(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		results := []providerv1.Result{genuine, counterfeit, inconclusive, damaged, providerv1.Result_RESULT_WRONG_ITEM}
		say := rapid.SliceOfN(rapid.SampledFrom(results), 3, 3).Draw(t, "say")
		var x task
		votes := map[providerv1.Result]int{}
		for i, r := range say {
			changed, err := x.hand(sheet{Inspector: strconv.Itoa(i), Blob: strconv.Itoa(i), Result: r, At: int64(i + 1)})
			if i == 2 && say[0] == say[1] {
				require.Error(t, err, "two that agree need no third")
				break
			}
			require.NoError(t, err)
			require.True(t, changed)
			votes[r]++
		}
		require.NotZero(t, x.Done)
		out := x.outcome("k")
		if out.GetReason() == "INSPECTORS_DIFFER" {
			require.Len(t, votes, 3)
			require.Equal(t, inconclusive, out.GetResult())
		} else {
			require.Equal(t, 2, votes[out.GetResult()])
		}
	})
}

func TestOnlyWhatIsDoneIsForgottenAndTheOldestFirst(t *testing.T) {
	t.Parallel()
	var in *plugin.Instance
	p := authenticator()
	p.New = func(_ context.Context, i *plugin.Instance) error {
		in = i
		return nil
	}
	open(t, p, short)
	m := openTasks(in)
	bucket := map[string]task{"open": {Opened: 1}, "late": {Opened: 2, Done: 9}, "early": {Opened: 3, Done: 8}, "mine": {Opened: 4, Done: 7}}
	id, ok := m.Spare(bucket, "mine")
	require.True(t, ok)
	require.Equal(t, "early", id)
	delete(bucket, "early")
	delete(bucket, "late")
	_, ok = m.Spare(bucket, "mine")
	require.False(t, ok)

	// What is kept free for a sheet holds the longest.
	blob := "sha256-" + strings.Repeat("f", 64)
	longest := sheet{Inspector: strings.Repeat("a", 64), Result: damaged, At: 1 << 50, Blob: blob, Photos: []string{blob, blob, blob, blob, blob}}
	text, err := json.Marshal(longest)
	require.NoError(t, err)
	require.Less(t, len(text), sheetBytes-len(`,"h":[],"d":1125899906842624,`))
	require.Equal(t, 3*sheetBytes, m.Growth(task{}))
	require.Zero(t, m.Growth(task{Done: 1}))
}
