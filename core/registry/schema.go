package registry

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"

	optionsv1 "github.com/entrepot/entrepot/proto/entrepot/options/v1"
	pluginv1 "github.com/entrepot/entrepot/proto/entrepot/plugin/v1"
)

// Bounds of what a plugin may describe.
const (
	maxDescriptors = 8 << 20
	maxFiles       = 2000
	maxMethods     = 5000
)

// Schema is what a plugin described, read and checked.
type Schema struct {
	files   map[string]*descriptorpb.FileDescriptorProto
	methods []*Method
}

// kernelPackages begin the names of contracts that the kernel serves itself.
var kernelPackages = []string{"entrepot.kernel.", "entrepot.plugin.", "entrepot.operator.", "entrepot.identity.", "grpc."}

func reserved(contract string) bool {
	return slices.ContainsFunc(kernelPackages, func(p string) bool { return strings.HasPrefix(contract, p) })
}

// kernels takes a file that the kernel has itself from the kernel: plugins
// built with another release of protobuf or of the SDK describe those a little
// differently, and what they say of them does not count.
func kernels(f *descriptorpb.FileDescriptorProto) *descriptorpb.FileDescriptorProto {
	own, err := protoregistry.GlobalFiles.FindFileByPath(f.GetName())
	if err != nil {
		return f
	}
	return protodesc.ToFileDescriptorProto(own)
}

// ReadSchema reads a plugin's descriptors. What comes from a plugin is hostile
// until checked: sizes, references, and that it describes every contract that
// its manifest names. Services outside of those, which come along with what
// the plugin calls or publishes, are no methods of it.
func ReadSchema(d *pluginv1.DescribeResponse) (*Schema, error) {
	name := d.GetManifest().GetName()
	if len(d.GetDescriptors()) > maxDescriptors {
		return nil, fmt.Errorf("plugin %s describes more than %d bytes of schema", name, maxDescriptors)
	}
	set := &descriptorpb.FileDescriptorSet{}
	if err := proto.Unmarshal(d.GetDescriptors(), set); err != nil {
		return nil, fmt.Errorf("plugin %s: descriptors: %w", name, err)
	}
	if len(set.GetFile()) > maxFiles {
		return nil, fmt.Errorf("plugin %s describes more than %d files", name, maxFiles)
	}
	files, err := protodesc.NewFiles(set)
	if err != nil {
		return nil, fmt.Errorf("plugin %s: descriptors: %w", name, err)
	}
	s := &Schema{files: make(map[string]*descriptorpb.FileDescriptorProto, len(set.GetFile()))}
	for _, f := range set.GetFile() {
		s.files[f.GetName()] = kernels(f)
	}
	served := make(map[string]bool, len(d.GetManifest().GetServes()))
	for _, c := range d.GetManifest().GetServes() {
		if reserved(c.GetContract()) {
			return nil, fmt.Errorf("plugin %s says that it serves %s, which is the kernel's", name, c.GetContract())
		}
		served[c.GetContract()] = false
	}
	files.RangeFiles(func(f protoreflect.FileDescriptor) bool {
		contract := string(f.Package())
		if _, ok := served[contract]; ok && f.Services().Len() > 0 {
			served[contract] = true
			s.collect(contract, f)
		}
		return len(s.methods) <= maxMethods
	})
	if len(s.methods) > maxMethods {
		return nil, fmt.Errorf("plugin %s describes more than %d methods", name, maxMethods)
	}
	for _, c := range d.GetManifest().GetServes() {
		if !served[c.GetContract()] {
			return nil, fmt.Errorf("plugin %s says that it serves %s, but describes no service of it", name, c.GetContract())
		}
	}
	return s, nil
}

func (s *Schema) collect(contract string, f protoreflect.FileDescriptor) {
	for i := range f.Services().Len() {
		methods := f.Services().Get(i).Methods()
		for j := range methods.Len() {
			s.methods = append(s.methods, method(contract, methods.Get(j)))
		}
	}
}

func method(contract string, m protoreflect.MethodDescriptor) *Method {
	out := &Method{
		Procedure: fmt.Sprintf("/%s/%s", m.Parent().FullName(), m.Name()), Contract: contract, Desc: m,
		ServerStream: m.IsStreamingServer(), ClientStream: m.IsStreamingClient(),
	}
	opts, ok := m.Options().(*descriptorpb.MethodOptions)
	if !ok || opts == nil {
		return out
	}
	out.NoSideEffects = opts.GetIdempotencyLevel() == descriptorpb.MethodOptions_NO_SIDE_EFFECTS
	if proto.HasExtension(opts, optionsv1.E_Access) {
		out.Access, _ = proto.GetExtension(opts, optionsv1.E_Access).(*optionsv1.Access)
	}
	out.Capability, _ = proto.GetExtension(opts, optionsv1.E_Capability).(string)
	return out
}

// merge gathers files and methods of all plugins. Two plugins that describe
// one file must describe the same.
func (s *Snapshot) merge() error {
	s.Methods = map[string]*Method{}
	files := make(map[string]*descriptorpb.FileDescriptorProto)
	owner := make(map[string]string)
	set := &descriptorpb.FileDescriptorSet{}
	for _, name := range slices.Sorted(maps.Keys(s.Plugins)) {
		schema := s.Plugins[name].schema
		if schema == nil {
			continue
		}
		for path, f := range schema.files {
			have, ok := files[path]
			if !ok {
				files[path], owner[path] = f, name
				set.File = append(set.File, f)
			} else if !proto.Equal(have, f) {
				return fmt.Errorf("plugins %s and %s describe %s differently: build them against one version of the contract", owner[path], name, path)
			}
		}
		for _, m := range schema.methods {
			s.Methods[m.Procedure] = m
		}
	}
	var err error
	if s.Files, err = protodesc.NewFiles(set); err != nil {
		return fmt.Errorf("its schema does not fit those of the kernel and the other plugins: %w", err)
	}
	return nil
}

// Message finds the schema of a message, for showing payloads; nil when no
// plugin described it.
func (s *Snapshot) Message(name protoreflect.FullName) protoreflect.MessageDescriptor {
	d, err := s.Files.FindDescriptorByName(name)
	if err != nil {
		if d, err = protoregistry.GlobalFiles.FindDescriptorByName(name); err != nil {
			return nil
		}
	}
	m, _ := d.(protoreflect.MessageDescriptor)
	return m
}
