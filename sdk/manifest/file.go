package manifest

import (
	"github.com/hashicorp/hcl/v2"
)

// file is plugin.hcl as it is written.
type file struct {
	Name          string         `hcl:"name"`
	NameAt        hcl.Range      `hcl:"name,attr_value_range"`
	Version       string         `hcl:"version"`
	VersionAt     hcl.Range      `hcl:"version,attr_value_range"`
	Kind          string         `hcl:"kind"`
	KindAt        hcl.Range      `hcl:"kind,attr_value_range"`
	Title         string         `hcl:"title,optional"`
	TitleAt       hcl.Range      `hcl:"title,attr_value_range"`
	Calls         []string       `hcl:"calls,optional"`
	CallsAt       hcl.Range      `hcl:"calls,attr_value_range"`
	Publishes     []string       `hcl:"publishes,optional"`
	PublishesAt   hcl.Range      `hcl:"publishes,attr_value_range"`
	Reveals       []string       `hcl:"reveals,optional"`
	RevealsAt     hcl.Range      `hcl:"reveals,attr_value_range"`
	Serves        []serves       `hcl:"serves,block"`
	Subscriptions []subscription `hcl:"subscription,block"`
	Schedules     []schedule     `hcl:"schedule,block"`
	Config        []config       `hcl:"config,block"`
}

type serves struct {
	Contract     string    `hcl:"contract,label"`
	Capabilities []string  `hcl:"capabilities,optional"`
	At           hcl.Range `hcl:"contract,label_range"`
}

type subscription struct {
	Name        string    `hcl:"name,label"`
	Topics      []string  `hcl:"topics"`
	TopicsAt    hcl.Range `hcl:"topics,attr_value_range"`
	OnDead      string    `hcl:"on_dead,optional"`
	OnDeadAt    hcl.Range `hcl:"on_dead,attr_value_range"`
	MaxAttempts int32     `hcl:"max_attempts,optional"`
	Gather      string    `hcl:"gather,optional"`
	GatherAt    hcl.Range `hcl:"gather,attr_value_range"`
	At          hcl.Range `hcl:"name,label_range"`
}

type schedule struct {
	Name    string    `hcl:"name,label"`
	Every   string    `hcl:"every"`
	EveryAt hcl.Range `hcl:"every,attr_value_range"`
	At      hcl.Range `hcl:"name,label_range"`
}

type config struct {
	Name        string    `hcl:"name,label"`
	Type        string    `hcl:"type,optional"`
	TypeAt      hcl.Range `hcl:"type,attr_value_range"`
	Required    bool      `hcl:"required,optional"`
	Secret      bool      `hcl:"secret,optional"`
	Description string    `hcl:"description,optional"`
	At          hcl.Range `hcl:"name,label_range"`
}
