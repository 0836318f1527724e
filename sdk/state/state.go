// Package state keeps a provider's records with the kernel
// (entrepot.kernel.v1.StateService): many small records in a bounded number of
// keys, each changed by compare-and-set, so that several calls and several
// processes of one instance never lose each other's change.
package state

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"connectrpc.com/connect/v2"
	"golang.org/x/sync/errgroup"

	kernelv1 "github.com/entrepot/entrepot/proto/entrepot/kernel/v1"
	"github.com/entrepot/entrepot/proto/entrepot/kernel/v1/kernelv1connect"
	"github.com/entrepot/entrepot/sdk/fault"
	"github.com/entrepot/entrepot/sdk/plugin"
)

const (
	// bucketBytes is the most that one key of the kernel holds.
	bucketBytes = 64 << 10
	// tries bounds the attempts of one change. Of those who change a bucket at
	// once one succeeds each time, so this is how many may do so.
	tries = 64
	// abreast is how many buckets All reads at once.
	abreast = 8
)

// Map is records by id, kept as JSON. An instance may have 10,000 keys in all,
// so the buckets of its maps are fewer. The number of a map's buckets never
// changes: records would not be found. Safe for concurrent use.
type Map[T any] struct {
	client   kernelv1connect.StateServiceClient
	instance string
	name     string
	buckets  uint32
	// Spare names a record that may be forgotten where a bucket has no room
	// for another, and false where none may: the change is then refused with
	// STATE_FULL. keep is the record at hand. Nil: none may. It is set before
	// the first use.
	Spare func(bucket map[string]T, keep string) (id string, ok bool)
	// Growth is by how many bytes a record may yet grow. A new record finds no
	// room where those that are there, and itself, could not grow as much.
	// Nil: nothing grows. It is set before the first use.
	Growth func(record T) int
}

// Of makes the map of a name in an instance's state.
func Of[T any](in *plugin.Instance, name string, buckets int) *Map[T] {
	return &Map[T]{client: in.Host.State, instance: in.Name, name: name, buckets: uint32(buckets)}
}

// Get reads a record; false when there is none.
func (m *Map[T]) Get(ctx context.Context, id string) (record T, known bool, err error) {
	bucket, _, err := m.read(ctx, m.bucketOf(id))
	record, known = bucket[id]
	return record, known, err
}

// Update changes a record and returns it as it then is. change may be called
// several times, each time with what is stored then; it answers whether
// anything is to be written, and its error ends the matter. After an error of
// the kernel's the change may have been written or not: who tries again has to
// recognise it.
func (m *Map[T]) Update(ctx context.Context, id string, change func(record *T, known bool) (write bool, err error)) (T, error) {
	n := m.bucketOf(id)
	for try := 0; ; try++ {
		bucket, version, err := m.read(ctx, n)
		if err != nil {
			var none T
			return none, err
		}
		record, known := bucket[id]
		write, err := change(&record, known)
		if err != nil || !write {
			return record, err
		}
		bucket[id] = record
		value, err := m.encode(bucket, id, !known)
		if err != nil {
			return record, err
		}
		_, err = m.client.PutState(ctx, &kernelv1.PutStateRequest{Instance: m.instance, Key: m.key(n), Value: value, ExpectedVersion: version})
		if err == nil || connect.CodeOf(err) != connect.CodeAborted {
			return record, err
		}
		if try == tries {
			return record, fault.New(connect.CodeUnavailable, "STATE_BUSY", "too many change the same records; try again")
		}
		if err := pause(ctx, try); err != nil {
			return record, err
		}
	}
}

// All reads every record of the map. A change made meanwhile may be in it or
// not.
func (m *Map[T]) All(ctx context.Context) (map[string]T, error) {
	all := make(map[string]T)
	var mu sync.Mutex
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(abreast)
	for n := range m.buckets {
		g.Go(func() error {
			bucket, _, err := m.read(ctx, n)
			mu.Lock()
			defer mu.Unlock()
			for id, r := range bucket {
				all[id] = r
			}
			return err
		})
	}
	return all, g.Wait()
}

// bucketOf spreads ids evenly, whoever chooses them.
func (m *Map[T]) bucketOf(id string) uint32 {
	sum := sha256.Sum256([]byte(id))
	return binary.BigEndian.Uint32(sum[:]) % m.buckets
}

func (m *Map[T]) key(bucket uint32) string { return fmt.Sprintf("%s/%04x", m.name, bucket) }

func (m *Map[T]) read(ctx context.Context, n uint32) (bucket map[string]T, version int64, err error) {
	res, err := m.client.GetState(ctx, &kernelv1.GetStateRequest{Instance: m.instance, Key: m.key(n)})
	if err != nil {
		return nil, 0, err
	}
	bucket = make(map[string]T)
	if len(res.GetValue()) > 0 {
		if err := json.Unmarshal(res.GetValue(), &bucket); err != nil {
			return nil, 0, fmt.Errorf("state %s: %w", m.key(n), err)
		}
	}
	return bucket, res.GetVersion(), nil
}

// encode writes a bucket, and forgets what it has to and may.
func (m *Map[T]) encode(bucket map[string]T, keep string, isNew bool) ([]byte, error) {
	for {
		value, err := json.Marshal(bucket)
		if err != nil {
			return nil, fmt.Errorf("state %s: %w", m.name, err)
		}
		need := len(value)
		if isNew && m.Growth != nil {
			for _, r := range bucket {
				need += m.Growth(r)
			}
		}
		if need <= bucketBytes {
			return value, nil
		}
		id, ok := "", false
		if m.Spare != nil {
			id, ok = m.Spare(bucket, keep)
		}
		if _, there := bucket[id]; !ok || !there || id == keep {
			return nil, fault.New(connect.CodeResourceExhausted, "STATE_FULL", "there is no room for more records")
		}
		delete(bucket, id)
	}
}

// pause lets others through: longer and longer, and never all as long.
func pause(ctx context.Context, try int) error {
	t := time.NewTimer(rand.N(time.Millisecond << min(try, 5)))
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}
