package buildcache

import (
	"os"
	"path/filepath"
	"time"
)

// Kinds of what can be removed besides records, whose kind is theirs.
const (
	BurySnapshot = "snapshot" // by the hexadecimal digits of its ChainID
	BuryBlob     = "blob"     // by those of its digest
)

// A Tombstone stands where something was removed to save space, so that a later
// miss can say so.
type Tombstone struct {
	Kind string    `json:"kind"` // of a record, or one of the Bury constants
	ID   string    `json:"id"`   // its key, or hexadecimal digits
	When time.Time `json:"when"`
	By   string    `json:"by"`   // the command
	Rule string    `json:"rule"` // what made it go, in words

	// Record is a record of a script that went, without its result: what changed since
	// it was run can still be told.
	Record *Record `json:"record,omitempty"`
}

func tombstoneName(kind, id string) string {
	return filepath.Join("tombstones", filepath.Base(kind), filepath.Base(id)+".json")
}

// Bury notes that something is being removed; call it first. It is not synced: a
// tombstone that is lost makes an explanation poorer, and nothing else.
func (c *Cache) Bury(t Tombstone) error {
	if kind := Kind(t.Kind); kind == Rootfs || kind == Labels {
		if r, err := c.Get(kind, Key(t.ID)); err == nil {
			r.Result = nil
			t.Record = r
		}
	}
	return c.jot(tombstoneName(t.Kind, t.ID), t)
}

// Tombstone returns what is known of a removal, or ErrNotFound.
func (c *Cache) Tombstone(kind, id string) (*Tombstone, error) {
	var t Tombstone
	if err := c.read(tombstoneName(kind, id), &t); err != nil {
		return nil, ErrNotFound
	}
	return &t, nil
}

// Exhume takes a tombstone away, since what it stood for is there again.
func (c *Cache) Exhume(kind, id string) {
	_ = os.Remove(c.path(tombstoneName(kind, id)))
}

// RemoveTombstones removes those from before a time.
func (c *Cache) RemoveTombstones(before time.Time) error {
	return c.walk("tombstones", func(name string) error {
		info, err := os.Lstat(c.path(name))
		if err == nil && info.ModTime().Before(before) {
			_ = os.Remove(c.path(name))
		}
		return nil
	})
}
