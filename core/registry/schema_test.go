package registry

import (
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/types/descriptorpb"

	optionsv1 "github.com/entrepot/entrepot/proto/entrepot/options/v1"
	pluginv1 "github.com/entrepot/entrepot/proto/entrepot/plugin/v1"
)

// shop is a file with a service S of three methods: Read, which everybody may
// call and which changes nothing, Watch, which streams, and Secret, which
// declares no access.
func shop(pkg string) *descriptorpb.FileDescriptorProto {
	read := &descriptorpb.MethodOptions{IdempotencyLevel: descriptorpb.MethodOptions_NO_SIDE_EFFECTS.Enum()}
	proto.SetExtension(read, optionsv1.E_Access, &optionsv1.Access{Allow: []optionsv1.Audience{optionsv1.Audience_AUDIENCE_PUBLIC}})
	m := "." + pkg + ".M"
	return &descriptorpb.FileDescriptorProto{
		Name: proto.String(pkg + ".proto"), Package: proto.String(pkg), Syntax: proto.String("proto3"),
		Dependency:  []string{"entrepot/options/v1/options.proto"},
		MessageType: []*descriptorpb.DescriptorProto{{Name: proto.String("M")}},
		Service: []*descriptorpb.ServiceDescriptorProto{{Name: proto.String("S"), Method: []*descriptorpb.MethodDescriptorProto{
			{Name: proto.String("Read"), InputType: &m, OutputType: &m, Options: read},
			{Name: proto.String("Watch"), InputType: &m, OutputType: &m, ServerStreaming: proto.Bool(true)},
			{Name: proto.String("Secret"), InputType: &m, OutputType: &m},
		}}},
	}
}

func describe(t testing.TB, name string, serves []string, files ...*descriptorpb.FileDescriptorProto) *pluginv1.DescribeResponse {
	t.Helper()
	set := &descriptorpb.FileDescriptorSet{File: append([]*descriptorpb.FileDescriptorProto{
		protodesc.ToFileDescriptorProto(descriptorpb.File_google_protobuf_descriptor_proto),
		protodesc.ToFileDescriptorProto(optionsv1.File_entrepot_options_v1_options_proto),
	}, files...)}
	raw, err := proto.Marshal(set)
	require.NoError(t, err)
	d := &pluginv1.DescribeResponse{Manifest: &pluginv1.Manifest{Name: name}, Descriptors: raw}
	for _, c := range serves {
		d.Manifest.Serves = append(d.Manifest.Serves, &pluginv1.ServedContract{Contract: c})
	}
	return d
}

// put registers a plugin that serves the package of a file.
func put(t testing.TB, r *Registry, name string, file *descriptorpb.FileDescriptorProto) *Schema {
	t.Helper()
	schema, err := ReadSchema(describe(t, name, []string{file.GetPackage()}, file))
	require.NoError(t, err)
	p := &Plugin{Name: name, State: Ready}
	require.NoError(t, r.Put(name, p, []*Instance{{Name: name, Plugin: p}}, schema))
	return schema
}

func TestWhatASchemaSaysOfAMethodIsKnown(t *testing.T) {
	r := New()
	put(t, r, "shop", shop("shop.v1"))
	read, watch, secret := r.Snapshot().Methods["/shop.v1.S/Read"], r.Snapshot().Methods["/shop.v1.S/Watch"], r.Snapshot().Methods["/shop.v1.S/Secret"]
	require.Equal(t, "shop.v1", read.Contract)
	require.Equal(t, []optionsv1.Audience{optionsv1.Audience_AUDIENCE_PUBLIC}, read.Access.GetAllow())
	require.True(t, read.NoSideEffects)
	require.True(t, watch.ServerStream)
	require.False(t, watch.ClientStream)
	require.False(t, watch.NoSideEffects)
	require.Nil(t, secret.Access, "a method without an access rule is known, and refused to everybody")
	require.Equal(t, "shop.v1.M", string(secret.Desc.Input().FullName()))
}

func TestAServiceOutsideOfWhatIsServedIsNoMethod(t *testing.T) {
	schema, err := ReadSchema(describe(t, "shop", []string{"shop.v1"}, shop("shop.v1"), shop("bank.v1")))
	require.NoError(t, err)
	for _, m := range schema.methods {
		require.Equal(t, "shop.v1", m.Contract)
	}
}

func TestALyingDescriptionIsRefused(t *testing.T) {
	dangling := shop("shop.v1")
	dangling.Service[0].Method[0].InputType = proto.String(".nowhere.M")
	twice := shop("shop.v1")
	twice.Name = proto.String("again.proto")
	for name, c := range map[string]struct {
		d    *pluginv1.DescribeResponse
		want string
	}{
		"rubbish":                  {&pluginv1.DescribeResponse{Manifest: &pluginv1.Manifest{Name: "shop"}, Descriptors: []byte("rubbish")}, "plugin shop: descriptors"},
		"too large":                {&pluginv1.DescribeResponse{Manifest: &pluginv1.Manifest{Name: "shop"}, Descriptors: make([]byte, maxDescriptors+1)}, "more than 8388608 bytes"},
		"a service that is not":    {describe(t, "shop", []string{"bank.v1"}, shop("shop.v1")), "says that it serves bank.v1, but describes no service of it"},
		"the kernel's own":         {describe(t, "shop", []string{"entrepot.identity.v1"}, shop("entrepot.identity.v1")), "which is the kernel's"},
		"the kernel's next":        {describe(t, "shop", []string{"entrepot.kernel.v9"}, shop("entrepot.kernel.v9")), "which is the kernel's"},
		"a type that is nowhere":   {describe(t, "shop", []string{"shop.v1"}, dangling), "nowhere.M"},
		"one name in two files":    {describe(t, "shop", []string{"shop.v1"}, shop("shop.v1"), twice), "name conflict"},
		"an import that is absent": {&pluginv1.DescribeResponse{Manifest: &pluginv1.Manifest{Name: "shop"}, Descriptors: alone(t)}, "options.proto"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := ReadSchema(c.d)
			require.ErrorContains(t, err, c.want)
		})
	}
}

func alone(t testing.TB) []byte {
	raw, err := proto.Marshal(&descriptorpb.FileDescriptorSet{File: []*descriptorpb.FileDescriptorProto{shop("shop.v1")}})
	require.NoError(t, err)
	return raw
}

func TestTwoPluginsServeOneContractOnlyWhenTheyAgreeOnIt(t *testing.T) {
	r := New()
	put(t, r, "one", shop("shop.v1"))
	put(t, r, "two", shop("shop.v1"))
	other := shop("shop.v1")
	other.MessageType[0].Field = []*descriptorpb.FieldDescriptorProto{{
		Name: proto.String("price"), Number: proto.Int32(1), Type: descriptorpb.FieldDescriptorProto_TYPE_INT64.Enum(), Label: descriptorpb.FieldDescriptorProto_LABEL_OPTIONAL.Enum(),
	}}
	schema, err := ReadSchema(describe(t, "three", []string{"shop.v1"}, other))
	require.NoError(t, err)
	before := r.Snapshot()
	err = r.Put("three", &Plugin{Name: "three"}, nil, schema)
	require.ErrorContains(t, err, "plugins one and three describe shop.v1.proto differently")
	require.Same(t, before, r.Snapshot(), "what is refused changes nothing")

	// Under another path it is no less another definition.
	moved := shop("shop.v1")
	moved.Name = proto.String("elsewhere.proto")
	schema, err = ReadSchema(describe(t, "four", []string{"shop.v1"}, moved))
	require.NoError(t, err)
	require.ErrorContains(t, r.Put("four", &Plugin{Name: "four"}, nil, schema), "plugin four: its schema does not fit")
}

func TestFilesOfTheKernelAreTakenFromTheKernel(t *testing.T) {
	r := New()
	put(t, r, "one", shop("shop.v1"))
	// Built with another release, which has another message in the options.
	d := describe(t, "two", []string{"bank.v1"}, shop("bank.v1"))
	set := &descriptorpb.FileDescriptorSet{}
	require.NoError(t, proto.Unmarshal(d.GetDescriptors(), set))
	set.File[1].MessageType = append(set.File[1].MessageType, &descriptorpb.DescriptorProto{Name: proto.String("Newer")})
	var err error
	d.Descriptors, err = proto.Marshal(set)
	require.NoError(t, err)
	schema, err := ReadSchema(d)
	require.NoError(t, err)
	require.NoError(t, r.Put("two", &Plugin{Name: "two"}, nil, schema))
	require.NotNil(t, r.Snapshot().Methods["/bank.v1.S/Read"].Access)
	require.Nil(t, r.Snapshot().Message("entrepot.options.v1.Newer"))
}

// FuzzReadSchema: whatever a plugin describes is refused with an error or
// makes a snapshot.
func FuzzReadSchema(f *testing.F) {
	f.Add(describe(f, "shop", nil, shop("shop.v1")).GetDescriptors())
	f.Add(alone(f))
	f.Add([]byte("rubbish"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		d := &pluginv1.DescribeResponse{Descriptors: raw, Manifest: &pluginv1.Manifest{Name: "shop", Serves: []*pluginv1.ServedContract{{Contract: "shop.v1"}}}}
		schema, err := ReadSchema(d)
		if err != nil {
			return
		}
		r := New()
		if r.Put("shop", &Plugin{Name: "shop"}, nil, schema) == nil {
			r.Snapshot().Message("shop.v1.M")
		}
	})
}
