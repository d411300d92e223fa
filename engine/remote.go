package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/layerbuild/layerbuild/buildcache"
	"github.com/layerbuild/layerbuild/buildcache/remote"
	"github.com/layerbuild/layerbuild/imports"
	"github.com/layerbuild/layerbuild/layers"
	"github.com/layerbuild/layerbuild/oci"
	"github.com/layerbuild/layerbuild/plan"
	"github.com/layerbuild/layerbuild/progress"
	"github.com/layerbuild/layerbuild/registry"
)

// Remote says which remote caches a build looks into and writes to.
type Remote struct {
	From       []remote.From
	To         []remote.To
	SignKey    *remote.PrivateKey  // signs what is written; nil leaves it unsigned
	VerifyKeys []*remote.PublicKey // whose signatures are believed, beside the SignKey's
	Timeout    time.Duration       // for writing, once the build has ended

	answers *answers // what the first attempt at the build was told
}

// answers are what remote caches have said. They are asked once in a process.
type answers struct {
	reader *remote.Reader

	mu     sync.Mutex
	unsaid []string // warnings of an attempt that reported nothing, since something was left to do
}

// SignKeyVariable is the variable of the environment that may hold the SignKey, and that
// no step sees.
const SignKeyVariable = "LAYERBUILD_CACHE_SIGN_KEY"

// Check refuses remote caches of which nobody said whom to believe.
func (r Remote) Check() error {
	for _, from := range r.From {
		if len(r.keys()) == 0 && !from.TrustRegistry {
			return fmt.Errorf("--cache-from %s: nobody said whose results to believe: give --cache-verify-key, or trust=registry if all who can write there may decide what is built", from)
		}
	}
	return nil
}

func (r Remote) keys() []*remote.PublicKey {
	if r.SignKey == nil {
		return r.VerifyKeys
	}
	return append([]*remote.PublicKey{&r.SignKey.PublicKey}, r.VerifyKeys...)
}

// remoteCaches are the remote caches of one build. The methods of a nil one do nothing.
type remoteCaches struct {
	b       *Builder
	ctx     context.Context // of the whole build: what is sent is not given up with a layer
	reader  *remote.Reader  // nil without --cache-from
	writer  *remote.Writer  // nil without --cache-to
	recipes func() map[string]buildcache.Key
	scopes  func() []string

	mu    sync.Mutex
	bases map[digest.Digest]bool // manifests of base images
}

// openRemote opens the remote caches of a build; nil where there are none.
func (b *Builder) openRemote(ctx context.Context) (*remoteCaches, error) {
	if b.Offline || len(b.Remote.From)+len(b.Remote.To) == 0 {
		return nil, nil
	}
	r := &remoteCaches{b: b, ctx: ctx, bases: map[digest.Digest]bool{}}
	r.recipes = sync.OnceValue(r.findRecipes)
	r.scopes = sync.OnceValue(r.findScopes)
	places := &places{client: sync.OnceValue(func() *registry.Client { return registry.New(remote.ClientOptions()) }), to: b.Remote.To}
	if err := r.openReader(places); err != nil {
		return nil, err
	}
	if err := r.openWriter(places); err != nil {
		return nil, err
	}
	if key := b.Remote.SignKey; key != nil {
		b.Cache.VouchAs(key.ID())
	}
	return r, nil
}

func (r *remoteCaches) warn(text string) {
	if a := r.b.Remote.answers; a != nil && r.b.look != nil {
		a.mu.Lock()
		defer a.mu.Unlock()
		a.unsaid = append(a.unsaid, text)
	}
	r.b.report(progress.Event{Kind: progress.Warning, Text: text})
}

func (r *remoteCaches) openReader(places *places) error {
	o := r.b.Remote
	if len(o.From) == 0 {
		return nil
	}
	if o.answers != nil && o.answers.reader != nil {
		r.reader = o.answers.reader
		r.reader.Question, r.reader.Warn, r.reader.Keep = r.question, r.warn, r.keep
		for _, text := range o.answers.unsaid {
			r.warn(text)
		}
		o.answers.unsaid = nil
		return nil
	}
	r.reader = &remote.Reader{Question: r.question, Warn: r.warn, Keep: r.keep}
	for _, from := range o.From {
		at, err := places.open(from.Place)
		if err != nil {
			return fmt.Errorf("--cache-from %s: %w", from, err)
		}
		r.reader.Add(at, from, o.keys())
	}
	if o.answers != nil {
		o.answers.reader = r.reader
	}
	return nil
}

func (r *remoteCaches) openWriter(places *places) error {
	o := r.b.Remote
	if len(o.To) == 0 || r.b.Plan {
		return nil
	}
	r.writer = &remote.Writer{Key: o.SignKey, Trust: o.VerifyKeys, Leave: r.b.Cache.MayLeave, Warn: r.warn}
	for _, to := range o.To {
		at, err := places.open(to.Place)
		if err != nil {
			return fmt.Errorf("--cache-to %s: %w", to, err)
		}
		r.writer.Add(at, to, r.reader)
	}
	return nil
}

// places opens each place once: who also writes to a registry logs in for both.
type places struct {
	client func() *registry.Client
	to     []remote.To
	opened map[remote.Place]remote.Repository
}

func (p *places) open(at remote.Place) (remote.Repository, error) {
	if known := p.opened[at]; known != nil {
		return known, nil
	}
	var repository remote.Repository = remote.NewFolder(at.Name)
	if at.Type == remote.TypeRegistry {
		access := registry.Pull
		if slices.ContainsFunc(p.to, func(to remote.To) bool { return to.Type == at.Type && to.Name == at.Name }) {
			access = registry.Push
		}
		var err error
		if repository, err = remote.NewRegistry(p.client(), at, access); err != nil {
			return nil, err
		}
	}
	if p.opened == nil {
		p.opened = map[remote.Place]remote.Repository{}
	}
	p.opened[at] = repository
	return repository, nil
}

// reads reports whether there are remote caches to look into.
func (r *remoteCaches) reads() bool { return r != nil && r.reader != nil }

// ask asks them, unless that was done.
func (r *remoteCaches) ask(ctx context.Context) { r.reader.Ask(ctx) }

// Fetch is a method of buildcache.Remote.
func (r *remoteCaches) Fetch(ctx context.Context, kind buildcache.Kind, key buildcache.Key, _ buildcache.Inputs) bool {
	if !r.reads() {
		return false
	}
	record := r.reader.Record(ctx, kind, key)
	if record == nil {
		return false
	}
	err := r.b.Cache.TakeIn(record)
	if err != nil {
		r.b.report(progress.Event{Kind: progress.Warning, Text: err.Error()})
	}
	return err == nil
}

// trusts reports whether a record of this machine may serve: where the build signs what it
// makes, only one that a trusted key has vouched for.
func (r *remoteCaches) trusts(record *buildcache.Record) bool {
	if r == nil || r.b.Remote.SignKey == nil {
		return true
	}
	return record.Vouched != nil && remote.Trust{Keys: r.b.Remote.keys()}.Knows(record.Vouched.By)
}

// served notes a record that the build uses, and that it has made it if so.
func (r *remoteCaches) served(record *buildcache.Record, made bool) {
	if r == nil || r.writer == nil {
		return
	}
	if made {
		r.writer.Made(r.ctx, record)
	} else {
		r.writer.Found(record)
	}
	var blob oci.Descriptor
	if record.Kind == buildcache.Pack && json.Unmarshal(record.Result, &blob) == nil {
		r.writer.Blob(r.ctx, blob, func() (io.ReadCloser, error) { return r.b.Blobs.OpenVerified(blob) })
	}
}

// takesAll reports whether a remote cache is to have the blobs of build_only layers, too.
func (r *remoteCaches) takesAll() bool {
	return r != nil && r.writer != nil && slices.ContainsFunc(r.b.Remote.To, func(to remote.To) bool { return to.Mode == remote.ModeMax })
}

// startsFrom notes a base image that layers start from.
func (r *remoteCaches) startsFrom(manifest digest.Digest) {
	if r == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.bases[manifest] = true
}

// keep puts the documents of base images into the store: these are told apart by their
// digests, so that it does not matter where they are from.
func (r *remoteCaches) keep(ctx context.Context, documents [][]byte) error {
	for _, text := range documents {
		if _, err := r.b.Blobs.PutBytes(ctx, "", text); err != nil {
			return err
		}
	}
	return nil
}

// has reports whether a remote cache has a blob.
func (r *remoteCaches) has(d digest.Digest) bool {
	return r.reads() && r.reader.Has(d)
}

// fetch brings a blob from a remote cache into the store.
func (r *remoteCaches) fetch(ctx context.Context, blob oci.Descriptor, progress func(done, total int64)) error {
	return r.reader.Blob(ctx, blob, func(fetch func(context.Context, remote.Sink) error) error {
		return r.b.Blobs.Take(ctx, blob, func(ctx context.Context, w *oci.Writer) error { return fetch(ctx, w) }, progress)
	})
}

// finish sends what the build has made and the remote caches lack. It returns an error
// only where a failed upload is to be the build's failure.
func (r *remoteCaches) finish(ctx context.Context, complete bool) error {
	if r == nil || r.writer == nil {
		return nil
	}
	ctx, cancel := context.WithTimeoutCause(ctx, r.b.Remote.Timeout, fmt.Errorf("not all was sent within %s (--cache-to-timeout)", r.b.Remote.Timeout))
	defer cancel()
	defer r.b.lingering("", "writing to the remote cache")()
	recipes := r.recipes()
	result := remote.Result{Scope: r.scopes()[0], Recipes: map[string]buildcache.Key{}}
	for _, l := range r.b.graph.Layers {
		result.Layers = append(result.Layers, l.Name)
		if recipe := recipes[l.Name]; recipe != "" && r.b.layers[l].config != nil {
			result.Recipes[l.Name] = recipe
		}
	}
	if complete {
		result.Targets = r.targets()
	}
	for manifest := range r.bases {
		documents, err := r.b.Blobs.Documents(manifest)
		if err != nil {
			return err
		}
		result.Documents = append(result.Documents, documents...)
	}
	return r.writer.Finish(ctx, result)
}

// findScopes returns the tags of the scopes that the build reads, the one first that it
// writes.
func (r *remoteCaches) findScopes() []string {
	file := r.b.graph.Files[len(r.b.graph.Files)-1] // the one that was asked for
	project := r.b.projects.of(r.ctx, file)
	var tags []string
	for _, branch := range branches(r.ctx, file.Dir, os.Getenv) {
		tags = append(tags, remote.ScopeTag(project.Name+"/"+project.Path, branch))
	}
	return tags
}

// question is what the build asks remote caches for.
func (r *remoteCaches) question() remote.Question {
	return remote.Question{Scopes: r.scopes(), Recipes: func(context.Context) []buildcache.Key { return r.targets() }}
}

// targets returns the recipes of the layers that no other layer of the build needs; none
// where one has no recipe.
func (r *remoteCaches) targets() []buildcache.Key {
	recipes := r.recipes()
	var targets []buildcache.Key
	for _, l := range r.b.graph.Layers {
		if r.b.needed[l] {
			continue
		}
		if recipes[l.Name] == "" {
			return nil
		}
		targets = append(targets, recipes[l.Name])
	}
	return targets
}

// findRecipes returns the recipes of the layers that have one, by their names.
func (r *remoteCaches) findRecipes() map[string]buildcache.Key {
	b := r.b
	recipes := &plan.Recipes{
		Contents: contents{b},
		Environ:  b.environ,
		Settings: []string{compatibility, oci.CompressorVersion, string(b.Compression), fmt.Sprint(b.CompressionLevel, b.LayerTypes, b.NoVerity)},
	}
	all := map[string]buildcache.Key{}
	for _, l := range b.graph.Layers {
		if recipe, err := recipes.Of(r.ctx, b.graph, l); err == nil {
			all[l.Name] = recipe
		}
	}
	return all
}

// contents finds out for recipes what is outside of stackerfiles.
type contents struct{ b *Builder }

// Tree is a method of plan.Contents.
func (c contents) Tree(ctx context.Context, from layers.Source, how plan.Reading) (digest.Digest, error) {
	at := imports.Source{Path: from.Path, Content: from.Content, Normalize: how.Normalize, Ignore: how.Ignore, IgnoreFiles: how.IgnoreFiles}
	tree, err := c.b.Sources.Digest(ctx, at)
	return tree.Digest, err
}

// Image is a method of plan.Contents.
func (c contents) Image(ctx context.Context, l *layers.Layer) (digest.Digest, error) {
	if l.From.Type == layers.BaseOCI {
		manifest, err := oci.ResolveLayout(ctx, l.From.Source.Path, l.From.Tag, platform(l))
		return manifest.Digest, err
	}
	manifest, came, err := remember(ctx, c.b, l, c.b.referenceStep(l, registry.Ref{Name: l.From.URL, Insecure: l.From.Insecure}))
	if err == nil && !came.Known() {
		err = errors.New("the registry was not asked")
	}
	return manifest, err
}

// Distrust removes from a state folder what a key vouched for, by the key's ID, and what
// was built on that. It returns how many records went.
func Distrust(ctx context.Context, stateDir, key string) (removed int, err error) {
	cache, err := buildcache.Open(ctx, stateDir)
	if err != nil {
		return 0, err
	}
	defer cache.Close()
	return cache.Distrust(key)
}
