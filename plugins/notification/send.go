package main

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"sync"
	"time"

	"connectrpc.com/connect/v2"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	kernelv1 "github.com/entrepot/entrepot/proto/entrepot/kernel/v1"
	providerv1 "github.com/entrepot/entrepot/proto/entrepot/notification/provider/v1"
	typev1 "github.com/entrepot/entrepot/proto/entrepot/type/v1"
	"github.com/entrepot/entrepot/sdk/fault"
	"github.com/entrepot/entrepot/sdk/host"
)

const (
	// purpose is what addresses and secrets are revealed for.
	purpose = "notify"
	// trying bounds one try at a provider.
	trying = 35 * time.Second
	// revealing bounds the vault's answer, and mostRefs what one question names.
	revealing = 10 * time.Second
	mostRefs  = 100
)

// parcel is a delivery that is ready to be handed to a provider.
type parcel struct {
	*delivery
	recipient *providerv1.Recipient
	message   *providerv1.Message
	// end is set where there is nothing to send: it fails, or waits.
	end *providerv1.Delivery
}

// prepare reveals the addresses of what is due, with one question to the vault
// for a hundred of them, and renders it.
func (s *service) prepare(ctx context.Context, due []*delivery) []*parcel {
	if len(due) == 0 {
		return nil
	}
	plain, err := s.reveal(ctx, due)
	if err != nil {
		s.in.Log.WarnContext(ctx, "addresses cannot be revealed; notifications wait", "error", err)
	}
	var names []string
	for _, d := range due {
		names = append(names, d.topic)
	}
	var v vocabulary
	if err == nil {
		if v, err = readVocabulary(ctx, s.db, names); err != nil {
			s.in.Log.WarnContext(ctx, "words cannot be read; notifications wait", "error", err)
		}
	}
	out := make([]*parcel, 0, len(due))
	for _, d := range due {
		p := &parcel{delivery: d}
		if err != nil {
			p.end = ended(providerv1.Delivery_STATE_DEFERRED, notPrepared)
		} else {
			s.pack(ctx, p, plain, v)
		}
		out = append(out, p)
	}
	return out
}

func ended(state providerv1.Delivery_State, code string) *providerv1.Delivery {
	return &providerv1.Delivery{State: state, Code: code}
}

// reveal answers what references hold.
func (s *service) reveal(ctx context.Context, due []*delivery) (map[string]*kernelv1.Revealed, error) {
	var refs []string
	for _, d := range due {
		for _, r := range slices.Concat([]string{d.addressRef}, d.secrets, values(d.sealed)) {
			if r != "" && !slices.Contains(refs, r) {
				refs = append(refs, r)
			}
		}
	}
	out := make(map[string]*kernelv1.Revealed, len(refs))
	ctx, cancel := context.WithTimeout(asPlugin(ctx, ""), revealing)
	defer cancel()
	for some := range slices.Chunk(refs, mostRefs) {
		res, err := s.host.Vault.Reveal(ctx, &kernelv1.RevealRequest{Purpose: purpose, Refs: some})
		if err != nil {
			return nil, err
		}
		for _, r := range res.GetItems() {
			out[r.GetRef()] = r
		}
	}
	return out, nil
}

func values(m map[string]string) []string {
	out := make([]string, 0, len(m))
	for _, v := range m {
		out = append(out, v)
	}
	return out
}

// pack makes what a provider is given of a delivery.
func (s *service) pack(ctx context.Context, p *parcel, plain map[string]*kernelv1.Revealed, v vocabulary) {
	d := p.delivery
	p.message = &providerv1.Message{Id: d.id, At: timestamppb.New(d.at), Automatic: true}
	if d.channel == webhook {
		w := &providerv1.WebhookEndpoint{Url: d.url}
		for _, ref := range d.secrets {
			if r := plain[ref]; len(r.GetPlaintext()) > 0 {
				w.Secrets = append(w.Secrets, string(r.GetPlaintext()))
			}
		}
		p.recipient = &providerv1.Recipient{To: &providerv1.Recipient_Webhook{Webhook: w}}
		var err error
		if p.message.Data, err = json.Marshal(map[string]any{"type": d.topic, "timestamp": d.at.UTC().Format(time.RFC3339Nano), "data": d.facts}); err != nil {
			s.in.Log.ErrorContext(ctx, "facts are no JSON", "notification", d.id, "error", err)
			p.end = ended(providerv1.Delivery_STATE_REFUSED, "FACTS_BROKEN")
		}
		if len(w.GetSecrets()) == 0 {
			p.end = ended(providerv1.Delivery_STATE_REFUSED, "NO_SECRET")
		}
		return
	}
	r := plain[d.addressRef]
	address := string(r.GetPlaintext())
	if r.GetKind() == "address" {
		a := &typev1.Address{}
		if err := proto.Unmarshal(r.GetPlaintext(), a); err != nil {
			address = ""
		} else {
			address = a.GetEmail()
		}
	}
	switch {
	case r.GetErased():
		p.end = ended(providerv1.Delivery_STATE_REFUSED, "ERASED")
		return
	case address == "":
		p.end = ended(providerv1.Delivery_STATE_REFUSED, noAddress)
		return
	}
	p.recipient = &providerv1.Recipient{To: &providerv1.Recipient_Mail{Mail: address}}
	known := make(map[string]string, len(d.sealed))
	for name, ref := range d.sealed {
		known[name] = string(plain[ref].GetPlaintext())
	}
	said, language, err := s.say(&d.notice, v, known)
	if err != nil {
		s.in.Log.ErrorContext(ctx, "a notification cannot be said", "notification", d.id, "topic", d.topic, "error", err)
		p.end = ended(providerv1.Delivery_STATE_REFUSED, "TEMPLATE_BROKEN")
		return
	}
	p.message.Subject, p.message.Text, p.message.Html, p.message.Language = said.subject, said.text, said.html, language
}

// try makes one try, and writes down how it ended.
func (s *service) try(ctx context.Context, p *parcel) {
	end, err := p.end, error(nil)
	if end == nil {
		cctx, cancel := context.WithTimeout(ctx, trying)
		end, err = s.ask(cctx, p)
		cancel()
	}
	// It happened: it is written down, also while the process ends.
	wctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	if err := s.settle(wctx, p.delivery, end, err); err != nil {
		s.in.Log.WarnContext(ctx, "the end of a try is not written down", "delivery", p.delivery.delivery, "error", err)
	}
}

// ask has the delivery's provider send it. What may have left is looked up
// where it may have left; only what nobody there knows of is sent again.
func (s *service) ask(ctx context.Context, p *parcel) (*providerv1.Delivery, error) {
	d := p.delivery
	if d.instance != "" && (d.was == sendingState || d.was == unknownState) {
		end, err := s.lookUp(ctx, d)
		if err != nil || end != nil {
			return end, err
		}
	} else {
		d.instance = ""
	}
	if d.instance == "" {
		var err error
		if d.instance, err = s.choose(ctx, d); err != nil {
			// Nothing has left.
			s.in.Log.DebugContext(ctx, "no provider", "market", d.market, "channel", d.channel, "error", err)
			return ended(providerv1.Delivery_STATE_DEFERRED, noProvider), nil
		}
		if _, err := s.db.Do(ctx, `UPDATE delivery SET instance = $2 WHERE id = $1 AND state = 2 AND tries = $3`, d.delivery, d.instance, d.tries); err != nil {
			return ended(providerv1.Delivery_STATE_DEFERRED, notPrepared), nil //nolint:nilerr // nothing has left, and this end says so
		}
	}
	res, err := s.providers.Send(host.ToInstance(ctx, d.instance), &providerv1.SendRequest{
		Key: d.key(), Channel: providerv1.Channel(d.channel), Recipient: p.recipient, Message: p.message,
	})
	if err != nil {
		return nil, err
	}
	return d.check(res.GetDelivery())
}

// check takes a provider's word when it is about this delivery.
func (d *delivery) check(end *providerv1.Delivery) (*providerv1.Delivery, error) {
	if end.GetKey() != d.key() {
		return nil, errors.New("the provider answered for another key")
	}
	return end, nil
}

// lookUp asks what became of a delivery; nil: nobody there knows.
func (s *service) lookUp(ctx context.Context, d *delivery) (*providerv1.Delivery, error) {
	res, err := s.providers.Lookup(host.ToInstance(ctx, d.instance), &providerv1.LookupRequest{Key: d.key()})
	switch {
	case err == nil:
		return d.check(res.GetDelivery())
	case connect.CodeOf(err) != connect.CodeNotFound:
		return nil, err
	case fault.Reason(err) != "KEY_UNKNOWN":
		// The instance itself is no more: another may send it, at worst again.
		d.instance = ""
	}
	return nil, nil
}

// choices remember the instances of a market for a moment.
type choices struct {
	mu sync.Mutex
	by map[string]chosen
}

type chosen struct {
	all   []*kernelv1.Instance
	until time.Time
}

// remembered is how long a changed binding may go unnoticed.
const remembered = 2 * time.Second

var errNoProvider = errors.New("no instance that is ready carries this channel")

// capability of a provider for a channel.
var capability = map[int32]string{int32(mail): "mail", int32(webhook): "webhook"}

// choose takes the market's best instance that carries the channel.
func (s *service) choose(ctx context.Context, d *delivery) (string, error) {
	market := s.marketOf(d)
	c := &s.choices
	c.mu.Lock()
	known := c.by[market]
	c.mu.Unlock()
	if time.Now().After(known.until) {
		res, err := s.host.Instances.ListInstances(host.InMarket(ctx, market), &kernelv1.ListInstancesRequest{Contract: contract, Market: market})
		if err != nil {
			return "", err
		}
		known = chosen{res.GetInstances(), time.Now().Add(remembered)}
		c.mu.Lock()
		if c.by == nil {
			c.by = make(map[string]chosen)
		}
		c.by[market] = known
		c.mu.Unlock()
	}
	for _, i := range known.all {
		if i.GetReady() && slices.Contains(i.GetCapabilities(), capability[int32(d.channel)]) {
			return i.GetInstance(), nil
		}
	}
	return "", errNoProvider
}
