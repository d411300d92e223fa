package buildcache

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"hash"
	"slices"
	"strconv"
)

// FormatVersion is the version of the records and of the encoding of keys. It is
// part of every key.
const FormatVersion = 4

// A Kind names a step whose result is remembered.
type Kind string

// The steps, in the words of the design.
const (
	Resolve Kind = "resolve" // a tar or a reference → a base
	Digest  Kind = "digest"  // a path in a snapshot → a tree
	Rootfs  Kind = "rootfs"  // base, imports, overlay dirs, run → snapshots
	Labels  Kind = "labels"  // a snapshot, generate_labels → a map
	Pack    Kind = "pack"    // a snapshot's difference, a layer type → a blob

	// Base is what a Memory keeps, and no record: a manifest's digest → the image.
	Base Kind = "base"
)

// Kinds lists the kinds of records.
func Kinds() []Kind { return []Kind{Resolve, Digest, Rootfs, Labels, Pack} }

// A Code says what sort of thing an input is, and with it the reason for a miss
// when that input changed.
type Code string

// Codes of inputs.
const (
	Definition Code = "DEFINITION" // the text of a directive
	BaseChange Code = "BASE"       // what the layer starts from
	Import     Code = "IMPORT"     // content, attributes or place of an import
	Overlay    Code = "OVERLAY"    // content, attributes or place of an overlay dir
	Bind       Code = "BIND"       // a tracked bind
	Env        Code = "ENV"        // a variable of the build environment
	Secret     Code = "SECRET"     // a secret whose value counts
	Epoch      Code = "EPOCH"      // the time that files are clamped to
	Platform   Code = "PLATFORM"   // os and architecture
	Format     Code = "FORMAT"     // a version of layerbuild's own
)

// Codes of misses that no input explains.
const (
	First     Code = "FIRST"     // never built here
	Evicted   Code = "EVICTED"   // built, and removed since to save space
	Missing   Code = "MISSING"   // built, but its record, snapshot or blob is gone
	Corrupt   Code = "CORRUPT"   // the record was damaged
	Untracked Code = "UNTRACKED" // a bind that nobody watches
	Untrusted Code = "UNTRUSTED" // built, but no trusted key vouches for that
	NoCache   Code = "NO-CACHE"  // --no-cache
	Failed    Code = "FAILED"    // it failed the last time
)

// An Input is one thing that a step reads, in clear.
type Input struct {
	Code  Code   `json:"code"`
	Name  string `json:"name"`  // unique among the inputs of a step
	Value string `json:"value"` // a digest, or the text itself

	// Redacted tells that keyed digests stand in Value for what looks like a
	// secret. Only a record's inputs are redacted; a key is of the values themselves,
	// but for SecretInput.
	Redacted bool `json:"redacted,omitempty"`
}

// Inputs are all that a step reads. Their order does not count.
type Inputs []Input

// Add appends an input.
func (in *Inputs) Add(code Code, name, value string) {
	*in = append(*in, Input{Code: code, Name: name, Value: value})
}

// A Key is the sha256 of a step's inputs, as 64 hexadecimal digits.
type Key string

// Key returns the identity of these inputs for a step of that kind. Each part
// is prefixed with its length, so that no two different inputs encode alike.
// Naming two inputs alike is a programming error and panics.
func (in Inputs) Key(kind Kind) Key { return in.key(kind, FormatVersion) }

func (in Inputs) key(kind Kind, version int) Key {
	sorted := slices.SortedFunc(slices.Values(in), func(a, b Input) int { return cmp.Compare(a.Name, b.Name) })
	h := sha256.New()
	part(h, "layerbuild")
	part(h, strconv.Itoa(version))
	part(h, string(kind))
	for i, input := range sorted {
		if i > 0 && sorted[i-1].Name == input.Name {
			panic("buildcache: two inputs named " + input.Name)
		}
		part(h, string(input.Code))
		part(h, input.Name)
		part(h, input.Value)
	}
	return Key(hex.EncodeToString(h.Sum(nil)))
}

func part(h hash.Hash, s string) {
	var n [8]byte
	binary.BigEndian.PutUint64(n[:], uint64(len(s)))
	h.Write(n[:])
	h.Write([]byte(s))
}
