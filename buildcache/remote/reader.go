package remote

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/opencontainers/go-digest"
	ispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/layerbuild/layerbuild/buildcache"
)

// A Question is what a build asks the remote caches for, once.
type Question struct {
	// Scopes are tags, of which the first that is there serves.
	Scopes []string
	// Recipes returns those of the layers that the build is to make; none where any of
	// these has no recipe.
	Recipes func(context.Context) []buildcache.Key
}

// A Reader looks up records in the remote caches of one build. It asks when it is first
// looked into, so that a build which finds everything on its machine sends nothing: for
// the scope, and then, if that does not cover the build, for its recipes. What comes is
// verified before anything is believed.
//
// A remote cache that fails is reported once, and is not asked again.
type Reader struct {
	Question func() Question
	Warn     func(text string)
	Keep     func(context.Context, [][]byte) error // is given the documents of what was found, before any record is

	sources []*source
	asked   sync.Once
	records map[buildcache.Key]*buildcache.Record

	mu   sync.Mutex
	lost map[digest.Digest]bool
}

// A source is a remote cache to read from.
type source struct {
	Repository
	from  From
	trust Trust
	warn  func(text string)

	off   atomic.Bool // it has failed
	mu    sync.Mutex
	told  bool                               // a warning was given
	blobs map[digest.Digest]ispec.Descriptor // that bundles name
	tags  map[string]*Bundle                 // bundles that were read
}

// Add adds a remote cache. Those that were added first are preferred.
func (r *Reader) Add(at Repository, from From, keys []*PublicKey) {
	trust := Trust{Keys: keys, Registry: from.TrustRegistry, MaxAge: from.MaxAge}
	if trust.Registry {
		trust.Keys = nil
	}
	r.sources = append(r.sources, &source{
		Repository: at, from: from, trust: trust, warn: func(text string) { r.Warn(text) },
		blobs: map[digest.Digest]ispec.Descriptor{}, tags: map[string]*Bundle{},
	})
}

// Ask asks the remote caches, unless that was done.
func (r *Reader) Ask(ctx context.Context) { r.asked.Do(func() { r.ask(ctx) }) }

// Record returns the record of a key, or nil where no remote cache has it.
func (r *Reader) Record(ctx context.Context, kind buildcache.Kind, key buildcache.Key) *buildcache.Record {
	r.Ask(ctx)
	if found := r.records[key]; found != nil && found.Kind == kind {
		return found
	}
	return nil
}

// ask takes in the bundles of all remote caches.
func (r *Reader) ask(ctx context.Context) {
	r.records = map[buildcache.Key]*buildcache.Record{}
	bundles, question := make([][]*Bundle, len(r.sources)), r.Question()
	var group sync.WaitGroup
	for i, s := range r.sources {
		group.Go(func() { bundles[i] = s.ask(ctx, question) })
	}
	group.Wait()
	for _, b := range slices.Concat(bundles...) {
		if err := r.Keep(ctx, b.Documents); err != nil {
			r.Warn(fmt.Sprintf("what the remote cache holds of base images cannot be kept: %s", err))
			continue
		}
		for _, record := range b.Records {
			if r.records[record.Key] == nil {
				r.records[record.Key] = record
			}
		}
	}
}

// ask returns the bundles that answer a question: that of the recipes, which is nearest,
// and the scope's.
func (s *source) ask(ctx context.Context, q Question) []*Bundle {
	var scope *Bundle
	for _, tag := range q.Scopes {
		if scope = s.read(ctx, tag); scope != nil {
			break
		}
	}
	recipes := q.Recipes(ctx)
	if len(recipes) == 0 || scope != nil && scope.Covers(recipes) {
		return compact(scope)
	}
	return compact(s.read(ctx, RecipeTag(recipes...)), scope)
}

func compact(all ...*Bundle) []*Bundle {
	return slices.DeleteFunc(all, func(b *Bundle) bool { return b == nil })
}

// read returns the bundle under a tag, or nil. What is wrong with it is reported.
func (s *source) read(ctx context.Context, tag string) *Bundle {
	if s.off.Load() {
		return nil
	}
	envelope, blobs, err := Read(ctx, s, tag)
	if err != nil {
		s.fault(ctx, err)
		return nil
	}
	b, err := s.trust.Open(ctx, envelope, tag, time.Now())
	if err != nil {
		s.fault(ctx, err)
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tags[tag] = b
	for _, d := range blobs {
		s.blobs[d.Digest] = d
	}
	return b
}

// fault reports the first thing that is wrong with the cache. After one that is not a
// bundle's own fault it is not asked again.
func (s *source) fault(ctx context.Context, err error) {
	switch {
	case errors.Is(err, ErrNotFound), ctx.Err() != nil:
		return
	case errors.Is(err, ErrUntrusted), errors.Is(err, ErrNewer), errors.Is(err, ErrDamaged):
	default:
		s.off.Store(true)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.told {
		s.told = true
		s.warn(fmt.Sprintf("remote cache %s: %s: what it has is not used%s", s.from, err, cure(err)))
	}
}

// cure says what helps against what is wrong with a bundle.
func cure(err error) string {
	switch {
	case errors.Is(err, ErrUntrusted):
		return "; --cache-verify-key names keys to trust"
	case errors.Is(err, ErrNewer):
		return "; upgrade layerbuild"
	case errors.Is(err, ErrDamaged):
		return "; the next build that writes replaces it"
	}
	return ""
}

// Has reports whether a remote cache is known to have a blob, so that it need not be on
// this machine before its content is needed.
func (r *Reader) Has(d digest.Digest) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return !r.lost[d] && slices.ContainsFunc(r.sources, func(s *source) bool { return s.has(d) })
}

func (s *source) has(d digest.Digest) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, ok := s.blobs[d]
	return ok && !s.off.Load()
}

// Blob fetches a blob that Has has reported. Where no remote cache gives it whole, it
// counts as lost: Has reports false from then on.
func (r *Reader) Blob(ctx context.Context, d ispec.Descriptor, take func(fetch func(context.Context, Sink) error) error) error {
	err := ErrNotFound
	for _, s := range r.sources {
		if !s.has(d.Digest) {
			continue
		}
		if err = take(func(ctx context.Context, to Sink) error { return s.Blob(ctx, d, to) }); err == nil || ctx.Err() != nil {
			return err
		}
		s.fault(ctx, err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.lost == nil {
		r.lost = map[digest.Digest]bool{}
	}
	r.lost[d.Digest] = true
	return fmt.Errorf("blob %s: %w", d.Digest, err)
}
