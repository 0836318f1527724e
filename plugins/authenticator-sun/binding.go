package main

import (
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	"github.com/entrepot/entrepot/sdk/gs1"
	"github.com/entrepot/entrepot/sdk/ntag424"
)

// goods names one piece: GTIN and serial, or its unit where it has none.
type goods string

func pieceOf(gtin, serial, unit string) goods {
	if gtin != "" && serial != "" {
		return goods(gtin + "/" + serial)
	}
	return goods(unit)
}

// bindings say which tag is on which goods, after who put them there.
type bindings struct {
	goods map[ntag424.UID]goods
	tag   map[goods]ntag424.UID
}

// says tells whether a tag is the one of a piece; known is false where neither
// is listed.
func (b *bindings) says(uid ntag424.UID, piece goods) (own, known bool) {
	g, listed := b.goods[uid]
	_, other := b.tag[piece]
	return listed && g == piece, listed || other
}

const (
	maxBindings = 1_000_000
	maxFile     = 64 << 20
)

// readBindings reads the operator's file; a name that is empty has none.
// Errors name file and line.
func readBindings(name string) (*bindings, error) {
	b := &bindings{goods: map[ntag424.UID]goods{}, tag: map[goods]ntag424.UID{}}
	if name == "" {
		return b, nil
	}
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	if i, err := f.Stat(); err != nil || !i.Mode().IsRegular() || i.Size() > maxFile {
		return nil, fmt.Errorf("%s is no file of at most %d bytes", name, maxFile)
	}
	r := csv.NewReader(io.LimitReader(f, maxFile))
	r.ReuseRecord, r.FieldsPerRecord, r.Comment = true, 3, '#'
	for first := true; ; first = false {
		row, err := r.Read()
		if errors.Is(err, io.EOF) {
			return b, nil
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", filepath.Base(name), err)
		}
		if first && slices.Equal(row, []string{"uid", "gtin", "serial"}) {
			continue
		}
		line, _ := r.FieldPos(0)
		if err := b.add(row[0], row[1], row[2]); err != nil {
			return nil, fmt.Errorf("%s:%d: %w", filepath.Base(name), line, err)
		}
	}
}

func (b *bindings) add(uid, gtin, serial string) error {
	u, err := ntag424.ParseUID(uid)
	if err != nil {
		return err
	}
	g, err := gs1.GTIN(gtin)
	if err != nil {
		return err
	}
	if serial == "" || len(serial) > 20 {
		return fmt.Errorf("serial %q: want 1 to 20 characters", serial)
	}
	piece := pieceOf(g, serial, "")
	if _, twice := b.goods[u]; twice {
		return fmt.Errorf("tag %s stands twice", u)
	}
	if _, twice := b.tag[piece]; twice {
		return fmt.Errorf("goods %s stand twice", piece)
	}
	if len(b.goods) == maxBindings {
		return fmt.Errorf("more than %d tags", maxBindings)
	}
	b.goods[u], b.tag[piece] = piece, u
	return nil
}
