package plugin

import (
	"fmt"
	"io/fs"
	"runtime/debug"
	"sort"
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"

	pluginv1 "github.com/entrepot/entrepot/proto/entrepot/plugin/v1"
	"github.com/entrepot/entrepot/sdk/store"
)

// describe says what the binary is: its manifest, the schemas of what it
// serves and publishes, its sagas and migrations.
func describe(p Plugin, m *pluginv1.Manifest) (*pluginv1.DescribeResponse, error) {
	d := &pluginv1.DescribeResponse{Manifest: m, SdkVersion: sdkVersion()}
	files, err := schemas(m)
	if err != nil {
		return nil, err
	}
	if d.Descriptors, err = (proto.MarshalOptions{Deterministic: true}).Marshal(files); err != nil {
		return nil, fmt.Errorf("descriptors: %w", err)
	}
	for _, s := range p.Sagas {
		d.Sagas = append(d.Sagas, s.Proto())
	}
	if m.GetKind() != pluginv1.Manifest_KIND_MODULE {
		if p.Migrations != nil || len(p.Sagas) > 0 {
			return nil, fmt.Errorf("%s is a provider: it has no schema and starts no sagas", m.GetName())
		}
		return d, nil
	}
	if d.Migrations, err = migrations(p.Migrations); err != nil {
		return nil, err
	}
	return d, nil
}

// schemas gathers the files of every contract served and topic published,
// with all they import, imports first.
func schemas(m *pluginv1.Manifest) (*descriptorpb.FileDescriptorSet, error) {
	set := &descriptorpb.FileDescriptorSet{}
	seen := make(map[string]bool)
	var add func(f protoreflect.FileDescriptor)
	add = func(f protoreflect.FileDescriptor) {
		if seen[f.Path()] {
			return
		}
		seen[f.Path()] = true
		for i := range f.Imports().Len() {
			add(f.Imports().Get(i).FileDescriptor)
		}
		set.File = append(set.File, protodesc.ToFileDescriptorProto(f))
	}
	for _, s := range m.GetServes() {
		found := false
		protoregistry.GlobalFiles.RangeFilesByPackage(protoreflect.FullName(s.GetContract()), func(f protoreflect.FileDescriptor) bool {
			found = true
			add(f)
			return true
		})
		if !found {
			return nil, fmt.Errorf("the manifest serves %q, but no such proto package is compiled in", s.GetContract())
		}
	}
	for _, topic := range m.GetPublishes() {
		t, err := protoregistry.GlobalTypes.FindMessageByName(protoreflect.FullName(topic))
		if err != nil {
			return nil, fmt.Errorf("the manifest publishes %q, but no such message is compiled in", topic)
		}
		add(t.Descriptor().ParentFile())
	}
	return set, nil
}

// migrations reads the module's schema steps, the SDK's own first.
func migrations(files fs.FS) ([]*pluginv1.Migration, error) {
	out := []*pluginv1.Migration{{Name: "00000000000001_idempotency", Sql: store.Idempotency}}
	if files == nil {
		return out, nil
	}
	names, err := fs.Glob(files, "*.sql")
	if err != nil {
		return nil, err
	}
	sort.Strings(names)
	for _, name := range names {
		b, err := fs.ReadFile(files, name)
		if err != nil {
			return nil, fmt.Errorf("migration %s: %w", name, err)
		}
		out = append(out, &pluginv1.Migration{Name: strings.TrimSuffix(name, ".sql"), Sql: string(b)})
	}
	return out, nil
}

func sdkVersion() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	const path = "github.com/entrepot/entrepot"
	for _, dep := range info.Deps {
		if dep.Path == path {
			return dep.Version
		}
	}
	if info.Main.Path == path && info.Main.Version != "" {
		return info.Main.Version
	}
	return "unknown"
}
