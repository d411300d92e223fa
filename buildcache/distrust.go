package buildcache

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
)

// Distrust removes the records that a key vouched for first, and those that are built on
// what they gave. What it gave may also come from a record that stays: its dependents are
// removed all the same, which costs doing their steps again. It returns how many went.
func (c *Cache) Distrust(key string) (removed int, err error) {
	left, err := c.all()
	if err != nil {
		return 0, err
	}
	gave := map[string]bool{}
	for {
		before := removed
		var stay []*Record
		for _, r := range left {
			if (r.Vouched == nil || r.Vouched.By != key) && !r.reads(gave) {
				stay = append(stay, r)
				continue
			}
			if err := c.remove(r); err != nil {
				return removed, err
			}
			removed++
			for _, d := range r.gave() {
				gave[d] = true
			}
		}
		if left = stay; removed == before {
			return removed, nil
		}
	}
}

// all returns the records of all kinds.
func (c *Cache) all() ([]*Record, error) {
	var all []*Record
	for _, kind := range Kinds() {
		err := c.walk(filepath.Join("records", string(kind)), func(name string) error {
			if r, err := c.Get(kind, Key(strings.TrimSuffix(filepath.Base(name), ".json"))); err == nil {
				all = append(all, r)
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	return all, nil
}

func (c *Cache) remove(r *Record) error {
	err := c.Bury(Tombstone{Kind: string(r.Kind), ID: string(r.Key), When: time.Now().UTC(), By: "layerbuild cache distrust", Rule: "its key is not trusted any more"})
	if err == nil {
		err = os.Remove(c.path(recordName(r.Kind, r.Key)))
	}
	return err
}

var anyDigest = regexp.MustCompile(`sha256:[0-9a-f]{64}`)

// reads reports whether one of these digests is among the record's inputs.
func (r *Record) reads(digests map[string]bool) bool {
	for _, in := range r.Inputs {
		for _, d := range anyDigest.FindAllString(in.Value, -1) {
			if digests[d] {
				return true
			}
		}
	}
	return false
}

// gave returns the digests of what the record's step gave, ChainIDs included.
func (r *Record) gave() []string {
	digests := anyDigest.FindAllString(string(r.Result), -1)
	if r.Kind != Rootfs {
		return digests
	}
	var chain []digest.Digest
	for _, in := range r.Inputs {
		if in.Code == BaseChange && in.Name == "base" && in.Value != "" {
			chain = append(chain, digest.Digest(in.Value))
		}
	}
	var fs struct {
		Layers []struct {
			DiffID digest.Digest `json:"diff_id"`
		} `json:"layers"`
	}
	if json.Unmarshal(r.Result, &fs) != nil {
		return digests
	}
	for _, layer := range fs.Layers {
		chain = append(chain, layer.DiffID)
		digests = append(digests, string(identity.ChainID(chain)))
	}
	return digests
}
