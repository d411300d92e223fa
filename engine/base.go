package engine

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/opencontainers/go-digest"
	ispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/layerbuild/layerbuild/buildcache"
	"github.com/layerbuild/layerbuild/imports"
	"github.com/layerbuild/layerbuild/layers"
	"github.com/layerbuild/layerbuild/oci"
	"github.com/layerbuild/layerbuild/progress"
	"github.com/layerbuild/layerbuild/redact"
	"github.com/layerbuild/layerbuild/registry"
)

// A base is what a layer starts from, whatever its type.
type base struct {
	image *oci.Base // nil: nothing
	chain *chain    // its layers
	epoch time.Time // the clamp epoch of what is built on it
}

// environment returns the variables of the base's image, of which PATH is always one.
func (b *base) environment() []string {
	if b.image == nil {
		return []string{"PATH=" + oci.DefaultPath}
	}
	return append([]string{"PATH=" + oci.DefaultPath}, b.image.Config.Config.Env...)
}

func newBase(image *oci.Base) *base {
	b := &base{image: image, epoch: clampEpoch(image.Config.Created)}
	for _, layer := range image.Layers {
		b.chain = b.chain.with(layer)
		b.chain.ofBase = true
	}
	return b
}

// base finds out what a layer starts from, by digest.
func (b *Builder) base(ctx context.Context, l *layers.Layer) (*base, unknown, error) {
	if l.From.Type == layers.BaseScratch {
		return &base{epoch: clampEpoch(nil)}, "", nil
	}
	if l.From.Type == layers.BaseBuilt {
		parent := b.layers[b.graph.Layer(l.From.Tag)]
		return &base{parent.config.Base(), parent.chain, parent.epoch}, "", nil
	}
	image, why, err := b.baseImage(ctx, l, false)
	if err != nil || why != "" {
		return nil, why, b.failAt(ctx, l, l.From.Pos, err)
	}
	b.use(image.Manifest.Encoded())
	b.remote.startsFrom(image.Manifest)
	made := newBase(image)
	for c := made.chain; c != nil; c = c.below {
		c.again = func(ctx context.Context) error {
			_, _, err := b.baseImage(ctx, l, true)
			return b.failAt(ctx, l, l.From.Pos, err)
		}
	}
	return made, "", nil
}

// baseImage returns the image from outside that a layer starts from. Where a remote cache
// has described it, its layers need not be on this machine, unless whole says so.
func (b *Builder) baseImage(ctx context.Context, l *layers.Layer, whole bool) (*oci.Base, unknown, error) {
	switch l.From.Type {
	case layers.BaseOCI:
		return b.layoutBase(ctx, l, whole)
	case layers.BaseDocker:
		return b.registryBase(ctx, l, whole)
	case layers.BaseTar:
		return b.tarBase(ctx, l, whole)
	}
	return nil, "", fmt.Errorf("unknown type of base %q", l.From.Type)
}

// known returns a base image that was taken in, or was described by a remote cache.
func (b *Builder) known(ctx context.Context, manifest digest.Digest, whole bool) (*oci.Base, error) {
	image, err := b.Blobs.Base(manifest)
	if err == nil || whole || !b.remote.reads() {
		return image, err
	}
	if image, err := b.Blobs.Described(manifest); err == nil {
		return image, nil
	}
	b.remote.ask(ctx)
	return b.Blobs.Described(manifest)
}

func platform(l *layers.Layer) ispec.Platform {
	arch, variant := layers.SplitArch(l.Arch)
	return ispec.Platform{OS: l.OS, Architecture: arch, Variant: variant}
}

func (b *Builder) layoutBase(ctx context.Context, l *layers.Layer, whole bool) (*oci.Base, unknown, error) {
	path, tag := l.From.Source.Path, l.From.Tag
	manifest, err := oci.ResolveLayout(ctx, path, tag, platform(l))
	if err != nil {
		return nil, "", err
	}
	step := b.imageStep(l, manifest.Digest, whole)
	step.Doing, step.Light = "has been copying "+l.From.URL, true
	step.Do = func(ctx context.Context) (*oci.Base, error) {
		defer b.lingering(l.Name, "copying "+l.From.URL)()
		return b.Blobs.BaseFromLayout(ctx, path, tag, platform(l))
	}
	image, _, err := remember(ctx, b, l, step)
	return image, "", err
}

// imageStep is the step that takes in an image, as far as it takes to look it up.
func (b *Builder) imageStep(l *layers.Layer, manifest digest.Digest, whole bool) *buildcache.Step[*oci.Base] {
	var in buildcache.Inputs
	in.Add(buildcache.BaseChange, "manifest", string(manifest))
	return &buildcache.Step[*oci.Base]{
		Task:   buildcache.Task{Kind: buildcache.Base, Inputs: in, Origin: origin(l)},
		Memory: &buildcache.Memory[*oci.Base]{Recall: func(ctx context.Context) (*oci.Base, error) { return b.known(ctx, manifest, whole) }},
	}
}

// registryBase asks the registry what the reference stands for now, and pulls what is
// not here.
func (b *Builder) registryBase(ctx context.Context, l *layers.Layer, whole bool) (*oci.Base, unknown, error) {
	ref := registry.Ref{Name: l.From.URL, Insecure: l.From.Insecure}
	manifest, _, err := remember(ctx, b, l, b.referenceStep(l, ref))
	if err != nil {
		return nil, "", err
	}
	step := b.imageStep(l, manifest, whole)
	step.Doing = "has been pulling " + l.From.URL
	step.Here = func(context.Context) bool { return false }
	step.Missed = func(context.Context, error) error {
		if b.asksNone() {
			return b.notHere(l)
		}
		if b.Plan {
			b.tellPull(l, manifest)
		}
		return nil
	}
	step.Do = func(ctx context.Context) (*oci.Base, error) { return b.pull(ctx, l, ref, manifest) }
	image, came, err := remember(ctx, b, l, step)
	if err == nil && !came.Known() {
		return nil, unknown(l.From.URL + " must be pulled"), nil
	}
	return image, "", err
}

func (b *Builder) pull(ctx context.Context, l *layers.Layer, ref registry.Ref, manifest digest.Digest) (*oci.Base, error) {
	what := "pulling " + l.From.URL
	b.notice(l, progress.Notice, "%s", what)
	release, err := b.limits.connections.acquire(ctx, 0)
	if err != nil {
		return nil, err
	}
	defer release()
	defer b.doing(l, what)()
	return b.Blobs.BaseFromRegistry(ctx, b.registry(), ref, manifest, b.meter(l, what))
}

// referenceStep finds out which manifest a reference stands for. What it stood for the
// last time is known, though its blobs may be gone; the pull policy decides whether that
// serves.
func (b *Builder) referenceStep(l *layers.Layer, ref registry.Ref) *buildcache.Step[digest.Digest] {
	name := l.From.URL + " " + l.OS + "/" + l.Arch
	var in buildcache.Inputs
	in.Add(buildcache.BaseChange, "reference", fmt.Sprint(name, ref.Insecure))
	return &buildcache.Step[digest.Digest]{
		Task: buildcache.Task{Kind: buildcache.Resolve, Inputs: in, Origin: origin(l), Light: true},
		Memory: &buildcache.Memory[digest.Digest]{
			Recall: func(context.Context) (digest.Digest, error) { return b.resolved(l, ref, name) },
			Keep:   func(manifest digest.Digest) error { return b.keepResolved(name, manifest) },
		},
		Do: func(ctx context.Context) (digest.Digest, error) { return b.ask(ctx, l, ref, name) },
	}
}

// resolved returns what a reference stood for the last time, where that serves without
// asking a registry.
func (b *Builder) resolved(l *layers.Layer, ref registry.Ref, name string) (digest.Digest, error) {
	if b.Pull == PullAlways {
		return "", buildcache.ErrNotFound
	}
	if known, ok := b.pinned(l, ref, name); ok {
		return known, nil
	}
	known, err := b.Cache.Resolution(name)
	if err != nil {
		return "", err
	}
	manifest := digest.Digest(known.Answer)
	if b.asksNone() {
		return manifest, nil
	}
	if b.Pull == PullMissing {
		_, err := b.Blobs.Base(manifest)
		return manifest, err
	}
	return "", buildcache.ErrNotFound
}

// ask asks the registry what a reference stands for. When it cannot be reached, what
// it stood for the last time serves, and is said.
func (b *Builder) ask(ctx context.Context, l *layers.Layer, ref registry.Ref, name string) (digest.Digest, error) {
	if b.asksNone() {
		return "", b.notHere(l)
	}
	manifest, err := b.inquiry.ask(fmt.Sprint(name, ref.Insecure), func() (digest.Digest, error) {
		manifest, err := oci.Resolve(ctx, b.registry(), ref, platform(l))
		return manifest.Digest, err
	})
	known, missing := b.Cache.Resolution(name)
	if err == nil || !errors.Is(err, registry.ErrUnreachable) || missing != nil || b.Pull == PullAlways {
		return manifest, err
	}
	b.notice(l, progress.Warning, "%s; using %s as it was on %s (%s)", err, l.From.URL, known.Time.Format(time.DateOnly), known.Answer)
	return digest.Digest(known.Answer), nil
}

// asksNone says that no registry is asked for anything.
func (b *Builder) asksNone() bool { return b.Offline || b.Pull == PullNever }

func (b *Builder) notHere(l *layers.Layer) error {
	flag := "--offline"
	if b.Pull == PullNever {
		flag = "--pull never"
	}
	return fmt.Errorf("%s was never pulled here, and %s asks no registry", l.From.URL, flag)
}

// pinned returns the manifest of a reference that names a digest, when that is
// known: no registry can make it stand for something else.
func (b *Builder) pinned(l *layers.Layer, ref registry.Ref, name string) (digest.Digest, bool) {
	pin := ref.Pinned()
	if pin == "" {
		return "", false
	}
	if known, err := b.Cache.Resolution(name); err == nil {
		return digest.Digest(known.Answer), true
	}
	image, err := b.Blobs.Base(pin)
	if err != nil {
		return pin, false
	}
	has, want := image.Config.Platform, platform(l)
	return pin, has.OS == want.OS && has.Architecture == want.Architecture && (want.Variant == "" || has.Variant == want.Variant)
}

// keepResolved keeps what a reference stands for, where that is news.
func (b *Builder) keepResolved(name string, manifest digest.Digest) error {
	if known, err := b.Cache.Resolution(name); err == nil && known.Answer == string(manifest) {
		return nil
	}
	return b.Cache.SetResolution(name, string(manifest))
}

// tarBase makes a base of a tar file: an image of one layer, told apart by the
// file's digest.
func (b *Builder) tarBase(ctx context.Context, l *layers.Layer, whole bool) (image *oci.Base, why unknown, err error) {
	file, why, err := b.source(ctx, l, l.From.Source, "", imports.Source{})
	if err != nil || why != "" {
		return nil, why, err
	}
	sum, why, err := file.digest(ctx)
	if err != nil || why != "" {
		return nil, why, err
	}
	var in buildcache.Inputs
	in.Add(buildcache.BaseChange, "tar", string(sum))
	in.Add(buildcache.Platform, "platform", l.OS+"/"+l.Arch)
	in.Add(buildcache.Format, "compressor", oci.CompressorVersion)
	_, came, err := remember(ctx, b, l, &buildcache.Step[digest.Digest]{
		Task: buildcache.Task{Kind: buildcache.Resolve, Inputs: in, Origin: origin(l), Doing: "has been taking in " + redact.URL(l.From.URL)},
		Usable: func(ctx context.Context, manifest digest.Digest) (err error) {
			image, err = b.known(ctx, manifest, whole)
			return err
		},
		Here:    file.here,
		Prepare: file.prepare,
		Do: func(ctx context.Context) (manifest digest.Digest, err error) {
			if image, err = b.takeInTar(ctx, file, sum); err == nil {
				manifest = image.Manifest
			}
			return manifest, err
		},
	})
	if err == nil && !came.Known() {
		why = unknown(fmt.Sprintf("%s must be taken in first", redact.URL(l.From.URL)))
	}
	return image, why, err
}

func (b *Builder) takeInTar(ctx context.Context, file *source, sum digest.Digest) (*oci.Base, error) {
	at, release, err := file.open(ctx)
	if err != nil {
		return nil, err
	}
	defer release()
	defer file.lingering("taking in")()
	return b.Blobs.BaseFromTar(ctx, cmp.Or(at.Root, "/"), at.Path, sum, platform(file.l))
}
