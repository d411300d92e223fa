package buildcache

import (
	"cmp"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// A Reason is one cause of a miss. For a changed input, Old and New are its
// values.
type Reason struct {
	Code     Code
	Name     string
	Old, New string

	Added, Removed bool // only one of Old and New is a value
	Redacted       bool // of a value only a keyed digest is known

	// Uncertain tells that nobody can say whether the input changed: its old and
	// new value were redacted by different state folders.
	Uncertain bool
}

// Diff returns every input in which a step with these inputs differs from a
// record's, ordered by code and name.
func (c *Cache) Diff(old *Record, in Inputs) ([]Reason, error) {
	redacted, err := c.redact(in)
	if err != nil {
		return nil, err
	}
	return Diff(old.Inputs, redacted), nil
}

// Diff returns every input in which the inputs of two records differ, ordered by
// code and name.
func Diff(old, new Inputs) []Reason {
	before := make(map[string]Input, len(old))
	for _, input := range old {
		before[input.Name] = input
	}
	var reasons []Reason
	for _, input := range new {
		was, ok := before[input.Name]
		delete(before, input.Name)
		if !ok || was.Value != input.Value || was.Code != input.Code {
			uncertain := ok && input.Redacted && was.Redacted && unredacted(was.Value) == unredacted(input.Value) && redactor(was.Value) != redactor(input.Value)
			reasons = append(reasons, Reason{input.Code, input.Name, was.Value, input.Value, !ok, false, input.Redacted || was.Redacted, uncertain})
		}
	}
	for _, was := range before {
		reasons = append(reasons, Reason{Code: was.Code, Name: was.Name, Old: was.Value, Removed: true, Redacted: was.Redacted})
	}
	slices.SortFunc(reasons, func(a, b Reason) int {
		return cmp.Or(cmp.Compare(a.Code, b.Code), cmp.Compare(a.Name, b.Name))
	})
	return reasons
}

// mostCandidates is how many records Recent returns, the newest ones.
const mostCandidates = 500

// Recent returns the newest records of a kind: those that a step without a past
// may be compared with.
func (c *Cache) Recent(kind Kind) ([]*Record, error) {
	type file struct {
		key  Key
		time int64
	}
	var files []file
	err := c.walk(filepath.Join("records", string(kind)), func(name string) error {
		if info, err := os.Lstat(c.path(name)); err == nil { // otherwise it was removed meanwhile
			key := strings.TrimSuffix(filepath.Base(name), ".json")
			files = append(files, file{Key(key), info.ModTime().UnixNano()})
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	slices.SortFunc(files, func(a, b file) int {
		return cmp.Or(cmp.Compare(b.time, a.time), cmp.Compare(a.key, b.key))
	})
	var records []*Record
	for _, f := range files[:min(len(files), mostCandidates)] {
		if r, err := c.Get(kind, f.key); err == nil {
			records = append(records, r)
		}
	}
	return records, nil
}

// Keys returns the keys of records that begin with some digits, at least two.
func (c *Cache) Keys(kind Kind, prefix string) ([]Key, error) {
	files, err := filepath.Glob(c.path("records", string(kind), prefix[:2], prefix+"*.json"))
	var keys []Key
	for _, file := range files {
		keys = append(keys, Key(strings.TrimSuffix(filepath.Base(file), ".json")))
	}
	return keys, err
}

// Candidates are records that a step without a past may be compared with.
type Candidates struct {
	records []*Record
	having  map[Input][]int // the records that have an input
}

// NewCandidates takes records in the order in which they are preferred.
func NewCandidates(records []*Record) *Candidates {
	c := &Candidates{records, map[Input][]int{}}
	for i, r := range records {
		for _, input := range r.Inputs {
			if telling(input) {
				c.having[input] = append(c.having[input], i)
			}
		}
	}
	return c
}

// Nearest returns the record that has most inputs in common with these, if these
// are half of them at least; or nil. Inputs that most steps share do not count.
func (c *Candidates) Nearest(in Inputs) *Record {
	if len(c.records) == 0 {
		return nil
	}
	common, all := make([]int, len(c.records)), 0
	for _, input := range in {
		if !telling(input) {
			continue
		}
		all++
		for _, i := range c.having[input] {
			common[i]++
		}
	}
	best := 0
	for i, n := range common {
		if n > common[best] {
			best = i
		}
	}
	if common[best] == 0 || 2*common[best] < all {
		return nil
	}
	return c.records[best]
}

func telling(in Input) bool {
	switch in.Code {
	case Format, Epoch, Platform:
		return false
	}
	return in.Name != "network"
}
