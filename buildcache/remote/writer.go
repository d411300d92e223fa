package remote

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	ispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/layerbuild/layerbuild/buildcache"
)

// parallelUploads is how many blobs are sent to one remote cache at a time.
const parallelUploads = 4

// mostWrites is how often a scope is written where another build writes it as well.
const mostWrites = 3

// A Writer brings what one build has made to the remote caches: blobs while the build
// goes on, and bundles when it ends. It sends nothing before something was made that a
// remote cache may lack.
//
// A remote cache that fails is reported once, and nothing more is sent to it.
type Writer struct {
	Key   *PrivateKey                   // signs; nil leaves bundles without a signature
	Trust []*PublicKey                  // whose records are passed on beside the Key's own
	Leave func(*buildcache.Record) bool // reports whether a record may leave this machine
	Warn  func(text string)

	targets []*target

	mu      sync.Mutex
	records map[buildcache.Key]*buildcache.Record
	blobs   []upload
	begun   bool // something was made
}

// An upload is a blob that a remote cache is to have.
type upload struct {
	ispec.Descriptor
	open func() (io.ReadCloser, error)
}

// A target is a remote cache to write to.
type target struct {
	Repository
	to    To
	known *source // what is read from the same place; nil where nothing is

	asImage bool // it takes no config but an image's
	slots   chan struct{}
	group   sync.WaitGroup

	mu    sync.Mutex
	err   error                  // the first failure
	blobs map[digest.Digest]bool // that are sent; true for those that are there
}

// Add adds a remote cache. What reader, which may be nil, knows to be there is not sent.
func (w *Writer) Add(at Repository, to To, reader *Reader) {
	t := &target{Repository: at, to: to, slots: make(chan struct{}, parallelUploads), blobs: map[digest.Digest]bool{}}
	if reader != nil {
		for _, s := range reader.sources {
			if s.from.Type == to.Type && s.from.Name == to.Name {
				t.known = s
			}
		}
	}
	w.targets = append(w.targets, t)
}

// Found notes a record that the build uses.
func (w *Writer) Found(r *buildcache.Record) {
	if !w.shares(r) {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.records == nil {
		w.records = map[buildcache.Key]*buildcache.Record{}
	}
	w.records[r.Key] = r
}

// shares reports whether a record leaves: it may, and who vouched for it first is trusted
// by those who trust the Key.
func (w *Writer) shares(r *buildcache.Record) bool {
	if w.Leave != nil && !w.Leave(r) {
		return false
	}
	return w.Key == nil || r.Vouched != nil && w.trust().Knows(r.Vouched.By)
}

// trust is what is believed of bundles that are merged with one's own.
func (w *Writer) trust() Trust {
	if w.Key == nil {
		return Trust{Registry: true}
	}
	return Trust{Keys: append([]*PublicKey{&w.Key.PublicKey}, w.Trust...)}
}

// Made notes a record that the build has made: from now on blobs are sent.
func (w *Writer) Made(ctx context.Context, r *buildcache.Record) {
	w.Found(r)
	w.begin(ctx)
}

// begin sends what has come so far.
func (w *Writer) begin(ctx context.Context) {
	w.mu.Lock()
	waiting := w.blobs
	w.blobs, w.begun = nil, true
	w.mu.Unlock()
	for _, blob := range waiting {
		w.send(ctx, blob)
	}
}

// Blob has a blob sent to the remote caches that lack it, beside the build. open is
// called where it must be sent.
func (w *Writer) Blob(ctx context.Context, d ispec.Descriptor, open func() (io.ReadCloser, error)) {
	w.mu.Lock()
	if !w.begun {
		w.blobs = append(w.blobs, upload{d, open})
		w.mu.Unlock()
		return
	}
	w.mu.Unlock()
	w.send(ctx, upload{d, open})
}

func (w *Writer) send(ctx context.Context, blob upload) {
	for _, t := range w.targets {
		t.send(ctx, blob)
	}
}

func (t *target) send(ctx context.Context, blob upload) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if _, sent := t.blobs[blob.Digest]; sent || t.err != nil {
		return
	}
	t.blobs[blob.Digest] = t.known != nil && t.known.has(blob.Digest)
	if t.blobs[blob.Digest] {
		return
	}
	t.group.Go(func() {
		t.slots <- struct{}{}
		defer func() { <-t.slots }()
		if t.failure() != nil {
			return
		}
		err := t.PutBlob(ctx, blob.Descriptor, blob.open)
		t.mu.Lock()
		defer t.mu.Unlock()
		t.blobs[blob.Digest] = err == nil
		if t.err == nil && !errors.Is(err, fs.ErrNotExist) { // it may not be on this machine
			t.err = err
		}
	})
}

func (t *target) failure() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.err
}

// A Result is what a build ends with.
type Result struct {
	Scope     string                    // the tag of its scope
	Targets   []buildcache.Key          // the recipes of what it was to make; none where one has no recipe, or the build has failed
	Recipes   map[string]buildcache.Key // of the layers that it made or found
	Layers    []string                  // the names of all its layers: the scope's records of others stay
	Documents [][]byte
}

// Finish writes the bundles of a build when all blobs are there, where a remote cache
// lacks any of its records. It returns an error only for a remote cache whose failure is
// the build's.
func (w *Writer) Finish(ctx context.Context, r Result) error {
	b := w.bundle(r)
	var errs []error
	for _, t := range w.targets {
		err := w.finish(ctx, t, r, b)
		switch {
		case err == nil:
		case t.to.IgnoreError:
			w.Warn(fmt.Sprintf("remote cache %s: %s: the next build that writes makes up for it", t.to, err))
		default:
			errs = append(errs, fmt.Errorf("remote cache %s: %w", t.to, err))
		}
	}
	return errors.Join(errs...)
}

// bundle returns all that the build knows, without what is this machine's own.
func (w *Writer) bundle(r Result) Bundle {
	w.mu.Lock()
	defer w.mu.Unlock()
	b := Bundle{Version: FormatVersion, Created: time.Now().UTC().Truncate(time.Second), Recipes: maps.Clone(r.Recipes), Documents: r.Documents}
	if b.Recipes == nil {
		b.Recipes = map[string]buildcache.Key{}
	}
	for _, record := range w.records {
		out := *record
		out.Origin.Stackerfile = ""
		b.Records = append(b.Records, &out)
	}
	return b
}

func (w *Writer) finish(ctx context.Context, t *target, r Result, b Bundle) error {
	if len(b.Records) == 0 || t.known.holds(&b) {
		return nil
	}
	if !w.begun && len(r.Targets) > 0 { // it was all made before: perhaps also sent
		if there, _, err := w.open(ctx, t, RecipeTag(r.Targets...)); err == nil && there.has(&b) {
			return nil
		}
	}
	w.begin(ctx)
	t.group.Wait()
	if err := t.failure(); err != nil {
		return err
	}
	if len(r.Targets) > 0 {
		b.Tag = RecipeTag(r.Targets...)
		if err := w.put(ctx, t, &b, nil); err != nil {
			return err
		}
	}
	b.Tag = r.Scope
	return w.putScope(ctx, t, b, r.Layers)
}

// holds reports whether the bundles that were read have all records of b.
func (s *source) holds(b *Bundle) bool {
	if s == nil {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	all := &Bundle{}
	for _, was := range s.tags {
		all.Records = append(all.Records, was.Records...)
	}
	return all.has(b)
}

// put writes a bundle. Of the blobs that its records name those are kept with it that are
// there; others are blobs of an earlier bundle that it has taken over.
func (w *Writer) put(ctx context.Context, t *target, b *Bundle, others map[digest.Digest]bool) error {
	b.sort()
	envelope, err := Seal(ctx, b, w.Key)
	if err != nil {
		return err
	}
	var blobs []Blob
	t.mu.Lock()
	for _, blob := range b.packed() {
		if t.blobs[blob.Digest] || others[blob.Digest] {
			blobs = append(blobs, blob)
		}
	}
	t.mu.Unlock()
	for {
		a, err := NewArtifact(envelope, blobs, t.asImage)
		if err != nil {
			return err
		}
		if err = t.Tag(ctx, b.Tag, a); !errors.Is(err, ErrRefused) || t.asImage {
			return err
		}
		t.asImage = true
	}
}

// putScope writes the bundle of a scope, with the records that the one before has of
// layers which are none of this build's. It is read back: another build that wrote it at
// the same time would lose its records otherwise, which costs a rebuild.
func (w *Writer) putScope(ctx context.Context, t *target, b Bundle, layers []string) error {
	for try := 1; ; try++ {
		merged := b
		others := w.merge(ctx, t, &merged, layers)
		if err := w.put(ctx, t, &merged, others); err != nil {
			return err
		}
		now, _, err := w.open(ctx, t, b.Tag)
		if err != nil || now.has(&merged) || try == mostWrites {
			return nil //nolint:nilerr // it is written; what another writer has made of it costs a rebuild at most
		}
	}
}

// open returns the bundle under a tag of a remote cache that is written to.
func (w *Writer) open(ctx context.Context, t *target, tag string) (*Bundle, []ispec.Descriptor, error) {
	envelope, blobs, err := Read(ctx, t, tag)
	if err != nil {
		return nil, nil, err
	}
	b, err := w.trust().Open(ctx, envelope, tag, time.Now())
	return b, blobs, err
}

// merge adds to b what the bundle under its tag has of other layers, and returns the blobs
// that are kept with that. One that cannot be read is replaced.
func (w *Writer) merge(ctx context.Context, t *target, b *Bundle, layers []string) map[digest.Digest]bool {
	before, blobs, err := w.open(ctx, t, b.Tag)
	if err != nil {
		return nil
	}
	b.Records, b.Recipes = slices.Clone(b.Records), maps.Clone(b.Recipes)
	for layer, recipe := range before.Recipes {
		if !slices.Contains(layers, layer) {
			b.Recipes[layer] = recipe
		}
	}
	for _, r := range before.Records {
		if !slices.Contains(layers, r.Origin.Layer) && len(b.Records) < mostRecords {
			b.Records = append(b.Records, r)
		}
	}
	b.Documents = slices.Concat(b.Documents, before.Documents)
	there := map[digest.Digest]bool{}
	for _, d := range blobs {
		there[d.Digest] = true
	}
	return there
}

// mostRecords bounds how many records a bundle takes over from another.
const mostRecords = 20_000

// has reports whether b has all records of another bundle.
func (b *Bundle) has(other *Bundle) bool {
	keys := map[buildcache.Key]bool{}
	for _, r := range b.Records {
		keys[r.Key] = true
	}
	return !slices.ContainsFunc(other.Records, func(r *buildcache.Record) bool { return !keys[r.Key] })
}

// sort makes equal bundles equal bytes. Of two records of a key the first stays.
func (b *Bundle) sort() {
	slices.SortStableFunc(b.Records, func(x, y *buildcache.Record) int { return cmp.Compare(x.Key, y.Key) })
	b.Records = slices.CompactFunc(b.Records, func(x, y *buildcache.Record) bool { return x.Key == y.Key })
	slices.SortFunc(b.Documents, bytes.Compare)
	b.Documents = slices.CompactFunc(b.Documents, bytes.Equal)
}

// packed returns what the records of pack steps name.
func (b *Bundle) packed() []Blob {
	var all []Blob
	seen := map[digest.Digest]bool{}
	for _, r := range b.Records {
		blob := Blob{}
		if r.Kind != buildcache.Pack || json.Unmarshal(r.Result, &blob.Descriptor) != nil || seen[blob.Digest] {
			continue
		}
		seen[blob.Digest] = true
		blob.DiffID = blob.Digest // of a filesystem image
		for _, in := range r.Inputs {
			if in.Name == "diff" {
				blob.DiffID = digest.Digest(in.Value)
			}
		}
		all = append(all, blob)
	}
	return all
}
