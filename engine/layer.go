package engine

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/layerbuild/layerbuild/buildcache"
	"github.com/layerbuild/layerbuild/explain"
	"github.com/layerbuild/layerbuild/imports"
	"github.com/layerbuild/layerbuild/layers"
	"github.com/layerbuild/layerbuild/oci"
	"github.com/layerbuild/layerbuild/progress"
)

// An outcome is what is known of a layer once it is done: what other layers
// start from and read.
type outcome struct {
	done    chan struct{} // closed when this is set, the images and differs excepted
	config  *oci.Image    // the image without its blobs; nil where the rootfs is not known
	chain   *chain        // its rootfs
	epoch   time.Time     // what its files were clamped to, and what of layers on it is
	below   int           // how many layers of it are the base's
	how     buildcache.How
	skipped bool // it needs one that failed
	failed  bool
	step    *rootfsStep   // by which it was made, with the inputs that were read in the end
	turn    *expected     // of its step
	waited  time.Duration // for it
	told    explain.Layer

	image   *oci.Image                                    // with the blobs, which may be packed while others build on the layer; nil where that is not known
	pack    func(context.Context) (known bool, err error) // makes the images, and what is not packed of them
	tagged  map[string]*oci.Image                         // what goes into the OCI layout, by tag; image is the one whose layers are tars
	differs bool                                          // something of it was done again and came out otherwise
}

// An unknown says why a value is not known: what would have to be done first, and is
// not by a plan or by a process that only looks. It is "" for a value that is known.
type unknown string

// hit reports whether nothing was to be done for the layer.
func (o *outcome) hit() bool { return o.how == buildcache.Hit || o.how == buildcache.Meanwhile }

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
	if err != nil {
		if ctx.Err() == nil && o.told.Outcome != explain.WouldBuild {
			o.told.Outcome = explain.Broken
		}
		return err
	}
	b.tellLayer(l, o, time.Since(start)-o.waited)
	if o.config == nil {
		close(o.done)
	}
	return nil
}

// tellLayer reports what became of a layer.
func (b *Builder) tellLayer(l *layers.Layer, o *outcome, took time.Duration) {
	switch {
	case o.image == nil:
		o.told.Outcome = explain.WouldBuild
	case o.how == buildcache.Hit:
		b.report(progress.Event{Kind: progress.Hit, Layer: l.Name})
	case o.how == buildcache.Meanwhile:
		b.report(progress.Event{Kind: progress.Hit, Layer: l.Name, Text: "the same step was done meanwhile, and its result serves"})
	case o.how == buildcache.Checked:
		b.report(progress.Event{Kind: progress.Checked, Layer: l.Name, Took: took})
	default:
		b.report(progress.Event{Kind: progress.Built, Layer: l.Name, Took: took, Done: o.size()})
	}
}

// makeLayer makes a layer as far as its steps may be done.
func (b *Builder) makeLayer(ctx context.Context, l *layers.Layer, o *outcome) error {
	for _, need := range b.graph.Needs(l) {
		if b.layers[need].config == nil {
			o.told.Because = append(o.told.Because, need.Name)
			b.notice(l, progress.Miss, "it reads layer %q, which would be built", need.Name)
			return nil
		}
	}
	looked, err := b.limits.looks.acquire(ctx, 0)
	if err != nil {
		return err
	}
	defer looked()
	base, why, err := b.base(ctx, l)
	if err != nil || why != "" {
		return err
	}
	step, err := b.newRootfsStep(ctx, l, base)
	if err != nil {
		return err
	}
	if len(step.unknown) > 0 {
		for _, why := range step.unknown {
			b.notice(l, progress.Miss, "%s", why)
		}
		return nil
	}
	fs, came, err := b.rootfs(ctx, step, o, looked)
	if err != nil || !came.Known() {
		return err
	}
	step = o.step
	o.turn.drop()
	o.chain, o.below, o.epoch = fs.onto(base.chain), base.chain.layers(), base.epoch
	for c := o.chain; c != base.chain; c = c.below {
		c.of = l
		c.again = func(ctx context.Context) error { return b.remake(ctx, step, c) }
	}
	b.tellResult(step, &o.told, o.chain)
	labels, labeled, err := b.labels(ctx, step, o)
	if err != nil {
		return err
	}
	spec := b.imageSpec(ctx, step, fs, came.Record.Created, labels)
	if o.config, err = oci.Compose(spec); err != nil {
		return err
	}
	looked()
	close(o.done)
	o.pack = func(ctx context.Context) (known bool, err error) { return b.makeImages(ctx, step, o, spec) }
	if known, err := o.pack(ctx); err != nil || !known || !labeled.Known() {
		o.image = nil
		return err
	}
	if b.Plan {
		return nil
	}
	return b.setLatest(ctx, l, o, came.Key, labeled.Key)
}

// makeImages makes the images of a layer; known is false where something would have to be
// packed for them.
func (b *Builder) makeImages(ctx context.Context, s *rootfsStep, o *outcome, spec oci.ImageSpec) (known bool, err error) {
	if o.image, err = b.packImage(ctx, s, o.chain, spec); err != nil || o.image == nil {
		return false, err
	}
	o.tagged, known, err = b.typedImages(ctx, s, o, spec)
	return known, err
}

// rootfs returns the result of a layer's rootfs step, and how it came by it. looked is
// called when it is not in the cache.
func (b *Builder) rootfs(ctx context.Context, s *rootfsStep, o *outcome, looked func()) (rootfs, buildcache.Outcome, error) {
	fs, came, err := remember(ctx, b, s.l, b.rootfsStep(s, o, looked))
	o.how, o.waited = came.How, came.Waited
	if came.Took > 0 {
		o.told.Seconds = came.Took.Seconds()
	}
	switch {
	case err != nil:
		return fs, came, err
	case o.hit():
		o.told = explain.Layer{Outcome: explain.Hit, Seconds: came.Record.Cost.Seconds()}
	case came.How == buildcache.Done:
		o.told.Outcome = explain.Built
		b.dropKept(s.l)
	case came.How == buildcache.Checked:
		o.told.Outcome = explain.Built
	}
	o.told.Key = string(came.Key)
	return fs, came, nil
}

// rootfsStep says what a layer's rootfs step is.
func (b *Builder) rootfsStep(s *rootfsStep, o *outcome, looked func()) *buildcache.Step[rootfs] {
	o.step = s
	return &buildcache.Step[rootfs]{
		Task: buildcache.Task{
			Kind: buildcache.Rootfs, Inputs: s.inputs, Origin: b.origin(s),
			Doing: "has been doing the same step", Untracked: len(s.runUntracked()) > 0,
		},
		Usable: func(ctx context.Context, fs rootfs) error { return b.usable(ctx, s, fs) },
		Lazy:   true,
		Missed: func(ctx context.Context, miss error) error { return b.tellMiss(ctx, s, &o.told, miss) },
		Prepare: func(ctx context.Context) error {
			looked()
			if err := b.haveSecrets(s.l); err != nil {
				return err
			}
			return b.ensureAll(ctx, s)
		},
		Slot: func(ctx context.Context) (func(), error) { return o.turn.acquire(ctx, b.worth()[s.l]) },
		Do: func(ctx context.Context) (rootfs, error) {
			fs, err := b.makeRootfs(ctx, s)
			if err != nil && ctx.Err() == nil && !errors.Is(err, buildcache.ErrCorrupt) && !errors.Is(err, imports.ErrChanged) {
				b.setFailed(ctx, s)
			}
			return fs, err
		},
		Renew: func(ctx context.Context, failure error) (*buildcache.Step[rootfs], error) {
			if !errors.Is(failure, imports.ErrChanged) {
				return nil, nil
			}
			next, err := b.measureAgain(ctx, s, failure)
			if err != nil {
				return nil, err
			}
			return b.rootfsStep(next, o, looked), nil
		},
		Compare: func(ctx context.Context, before, again rootfs) (bool, error) { return b.compare(ctx, s, before, again) },
	}
}

// measureAgain returns the step with what it reads as that is now. Until a run begins,
// somebody who saves a file makes it another step, and no failure.
func (b *Builder) measureAgain(ctx context.Context, s *rootfsStep, failure error) (*rootfsStep, error) {
	var changed *imports.ChangedError
	if errors.As(failure, &changed) {
		b.notice(s.l, progress.Notice, "%s was changed since it was measured: it is measured again", changed.Path)
	}
	return b.newRootfsStep(ctx, s.l, s.base)
}

// usable fails where a layer of a rootfs has neither a snapshot nor a blob to make it
// from.
func (b *Builder) usable(ctx context.Context, s *rootfsStep, fs rootfs) error {
	for c := fs.onto(s.base.chain); c != s.base.chain; c = c.below {
		if !b.has(ctx, c) && !b.packed(ctx, c) {
			return &goneError{c, s.lost}
		}
	}
	return nil
}

// ensureAll makes the snapshots that a rootfs step starts from and reads.
func (b *Builder) ensureAll(ctx context.Context, s *rootfsStep) error {
	if err := b.ensure(ctx, s.l, s.base.chain); err != nil {
		return err
	}
	for _, imp := range slices.Concat(s.shown, s.copied) {
		if imp.source == nil {
			continue // a text or a folder
		}
		if err := imp.source.prepare(ctx); err != nil {
			return err
		}
	}
	return nil
}

// size is how many bytes the blobs have that are on top of the base's.
func (o *outcome) size() (size int64) {
	for _, layer := range o.image.Layers[o.below:] {
		size += layer.Size
	}
	return size
}

// named reports whether a list of layers has this one.
func named(names []string, layer string) bool {
	return slices.Contains(names, AllLayers) || slices.Contains(names, layer)
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
