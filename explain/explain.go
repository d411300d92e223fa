// Package explain is what people and machines are told of a build: which layers
// were found in the cache, which were not, and why. The engine fills a Report;
// this package turns it into lines for a terminal, into markdown and into JSON,
// and reads and writes bundles of reports that travel between machines.
//
// Whatever comes from outside (names of files, values, whole bundles) is
// escaped: no output of this package has a control character but newlines.
package explain

import (
	"time"

	"github.com/layerbuild/layerbuild/buildcache"
)

// Version is the version of the JSON form of a Report. It changes when a field
// is taken away or means something else; new fields do not change it.
const Version = 1

// A Report tells of one build, or of a comparison of two.
type Report struct {
	Version int     `json:"version"`
	Build   Build   `json:"build"`
	Against string  `json:"against,omitempty"` // of a comparison: what was compared with
	Layers  []Layer `json:"layers"`            // each after those that it needs
	Cache   Cache   `json:"cache"`
	Work    []Work  `json:"work,omitempty"` // in the order in which it began
}

// A Work is what was done at one stretch: pulling, running, packing. Times are seconds
// since the build began.
type Work struct {
	Layer string  `json:"layer,omitempty"` // for which it was done first; none if for the build as a whole
	What  string  `json:"what"`
	Start float64 `json:"start"`
	End   float64 `json:"end"`
	Track int     `json:"track"` // no two works of a track are done at one time
}

// Results of a Build.
const (
	OK          = "ok"
	Failed      = "failed"
	Interrupted = "interrupted"
)

// Commands of a Build.
const (
	CommandBuild  = "build"
	CommandPlan   = "plan"
	CommandVerify = "verify"
)

// A Build is what a Report is about.
type Build struct {
	Number      int       `json:"number,omitempty"`
	Command     string    `json:"command"` // CommandBuild, CommandPlan or CommandVerify
	Stackerfile string    `json:"stackerfile"`
	Started     time.Time `json:"started"`
	Seconds     float64   `json:"seconds"`
	Result      string    `json:"result"` // OK, Failed or Interrupted
	Error       string    `json:"error,omitempty"`
}

// Outcomes of a Layer.
const (
	Hit        = "hit"         // found in the cache
	Built      = "built"       // built
	WouldBuild = "would-build" // by a plan, or --fail-on-miss
	Broken     = "failed"      // building it failed
	NotReached = "not-reached" // the build ended before
	Same       = "same"        // of a comparison: all its inputs are equal
	Differs    = "differs"     // of a comparison
	Absent     = "absent"      // of a comparison: the other side does not have it
)

// A Layer tells what became of one layer, and why.
type Layer struct {
	Name    string   `json:"name"`
	Outcome string   `json:"outcome"`
	Needs   []string `json:"needs,omitempty"`   // layers that it reads
	Seconds float64  `json:"seconds"`           // that it took to build it; of a hit that it once took, of a plan that it took last
	Key     string   `json:"key,omitempty"`     // of its inputs
	Result  string   `json:"result,omitempty"`  // the ChainID of its content
	Because []string `json:"because,omitempty"` // layers that were rebuilt, which alone made it miss

	// SameResult says that it was built and has the content that it had before.
	SameResult bool      `json:"same_result,omitempty"`
	Baseline   *Baseline `json:"baseline,omitempty"` // what the reasons compare with
	Reasons    []Reason  `json:"reasons,omitempty"`
	Labels     []Reason  `json:"labels,omitempty"` // why its labels were generated again
	Hint       string    `json:"hint,omitempty"`
	Inputs     []Input   `json:"inputs,omitempty"` // of a hit, where it was asked for
	There      string    `json:"there,omitempty"`  // of a comparison: what became of it on the other side
}

// What a Baseline can be.
const (
	BaselineHere     = "last-build"     // the last good build of the layer in this stackerfile
	BaselineCheckout = "other-checkout" // the same layer of another stackerfile
	BaselineNearest  = "most-alike"     // the record that has most in common
	BaselineAgainst  = "against"        // what was asked for
)

// A Baseline is the record that a miss is compared with.
type Baseline struct {
	Kind        string    `json:"kind"`
	Layer       string    `json:"layer"`
	Stackerfile string    `json:"stackerfile"`
	Built       time.Time `json:"built"`
	Key         string    `json:"key"`
}

// A Reason is one cause of a miss.
type Reason struct {
	Code buildcache.Code `json:"code"`           // documented in docs/explain.md
	Name string          `json:"name,omitempty"` // the input, or what is gone

	// Called is what the stackerfile calls the input, and Directive what lets a
	// variable in, where that is known.
	Called    string `json:"called,omitempty"`
	Directive string `json:"directive,omitempty"`

	// Old and New are the input's values: what was, and what is; "" where there is
	// none. Texts of several lines are in Diff instead.
	Old string `json:"old,omitempty"`
	New string `json:"new,omitempty"`
	// Redacted says that keyed digests stand for secrets in Old and New; Uncertain
	// that they have different keys, so that nobody can tell whether the secrets differ.
	Redacted  bool     `json:"redacted,omitempty"`
	Uncertain bool     `json:"uncertain,omitempty"`
	By        string   `json:"by,omitempty"`      // the layer whose rebuild caused it
	Note      string   `json:"note,omitempty"`    // what else is known
	Diff      []string `json:"diff,omitempty"`    // lines with "- ", "+ " or "  " before them
	Changes   []Change `json:"changes,omitempty"` // of a tree
	More      int      `json:"more,omitempty"`    // lines or changes that are left out

	normalized bool // of modes only what git keeps counts
}

// A Change is a difference between two trees at one path.
type Change struct {
	Op         string      `json:"op"`   // "+", "-" or "~"
	Path       string      `json:"path"` // "." is the tree itself; one that is not UTF-8 is quoted as Go does
	Attributes []Attribute `json:"attributes,omitempty"`
}

// An Attribute is one thing in which a path differs: sha256, size, mode, type,
// link, device, or an extended attribute's name after "xattr ". Of an import itself,
// "." is the path: place, and how it is copied: name, content, mode, uid, gid.
type Attribute struct {
	Name string `json:"name"`
	Old  string `json:"old,omitempty"`
	New  string `json:"new,omitempty"`
}

// An Input is one thing that a step reads.
type Input struct {
	Code     buildcache.Code `json:"code"`
	Name     string          `json:"name"`
	Value    string          `json:"value"`
	Redacted bool            `json:"redacted,omitempty"`
}

// Cache is how much of a build the cache has saved.
type Cache struct {
	Hits   int     `json:"hits"`
	Layers int     `json:"layers"` // that the build got to
	Saved  float64 `json:"saved_seconds"`
	Spent  float64 `json:"spent_seconds"`
}

// Count works out the Report's Cache. When nobody knows how long a layer of a
// plan would take, nothing is said of time.
func (r *Report) Count() {
	r.Cache = Cache{}
	timed := true
	for _, l := range r.Layers {
		switch l.Outcome {
		case Hit:
			r.Cache.Hits++
			r.Cache.Saved += l.Seconds
		case NotReached:
			continue
		default:
			r.Cache.Spent += l.Seconds
			timed = timed && (l.Outcome != WouldBuild || l.Seconds > 0)
		}
		r.Cache.Layers++
	}
	if !timed {
		r.Cache.Saved, r.Cache.Spent = 0, 0
	}
}
