package main

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"buf.build/go/protovalidate"
	"connectrpc.com/connect/v2"
	"google.golang.org/protobuf/proto"

	providerv1 "github.com/entrepot/entrepot/proto/entrepot/inspection/provider/v1"
	"github.com/entrepot/entrepot/proto/entrepot/inspection/provider/v1/providerv1connect"
	inspectionv1 "github.com/entrepot/entrepot/proto/entrepot/inspection/v1"
	kernelv1 "github.com/entrepot/entrepot/proto/entrepot/kernel/v1"
	"github.com/entrepot/entrepot/proto/entrepot/kernel/v1/kernelv1connect"
	"github.com/entrepot/entrepot/sdk/fault"
	"github.com/entrepot/entrepot/sdk/host"
	"github.com/entrepot/entrepot/sdk/id"
	"github.com/entrepot/entrepot/sdk/store"
)

const (
	// contract is what authenticators serve.
	contract = "entrepot.inspection.provider.v1"
	// retains is the capability of those that want to be told of fates; every
	// other capability is a method.
	retains = "retain"
	// patienceOfCall is the longest that one answer is waited for.
	patienceOfCall = 8 * time.Second
	// patienceOfRun is the longest a run waits for all; whoever was not asked
	// by then is asked soon, with the same key.
	patienceOfRun = 20 * time.Second
	// abreast is how many authenticators are asked at once.
	abreast = 8
	// maxEvidence is what one question may carry (the contract's bound), and
	// maxAsked what one run asks.
	maxEvidence = 50
	maxAsked    = 1000
	// maxInputs bounds the bytes that one run keeps: evidence of a whole case
	// is kept with each of its units.
	maxInputs = 4 << 20
)

// Why a check is pending or inconclusive that no authenticator said.
const (
	asked         = "ASKED"
	notReached    = "NOT_REACHED"
	notAnswered   = "NOT_ANSWERED"
	answerInvalid = "ANSWER_INVALID"
	askRefused    = "REFUSED"
)

// authenticators are those who look at goods.
type authenticators struct {
	instances kernelv1connect.InstanceServiceClient
	client    providerv1connect.AuthenticatorServiceClient
	validator protovalidate.Validator
	// patience is the longest that one answer is waited for.
	patience time.Duration
	// byCategory are the methods of categories; a category that none is a
	// prefix of has all.
	byCategory map[string][]string
}

func newAuthenticators(client *connect.Client, methods []string) (*authenticators, error) {
	v, err := protovalidate.New(protovalidate.WithMessages(&providerv1.Outcome{}))
	if err != nil {
		return nil, fmt.Errorf("authenticators: %w", err)
	}
	a := &authenticators{
		instances: kernelv1connect.NewInstanceServiceClient(client), client: providerv1connect.NewAuthenticatorServiceClient(client),
		validator: v, patience: patienceOfCall, byCategory: make(map[string][]string, len(methods)),
	}
	for _, m := range methods {
		category, names, ok := strings.Cut(m, "=")
		if !ok || names == "" {
			return nil, fmt.Errorf("methods: %q is not <category>=<method>,<method>", m)
		}
		a.byCategory[strings.Trim(category, "/")] = strings.Split(names, ",")
	}
	return a, nil
}

// allowed tells whether a method looks at goods of a category: the longest
// prefix decides, by whole parts of the path.
func (a *authenticators) allowed(category, method string) bool {
	for c := strings.Trim(category, "/"); ; {
		if names, ok := a.byCategory[c]; ok {
			return slices.Contains(names, method)
		}
		if c == "" {
			return true
		}
		i := max(strings.LastIndexByte(c, '/'), 0)
		c = c[:i]
	}
}

// fit is an instance that looks at a case, and by which methods.
type fit struct {
	*kernelv1.Instance
	methods []string
}

// fitting are the instances that look at a case, the best binding first.
func (a *authenticators) fitting(ctx context.Context, c *caseFile, only []string) ([]fit, error) {
	res, err := a.instances.ListInstances(ctx, &kernelv1.ListInstancesRequest{Contract: contract, Market: c.market, MerchantId: c.merchant})
	if err != nil {
		return nil, host.Relay(err)
	}
	var out []fit
	for _, in := range res.GetInstances() {
		f := fit{Instance: in}
		for _, m := range in.GetCapabilities() {
			if m != retains && a.allowed(c.category, m) && (len(only) == 0 || slices.Contains(only, m)) {
				f.methods = append(f.methods, m)
			}
		}
		if len(f.methods) > 0 {
			out = append(out, f)
		}
	}
	return out, nil
}

// question is a check that an authenticator is asked for.
type question struct {
	key, caseID, unit, market string
	instance, plugin          string
	methods                   list[string]
	// inputs is what the authenticator sees, without the key, and sum its
	// SHA-256.
	inputs []byte
	sum    string
	tries  int
}

// answer is what became of a question.
type answer struct {
	question
	result               result
	method, reason, note string
	instrument, operator string
	blobs                []string
}

// ask asks an authenticator. It is safe to repeat: the key is the same.
func (a *authenticators) ask(ctx context.Context, q question) answer {
	out := answer{question: q, result: pending, reason: notReached}
	req := &providerv1.CheckRequest{}
	if err := proto.Unmarshal(q.inputs, req); err != nil {
		return out.undecided(askRefused)
	}
	req.Key = q.key
	ctx, cancel := context.WithTimeout(ctx, a.patience)
	defer cancel()
	res, err := a.client.Check(host.ToInstance(host.InMarket(ctx, q.market), q.instance), req)
	switch {
	case err == nil:
		return a.heard(q, res.GetOutcome())
	case final(connect.CodeOf(err)):
		return out.undecided(askRefused)
	}
	return out
}

// final tells whether repeating a question cannot change its answer.
func final(code connect.Code) bool {
	switch code {
	case connect.CodeInvalidArgument, connect.CodeNotFound, connect.CodeAlreadyExists, connect.CodePermissionDenied, connect.CodeFailedPrecondition,
		connect.CodeOutOfRange, connect.CodeUnimplemented:
		return true
	}
	return false
}

// undecided ends a question that nobody decides.
func (a answer) undecided(reason string) answer {
	a.result, a.reason = saysInconclusive, reason
	return a
}

// heard takes an outcome that is an answer to the question, and nothing else:
// of who asked something else, or answers without bounds, no word counts.
func (a *authenticators) heard(q question, o *providerv1.Outcome) answer {
	out := answer{question: q, result: pending, reason: asked}
	if o == nil || a.validator.Validate(o) != nil || o.GetKey() != q.key || !slices.Contains(q.methods, o.GetMethod()) || tooLong(o.GetBlobIds(), 80) {
		return out.undecided(answerInvalid)
	}
	out.result, out.method, out.reason, out.note, out.blobs = result(o.GetResult()), o.GetMethod(), o.GetReason(), o.GetNote(), o.GetBlobIds()
	out.instrument, out.operator = q.instance, "plugin "+q.plugin
	if o.GetInstrument() != "" {
		out.instrument += "/" + o.GetInstrument()
	}
	if len(o.GetOperators()) > 0 {
		out.operator = strings.Join(o.GetOperators(), " ")
	}
	if out.result == pending {
		out.reason = cmp.Or(out.reason, asked)
	}
	return out
}

func tooLong(texts []string, most int) bool {
	return slices.ContainsFunc(texts, func(t string) bool { return len(t) > most })
}

// RunChecks asks the authenticators that are bound in the case's market and
// fit its goods. The questions are written before the first is asked.
func (s *service) RunChecks(ctx context.Context, req *inspectionv1.RunChecksRequest) (*inspectionv1.RunChecksResponse, error) {
	c, err := loadCase(ctx, s.db, req.GetCaseId())
	if err != nil {
		return nil, store.Wrap(err)
	}
	fits, err := s.authenticators.fitting(ctx, c, req.GetMethods())
	if err != nil {
		return nil, err
	}
	units, err := readUnits(s.db.Rows(ctx, `SELECT `+unitColumns+` FROM unit u WHERE u.id = ANY ($1) ORDER BY u.id`, []string(c.units)))
	if err != nil {
		return nil, store.Wrap(err)
	}
	questions, err := c.questions(req, units, fits)
	if err != nil {
		return nil, err
	}
	if err := s.db.Run(ctx, func(ctx context.Context, tx *store.Tx) (err error) {
		questions, err = s.intend(ctx, tx, req, questions)
		return err
	}); err != nil {
		return nil, err
	}
	if err := s.askAll(ctx, questions); err != nil {
		return nil, err
	}
	res, err := answerOf(ctx, s.db, c.id)
	return &inspectionv1.RunChecksResponse{Case: res}, store.Wrap(err)
}

// questions are what a run asks: each fitting instance of each unit, or of the
// whole where the goods have none.
func (c *caseFile) questions(req *inspectionv1.RunChecksRequest, units []*unit, fits []fit) ([]question, error) {
	evidence := make(map[string][]*providerv1.Evidence)
	for _, e := range req.GetEvidence() {
		if e.GetUnitId() != "" && !slices.Contains(c.units, e.GetUnitId()) {
			return nil, fault.Field("evidence.unit_id", "is no unit of this case")
		}
		evidence[e.GetUnitId()] = append(evidence[e.GetUnitId()], &providerv1.Evidence{
			Kind: e.GetKind(), Text: e.GetText(), BlobId: e.GetBlobId(), Country: e.GetCountry(), At: e.GetAt(),
		})
	}
	whole := &providerv1.CheckRequest{
		CaseId: c.id, Sku: c.sku, Gtin: c.gtin, Lot: c.lot, Quantity: c.quantity, Category: c.category, Evidence: evidence[""],
	}
	looks := []*providerv1.CheckRequest{whole}
	if len(units) > 0 {
		looks = looks[:0]
	}
	for _, u := range units {
		looks = append(looks, &providerv1.CheckRequest{
			CaseId: c.id, UnitId: u.id, Sku: u.sku, Gtin: u.gtin, Serial: u.serial, Lot: u.lot, Quantity: 1, Category: c.category,
			Evidence: slices.Concat(evidence[""], evidence[u.id]),
		})
	}
	if len(looks)*len(fits) > maxAsked {
		return nil, fault.Field("methods", "too many questions at once; name some methods")
	}
	var out []question
	size := 0
	for _, look := range looks {
		if len(look.GetEvidence()) > maxEvidence {
			return nil, fault.Field("evidence", "at most 50 for one unit")
		}
		inputs, sum, err := digest(look)
		if err != nil {
			return nil, err
		}
		if size += len(inputs) * len(fits); size > maxInputs {
			return nil, fault.Field("evidence", "too much for so many units; name the unit that it is of")
		}
		for _, f := range fits {
			out = append(out, question{
				key: c.id + "/" + look.GetUnitId() + "/" + req.GetRunId() + "/" + f.GetInstance(), caseID: c.id, unit: look.GetUnitId(),
				market: c.market, instance: f.GetInstance(), plugin: f.GetPlugin(), methods: f.methods, inputs: inputs, sum: sum,
			})
		}
	}
	return out, nil
}

// intend writes down what is about to be asked. A run that was written before
// asks nothing again.
func (s *service) intend(ctx context.Context, tx *store.Tx, req *inspectionv1.RunChecksRequest, questions []question) ([]question, error) {
	c, err := lockCase(ctx, tx, req.GetCaseId())
	if err != nil {
		return nil, err
	}
	var known bool
	if err := tx.Row(ctx, `SELECT EXISTS (SELECT FROM check_made WHERE case_id = $1 AND run = $2)`, c.id, req.GetRunId()).Scan(&known); err != nil || known {
		return nil, err
	}
	if err := c.must(runChecks); err != nil {
		return nil, err
	}
	if len(questions) == 0 {
		return nil, fault.New(connect.CodeFailedPrecondition, "NO_AUTHENTICATOR", "no authenticator that fits is bound in this market; record checks by hand",
			"market", c.market, "category", c.category)
	}
	texts := make([][]string, 8)
	inputs := make([][]byte, len(questions))
	for i, q := range questions {
		for n, t := range []string{id.New("chk"), q.unit, q.key, q.plugin, strings.Join(q.methods, ","), q.methods[0], q.instance, q.sum} {
			texts[n] = append(texts[n], t)
		}
		inputs[i] = q.inputs
	}
	if _, err := tx.Do(ctx, `INSERT INTO check_made (id, case_id, unit, run, key, plugin, methods, method, instrument, instance, operator, inputs, inputs_sha256, result,
		reason, next_try)
		SELECT i, $1, u, $2, k, p, string_to_array(ms, ','), m, n, n, 'plugin ' || p, x, h, 4, 'ASKED', now() + interval '30 s'
		  FROM unnest($3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[], $9::text[], $10::text[], $11::bytea[]) q(i, u, k, p, ms, m, n, h, x)`,
		c.id, req.GetRunId(), texts[0], texts[1], texts[2], texts[3], texts[4], texts[5], texts[6], texts[7], inputs); err != nil {
		return nil, err
	}
	_, err = tx.Do(ctx, settled, []string{c.id})
	return questions, err
}
