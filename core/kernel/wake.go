package kernel

import "github.com/entrepot/entrepot/core/registry"

// lanes is what the bus does with a plugin's lanes.
type lanes interface {
	// Wake ends their rest, Unregister ends delivery here until the plugin is
	// registered again.
	Wake(plugin string)
	Unregister(plugin string)
}

// tellBus tells the bus which plugins became ready, or were given up until the
// operator mends them: those and no others, whatever else changes. Snapshots
// come one at a time.
func tellBus(b lanes) func(*registry.Snapshot) {
	before := map[string]*registry.Plugin{}
	return func(s *registry.Snapshot) {
		for name, p := range s.Plugins {
			was := before[name]
			if was == p {
				continue
			}
			before[name] = p
			switch {
			case p.Process != nil && (was == nil || was.Process != p.Process || was.State != p.State && p.State == registry.Ready):
				b.Wake(name)
			case p.State == registry.Quarantined && (was == nil || was.State != registry.Quarantined):
				b.Unregister(name)
			}
		}
	}
}
