package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/layerbuild/layerbuild/buildcache"
	"github.com/layerbuild/layerbuild/explain"
	"github.com/layerbuild/layerbuild/layers"
	"github.com/layerbuild/layerbuild/oci"
	"github.com/layerbuild/layerbuild/progress"
)

// An outcome is what is known of a layer once it is done: what other layers
// start from and read.
type outcome struct {
	done    chan struct{} // closed when this is set, the images and differs excepted
	config  *oci.Image    // the image without its blobs; nil when the layer would have to be built first
	chain   *chain        // its rootfs
	below   int           // how many layers of it are the base's
	hit     bool
	skipped bool // it needs one that failed
	failed  bool
	turn    *expected     // of its step
	waited  time.Duration // for it
	told    explain.Layer

	image   *oci.Image            // with the blobs, which may be packed while others build on the layer
	tagged  map[string]*oci.Image // what goes into the OCI layout, by tag; image is the one whose layers are tars
	checked bool                  // it was built again only to be compared
	differs bool                  // it was, and came out otherwise
}

// layer makes one layer: its rootfs, its labels, and its image, each from the
// cache where that knows it.
func (b *Builder) layer(ctx context.Context, l *layers.Layer) error {
	o := b.layers[l]
	if o.turn == nil {
		o.turn = b.limits.steps.expect()
	}
	defer o.turn.drop()
	start := time.Now()
	if b.Shell != nil && b.Shell.Layer == l.Name {
		return b.shell(ctx, l)
	}
	err := b.makeLayer(ctx, l, o)
	switch {
	case b.Plan && errors.Is(err, errMounts):
		o.hit = false
		o.told.Outcome = explain.WouldBuild
		if len(o.told.Reasons)+len(o.told.Because) == 0 {
			b.notice(l, progress.Miss, "what it reads must be fetched or unpacked first")
		}
		close(o.done)
	case err != nil:
		if ctx.Err() == nil && o.told.Outcome != explain.WouldBuild {
			o.told.Outcome = explain.Broken
		}
		return err
	case o.hit:
		b.report(progress.Event{Kind: progress.Hit, Layer: l.Name})
	case o.checked:
		b.report(progress.Event{Kind: progress.Checked, Layer: l.Name, Took: time.Since(start) - o.waited})
	default:
		b.report(progress.Event{Kind: progress.Built, Layer: l.Name, Took: time.Since(start) - o.waited, Done: o.size()})
	}
	return nil
}

func (b *Builder) makeLayer(ctx context.Context, l *layers.Layer, o *outcome) error {
	for _, need := range b.graph.Needs(l) {
		if b.layers[need].config == nil {
			o.told.Because = append(o.told.Because, need.Name)
			b.notice(l, progress.Miss, "it reads layer %q, which would be built", need.Name)
			return errMounts
		}
	}
	looked, err := b.limits.looks.acquire(ctx, 0)
	if err != nil {
		return err
	}
	defer looked()
	base, err := b.base(ctx, l)
	if err != nil {
		return err
	}
	step, err := b.newRootfsStep(ctx, l, base)
	if err != nil {
		return err
	}
	record, fs, err := b.rootfs(ctx, step, o, looked)
	if err != nil {
		return err
	}
	o.turn.drop()
	o.chain, o.below = fs.onto(base.chain), base.chain.layers()
	b.tellResult(step, &o.told, o.chain)
	labels, labelsKey, err := b.labels(ctx, step, o)
	if err != nil {
		return err
	}
	spec := b.imageSpec(ctx, step, fs, record.Created, labels)
	if o.config, err = oci.Compose(spec); err != nil {
		return err
	}
	looked()
	close(o.done)
	if b.Plan {
		o.image = o.config
		return nil
	}
	if o.image, err = b.packImage(ctx, step, o.chain, spec); err != nil {
		return err
	}
	if o.tagged, err = b.typedImages(ctx, step, o, spec); err != nil {
		return err
	}
	return b.setLatest(ctx, l, o, record.Key, labelsKey)
}

// rootfs returns the result of a step: from the cache, or by doing it. looked is
// called when it is not in the cache.
func (b *Builder) rootfs(ctx context.Context, s *rootfsStep, o *outcome, looked func()) (*buildcache.Record, rootfs, error) {
	record, fs, miss := b.lookupRootfs(ctx, s)
	verify := miss == nil && named(b.Verify, s.l)
	if miss == nil && !verify && !named(b.NoCache, s.l) {
		o.found(record)
		return record, fs, nil
	}
	o.told.Key = string(s.inputs.Key(buildcache.Rootfs))
	if !verify && (b.mayMount || b.Plan || b.FailOnMiss) { // otherwise the second life says it
		if err := b.tellMiss(ctx, s, &o.told, miss); err != nil {
			return nil, fs, err
		}
	}
	if b.FailOnMiss && !verify {
		o.told.Outcome = explain.WouldBuild
		return nil, fs, &MissError{[]string{s.l.Name}}
	}
	if err := b.mounts(); err != nil {
		return nil, fs, err
	}
	looked()
	if err := b.haveSecrets(s.l); err != nil {
		return nil, fs, err
	}
	if err := b.ensure(ctx, s.l, s.base.chain); err != nil {
		return nil, fs, err
	}
	ready := time.Now()
	ended, err := o.turn.acquire(ctx, b.worth()[s.l])
	if err != nil {
		return nil, fs, err
	}
	defer ended()
	o.waited = time.Since(ready)
	lock, err := b.Cache.Lock(ctx, s.inputs.Key(buildcache.Rootfs), "has been doing the same step")
	if err != nil {
		return nil, fs, err
	}
	defer lock.Unlock()
	if miss != nil {
		if record, fs, miss = b.lookupRootfs(ctx, s); miss == nil && !named(b.NoCache, s.l) {
			o.found(record) // another process has made it meanwhile
			return record, fs, nil
		}
	}
	start := time.Now()
	made, err := b.makeRootfs(ctx, s)
	ended()
	o.told.Seconds = time.Since(start).Seconds()
	if err != nil {
		if ctx.Err() == nil && !errors.Is(err, errDamaged) {
			b.setFailed(ctx, s)
		}
		return nil, fs, err
	}
	o.told.Outcome = explain.Built
	if verify {
		o.checked = true
		o.differs, err = b.compare(ctx, s, fs, made)
		return record, fs, err
	}
	b.dropKept(s.l)
	record, err = b.Cache.Put(buildcache.Rootfs, s.inputs, made, time.Since(start), b.origin(s))
	return record, made, err
}

// size is how many bytes the blobs have that are on top of the base's.
func (o *outcome) size() (size int64) {
	for _, layer := range o.image.Layers[o.below:] {
		size += layer.Size
	}
	return size
}

// found notes that the layer's rootfs is in the cache.
func (o *outcome) found(r *buildcache.Record) {
	o.hit = true
	o.told = explain.Layer{Outcome: explain.Hit, Key: string(r.Key), Seconds: r.Cost.Seconds()}
}

// named tells whether a list of layers has this one.
func named(names []string, l *layers.Layer) bool {
	return slices.Contains(names, AllLayers) || slices.Contains(names, l.Name)
}

// lookupRootfs returns the remembered result of a step if it can be used: each
// of its layers has a snapshot, or a blob to make the snapshot from.
func (b *Builder) lookupRootfs(ctx context.Context, s *rootfsStep) (*buildcache.Record, rootfs, error) {
	var fs rootfs
	if len(s.untracked) > 0 {
		return nil, fs, buildcache.ErrNotFound
	}
	record, err := b.lookup(buildcache.Rootfs, s.inputs, &fs)
	if err != nil {
		return nil, fs, err
	}
	for c := fs.onto(s.base.chain); c != s.base.chain; c = c.below {
		if !b.has(ctx, c) && !b.packed(c) {
			return nil, fs, &goneError{c}
		}
	}
	return record, fs, nil
}

// lookup decodes the remembered result of a step.
func (b *Builder) lookup(kind buildcache.Kind, in buildcache.Inputs, result any) (*buildcache.Record, error) {
	record, err := b.Cache.Get(kind, in.Key(kind))
	if err != nil {
		if _, said := b.damaged.LoadOrStore(in.Key(kind), true); errors.Is(err, buildcache.ErrCorrupt) && !said {
			b.report(progress.Event{Kind: progress.Warning, Text: fmt.Sprintf("a damaged %s record has been put aside in the state folder's corrupt folder", kind)})
		}
		return nil, err
	}
	b.use(string(record.Key))
	return record, json.Unmarshal(record.Result, result)
}

func (b *Builder) setLatest(ctx context.Context, l *layers.Layer, o *outcome, rootfs, labels buildcache.Key) error {
	keys := map[buildcache.Kind]buildcache.Key{buildcache.Rootfs: rootfs}
	if labels != "" {
		keys[buildcache.Labels] = labels
	}
	if before, err := b.Cache.Latest(l.File.Path, l.Name); err == nil && !before.Failed &&
		before.Keys[buildcache.Rootfs] == rootfs && before.Keys[buildcache.Labels] == labels && before.Result == string(o.chain.ID()) {
		return nil
	}
	return b.Cache.SetLatest(buildcache.Latest{
		Stackerfile: l.File.Path, Project: b.projects.of(ctx, l.File), Layer: l.Name,
		Keys: keys, Result: string(o.chain.ID()), Time: time.Now().UTC(),
	})
}

// setFailed remembers that the last build of a layer failed. It is a help for
// explanations only, and so is never an error.
func (b *Builder) setFailed(ctx context.Context, s *rootfsStep) {
	latest := buildcache.Latest{Stackerfile: s.l.File.Path, Project: b.projects.of(ctx, s.l.File), Layer: s.l.Name}
	if before, err := b.Cache.Latest(s.l.File.Path, s.l.Name); err == nil {
		latest = *before
	}
	latest.Failed, latest.FailedKey, latest.Time = true, s.inputs.Key(buildcache.Rootfs), time.Now().UTC()
	_ = b.Cache.SetLatest(latest)
}
