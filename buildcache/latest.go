package buildcache

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"path/filepath"
	"slices"
	"time"
)

// A Project is where a stackerfile belongs. Explanations stay within one: what
// another project reads is nobody's business, and no cause.
type Project struct {
	Name string `json:"project,omitempty"` // its git remote or, without one, its folder
	Path string `json:"path,omitempty"`    // of the stackerfile in it
}

// Latest is what is known of the last build of one layer of one stackerfile:
// what an explanation compares with.
type Latest struct {
	Stackerfile string `json:"stackerfile"` // absolute path
	Project
	Layer  string       `json:"layer"`
	Keys   map[Kind]Key `json:"keys"`             // of its last good build; "" where a migration could not carry the record over
	Result string       `json:"result,omitempty"` // ChainID of what that build gave

	Failed    bool      `json:"failed"`               // the last build of it failed
	FailedKey Key       `json:"failed_key,omitempty"` // of the step that did
	Time      time.Time `json:"time"`
}

// Built reports whether the layer was ever built to its end.
func (l *Latest) Built() bool {
	_, built := l.Keys[Rootfs]
	return built
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
// the newest first.
func (c *Cache) LatestOf(layer string) ([]Latest, error) {
	return c.latestBuilds("*", short(layer)+".json", func(l *Latest) bool { return l.Layer == layer })
}

// LatestIn returns the last builds of all layers of one project, the newest first.
func (c *Cache) LatestIn(project string) ([]Latest, error) {
	return c.latestBuilds("*", "*.json", func(l *Latest) bool { return l.Name == project })
}

func (c *Cache) latestBuilds(stackerfile, layer string, wanted func(*Latest) bool) ([]Latest, error) {
	files, err := filepath.Glob(c.path("latest", stackerfile, layer))
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
		if filepath.Dir(name) != resolutions && c.read(name, &l) == nil && wanted(&l) {
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

// resolutions is the folder of the last answers.
const resolutions = "latest/resolve"

func resolutionName(name string) string { return filepath.Join(resolutions, short(name)+".json") }
