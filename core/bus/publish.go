package bus

import (
	"context"
	"slices"
	"strings"

	"connectrpc.com/connect/v2"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/dynamicpb"

	kernelv1 "github.com/entrepot/entrepot/proto/entrepot/kernel/v1"
	"github.com/entrepot/entrepot/proto/entrepot/kernel/v1/kernelv1connect"
	optionsv1 "github.com/entrepot/entrepot/proto/entrepot/options/v1"
	"github.com/entrepot/entrepot/sdk/fault"
)

// Caller is the plugin on whose socket a call came in.
type Caller struct {
	Plugin string
	// Publishes are the topics of its manifest.
	Publishes []string
	// Instances are its configured instances.
	Instances []string
}

// Message finds the schema of a message by its full name; nil when nobody
// described it.
type Message func(name protoreflect.FullName) protoreflect.MessageDescriptor

// Publisher serves entrepot.kernel.v1.BusService.
type Publisher struct {
	bus    *Bus
	caller func(context.Context) (Caller, bool)
	schema Message
}

var _ kernelv1connect.BusServiceHandler = (*Publisher)(nil)

// NewPublisher makes the service. caller tells whose call it is; a call of
// nobody known is refused.
func NewPublisher(b *Bus, caller func(context.Context) (Caller, bool), schema Message) *Publisher {
	return &Publisher{bus: b, caller: caller, schema: schema}
}

// Publish puts an event of a provider on the bus, once by its dedupe id: the
// id and the event are one commit.
func (p *Publisher) Publish(ctx context.Context, req *kernelv1.PublishRequest) (*kernelv1.PublishResponse, error) {
	c, ok := p.caller(ctx)
	switch {
	case !ok:
		return nil, fault.New(connect.CodePermissionDenied, "CALLER_UNKNOWN", "only a plugin may publish")
	case !slices.Contains(c.Instances, req.GetInstance()):
		return nil, fault.New(connect.CodePermissionDenied, "INSTANCE_FOREIGN", "the instance is not the caller's", "instance", req.GetInstance())
	case !slices.Contains(c.Publishes, req.GetTopic()):
		return nil, fault.New(connect.CodePermissionDenied, "SCOPE_MISSING", "the manifest's publishes do not list the topic", "topic", req.GetTopic())
	}
	if err := p.check(req); err != nil {
		return nil, err
	}
	n, err := p.bus.exec(ctx, `WITH t AS (INSERT INTO bus.told (plugin, dedupe_id) VALUES ($1, $2) ON CONFLICT DO NOTHING RETURNING 1)
		SELECT bus.publish_for($3, $4, $5, $6) FROM t`, req.GetInstance(), req.GetDedupeId(), c.Plugin, req.GetTopic(), req.GetKey(), req.GetPayload())
	if err != nil {
		return nil, fault.New(connect.CodeUnavailable, "BUS_UNAVAILABLE", "the bus cannot take the event now; try again").WithCause(err)
	}
	if n > 0 {
		p.bus.Poke()
	}
	return &kernelv1.PublishResponse{Published: n > 0}, nil
}

// check refuses what no consumer could read.
func (p *Publisher) check(req *kernelv1.PublishRequest) error {
	for field, v := range map[string]string{"key": req.GetKey(), "dedupe_id": req.GetDedupeId()} {
		if v == "" || len(v) > 200 || strings.ContainsRune(v, 0) {
			return fault.Field(field, "1 to 200 bytes without NUL")
		}
	}
	if len(req.GetPayload()) > 256<<10 {
		return fault.Field("payload", "at most 256 KiB")
	}
	md := p.schema(protoreflect.FullName(req.GetTopic()))
	if md == nil {
		return fault.Field("topic", "no plugin has described this message")
	}
	opt, _ := proto.GetExtension(md.Options(), optionsv1.E_Event).(*optionsv1.Event)
	field := md.Fields().ByName(protoreflect.Name(opt.GetKey()))
	if field == nil || field.Kind() != protoreflect.StringKind || field.IsList() {
		return fault.Field("topic", "the message is no event")
	}
	m := dynamicpb.NewMessage(md)
	if err := proto.Unmarshal(req.GetPayload(), m); err != nil {
		return fault.Field("payload", "it is no "+req.GetTopic())
	}
	if m.Get(field).String() != req.GetKey() {
		return fault.Field("key", "it differs from the payload's field "+string(field.Name()))
	}
	return nil
}
