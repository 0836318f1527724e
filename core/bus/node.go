package bus

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"hash/fnv"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
)

// nodeLock is the class of the advisory lock that a live node holds.
const nodeLock = 7202

const (
	// heartbeat is how often the nodes look at each other.
	heartbeat = time.Second
	// statement bounds the bus's own short statements.
	statement = 5 * time.Second
)

// NodeConfig is what Join needs.
type NodeConfig struct {
	// Connect makes a connection of the node's own as the kernel's role, with
	// application_name "entrepot/node". It bears a session lock, so it must
	// not go through a pooler in transaction mode.
	Connect func(ctx context.Context) (*pgx.Conn, error)
	// Name is the operator's name of the node; the id is made of it.
	Name string
	// Logger, default slog.Default().
	Logger *slog.Logger
}

// Node is this kernel process among all that share the database. PostgreSQL
// itself knows which are alive: each holds an advisory lock on a connection of
// its own, which ends with the process. Safe for concurrent use.
type Node struct {
	c  NodeConfig
	id string

	change chan struct{}

	mu      sync.Mutex
	conn    *pgx.Conn
	plugins []string
	peers   []peer // the live ones, this node included or not
}

type peer struct {
	id      string
	plugins []string
}

// Join registers this process as a live node. Run keeps it so.
func Join(ctx context.Context, c NodeConfig) (*Node, error) {
	if c.Connect == nil || c.Name == "" {
		return nil, errors.New("bus: a node needs Connect and Name")
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	// A process is a node: one that restarts under the same name must not
	// pass for the dead one, whose sagas wait to be taken over.
	n := &Node{c: c, id: c.Name + "-" + strings.ToLower(rand.Text()[:8]), change: make(chan struct{}, 1)}
	if err := n.connect(ctx); err != nil {
		return nil, fmt.Errorf("bus: join as node %s: %w", n.id, err)
	}
	return n, nil
}

// ID names the node in the database: what Configure gives to plugins, so that
// this node drives the sagas they start.
func (n *Node) ID() string { return n.id }

func (n *Node) connect(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 2*statement)
	defer cancel()
	conn, err := n.c.Connect(ctx)
	if err != nil {
		return err
	}
	var key int32
	err = conn.QueryRow(ctx, `INSERT INTO bus.node (id) VALUES ($1) ON CONFLICT (id) DO UPDATE SET seen = now() RETURNING key`, n.id).Scan(&key)
	if err == nil {
		// Waits for the backend of a connection that broke to notice.
		_, err = conn.Exec(ctx, `SELECT pg_advisory_lock($1, $2)`, int32(nodeLock), key)
	}
	if err != nil {
		_ = conn.Close(context.WithoutCancel(ctx))
		return err
	}
	n.mu.Lock()
	n.conn = conn
	n.mu.Unlock()
	return n.look(ctx, true)
}

// Run keeps the node registered and knows its peers until ctx ends; then it
// leaves, and others take over what it had. A lost connection is made anew.
func (n *Node) Run(ctx context.Context) error {
	defer n.close()
	tick := time.NewTicker(heartbeat)
	defer tick.Stop()
	for beats := 1; ; beats++ {
		var said bool
		select {
		case <-ctx.Done():
			return nil
		case <-n.change:
			said = true
		case <-tick.C:
			said = beats%60 == 0
		}
		err := n.look(ctx, said)
		if err == nil || ctx.Err() != nil {
			continue
		}
		n.c.Logger.WarnContext(ctx, "bus: the node's connection broke; making it anew", "node", n.id, "error", err)
		n.close()
		if err := n.connect(ctx); err != nil && ctx.Err() == nil {
			n.c.Logger.WarnContext(ctx, "bus: the node cannot reach the database", "node", n.id, "error", err)
		}
	}
}

func (n *Node) close() {
	n.mu.Lock()
	conn := n.conn
	n.conn = nil
	n.mu.Unlock()
	if conn != nil {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_ = conn.Close(ctx)
	}
}

// look reads the live nodes; with say it also tells which plugins run here,
// and forgets nodes that are gone for a day.
func (n *Node) look(ctx context.Context, say bool) error {
	n.mu.Lock()
	conn, plugins := n.conn, slices.Clone(n.plugins)
	n.mu.Unlock()
	if conn == nil {
		return errors.New("not connected")
	}
	ctx, cancel := context.WithTimeout(ctx, statement)
	defer cancel()
	if say {
		if plugins == nil {
			plugins = []string{}
		}
		if _, err := conn.Exec(ctx, `UPDATE bus.node SET seen = now(), plugins = $2 WHERE id = $1`, n.id, plugins); err != nil {
			return err
		}
		if _, err := conn.Exec(ctx, `DELETE FROM bus.node WHERE seen < now() - interval '1 day' AND id NOT IN (SELECT id FROM bus.live_node)`); err != nil {
			return err
		}
	}
	rows, err := conn.Query(ctx, `SELECT n.id, n.plugins FROM bus.node n JOIN bus.live_node l USING (id) ORDER BY n.id`)
	if err != nil {
		return err
	}
	peers, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (p peer, err error) {
		err = row.Scan(&p.id, &p.plugins)
		return p, err
	})
	if err != nil {
		return err
	}
	n.mu.Lock()
	n.peers = peers
	n.mu.Unlock()
	return nil
}

func (n *Node) add(plugin string) {
	n.mu.Lock()
	if !slices.Contains(n.plugins, plugin) {
		n.plugins = append(n.plugins, plugin)
	}
	n.mu.Unlock()
	signal(n.change)
}

func (n *Node) remove(plugin string) {
	n.mu.Lock()
	n.plugins = slices.DeleteFunc(n.plugins, func(p string) bool { return p == plugin })
	n.mu.Unlock()
	signal(n.change)
}

// alone tells whether no other node is alive.
func (n *Node) alone() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, p := range n.peers {
		if p.id != n.id {
			return false
		}
	}
	return true
}

// owns tells whether this node delivers a lane: of the live nodes that run
// the plugin, each lane has the one with the highest hash (rendezvous), so
// that a node that comes or goes moves only its own share. All nodes see the
// same within a heartbeat; until then the compare-and-set decides.
func (n *Node) owns(plugin string, sub int16, lane int) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	mine := weight(n.id, sub, lane)
	for _, p := range n.peers {
		if p.id == n.id || !slices.Contains(p.plugins, plugin) {
			continue
		}
		if w := weight(p.id, sub, lane); w > mine || w == mine && p.id > n.id {
			return false
		}
	}
	return true
}

func weight(node string, sub int16, lane int) uint64 {
	h := fnv.New64a()
	_, _ = h.Write([]byte(node))
	_, _ = h.Write([]byte{byte(sub >> 8), byte(sub), byte(lane)})
	return mix(h.Sum64())
}

// mix spreads the last bytes, which FNV leaves in the low bits (the finaliser
// of MurmurHash3).
func mix(x uint64) uint64 {
	x ^= x >> 33
	x *= 0xff51afd7ed558ccd
	x ^= x >> 33
	x *= 0xc4ceb9fe1a85ec53
	return x ^ x>>33
}
