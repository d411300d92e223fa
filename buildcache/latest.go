package buildcache

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"path/filepath"
	"slices"
	"time"
)

// Latest is what is known of the last build of one layer of one stackerfile:
// what an explanation compares with.
type Latest struct {
	Stackerfile string       `json:"stackerfile"` // absolute path
	Layer       string       `json:"layer"`
	Keys        map[Kind]Key `json:"keys"`             // "" where a migration could not carry the record over
	Result      string       `json:"result,omitempty"` // ChainID of what that build gave
	Failed      bool         `json:"failed"`           // the last build of it failed; Keys are of the last good one
	Time        time.Time    `json:"time"`
}

func latestName(stackerfile, layer string) string {
	return filepath.Join("latest", short(stackerfile), short(layer)+".json")
}

// short makes a file name of any text.
func short(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:16])
}

// Latest returns the last build of a layer, or ErrNotFound. A damaged file
// counts as not found: it is a help for explanations and nothing else.
func (c *Cache) Latest(stackerfile, layer string) (*Latest, error) {
	var l Latest
	if err := c.read(latestName(stackerfile, layer), &l); err != nil {
		return nil, ErrNotFound
	}
	return &l, nil
}

// LatestOf returns the last builds of layers of that name, of all stackerfiles,
// those of newest time first.
func (c *Cache) LatestOf(layer string) ([]Latest, error) {
	files, err := filepath.Glob(c.path("latest", "*", short(layer)+".json"))
	if err != nil {
		return nil, err
	}
	var all []Latest
	for _, file := range files {
		name, err := filepath.Rel(c.path(), file)
		if err != nil {
			return nil, err
		}
		var l Latest
		if c.read(name, &l) == nil && l.Layer == layer {
			all = append(all, l)
		}
	}
	slices.SortFunc(all, func(a, b Latest) int {
		return cmp.Or(b.Time.Compare(a.Time), cmp.Compare(a.Stackerfile, b.Stackerfile))
	})
	return all, nil
}

// SetLatest remembers the last build of a layer.
func (c *Cache) SetLatest(l Latest) error {
	data, err := seal(l)
	if err != nil {
		return err
	}
	return c.write(latestName(l.Stackerfile, l.Layer), data)
}

// A Resolution is the last answer to a question that costs much to ask, or that
// cannot always be asked: what a reference stands for, which runtime starts here.
type Resolution struct {
	Question string    `json:"name"`
	Answer   string    `json:"digest"`
	Time     time.Time `json:"time"`
}

// Resolution returns the last answer to a question, or ErrNotFound.
func (c *Cache) Resolution(question string) (*Resolution, error) {
	var r Resolution
	if err := c.read(resolutionName(question), &r); err != nil || r.Question != question {
		return nil, ErrNotFound
	}
	return &r, nil
}

// SetResolution remembers the answer to a question.
func (c *Cache) SetResolution(question, answer string) error {
	data, err := seal(Resolution{question, answer, time.Now().UTC().Truncate(time.Second)})
	if err != nil {
		return err
	}
	return c.write(resolutionName(question), data)
}

func resolutionName(name string) string {
	return filepath.Join("latest", "resolve", short(name)+".json")
}
