package buildcache

import (
	"fmt"
	"os"
	"time"
)

// A Vouch says who first stated that a record's result is that of its inputs, and
// when. Both survive being passed on by others. A record without one was made by a
// process of this state folder that held no key.
type Vouch struct {
	By   string    `json:"by"` // the id of an ed25519 key, or VouchRegistry
	Time time.Time `json:"time"`
}

// VouchRegistry vouches for records that were taken from a registry without a
// signature: whoever could write to it.
const VouchRegistry = "registry"

// VouchAs has all records that are put from now on vouched for by a key.
func (c *Cache) VouchAs(key string) { c.voucher = key }

// vouch returns who vouches for a record that is made now.
func (c *Cache) vouch(now time.Time) *Vouch {
	if c.voucher == "" {
		return nil
	}
	return &Vouch{By: c.voucher, Time: now}
}

// TakeIn keeps a record that others have made. Its key is its own: the caller has computed
// it. The record is not synced, since others have it: one that a power cut has damaged is
// a miss, and is asked for again.
func (c *Cache) TakeIn(r *Record) error {
	if err := c.jot(recordName(r.Kind, r.Key), r); err != nil {
		return fmt.Errorf("taking in a %s record: %w", r.Kind, err)
	}
	c.kept(r)
	return nil
}

// kept notes that there is a record again: nothing explains any more why there was none.
func (c *Cache) kept(r *Record) {
	c.Exhume(string(r.Kind), string(r.Key))
	aside := c.aside(recordName(r.Kind, r.Key))
	_ = os.Rename(aside, aside+".replaced")
}
