package main

import (
	"encoding/binary"

	"google.golang.org/protobuf/encoding/protowire"
)

// wirePage puts a page together as it travels: rows hold listings ready made,
// only title and stock are added, and the whole is decoded once. Half of a
// page's processor time would else go into scanning values one by one.
type wirePage struct {
	size, n  int
	wire     []byte
	key      string
	position int64
	more     bool
}

// Numbers of fields in entrepot.catalog.v1.
const (
	responseListings = 1
	listingTitle     = 5
	listingAvailable = 9
)

// add takes a row (position, key, body, title, available) in PostgreSQL's
// binary format.
func (p *wirePage) add(row [][]byte) {
	if p.n == p.size {
		p.more = true
		return
	}
	p.n++
	body, title, available := row[2], row[3], binary.BigEndian.Uint64(row[4])
	p.position, p.key = int64(binary.BigEndian.Uint64(row[0])), string(row[1])
	length := len(body) + protowire.SizeTag(listingTitle) + protowire.SizeBytes(len(title)) +
		protowire.SizeTag(listingAvailable) + protowire.SizeVarint(available)
	p.wire = protowire.AppendTag(p.wire, responseListings, protowire.BytesType)
	p.wire = protowire.AppendVarint(p.wire, uint64(length))
	p.wire = append(p.wire, body...)
	p.wire = protowire.AppendTag(p.wire, listingTitle, protowire.BytesType)
	p.wire = protowire.AppendBytes(p.wire, title)
	p.wire = protowire.AppendTag(p.wire, listingAvailable, protowire.VarintType)
	p.wire = protowire.AppendVarint(p.wire, available)
}
