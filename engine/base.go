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
	"github.com/layerbuild/layerbuild/registry"
)

// A base is what a layer starts from, whatever its type.
type base struct {
	image *oci.Base // nil: nothing
	chain *chain    // its layers
}

func (b *base) created() *time.Time {
	if b.image == nil {
		return nil
	}
	return b.image.Config.Created
}

// environment returns the variables of the base's image, of which PATH is always one.
func (b *base) environment() []string {
	if b.image == nil {
		return []string{"PATH=" + oci.DefaultPath}
	}
	return append([]string{"PATH=" + oci.DefaultPath}, b.image.Config.Config.Env...)
}

func newBase(image *oci.Base) *base {
	b := &base{image: image}
	for _, layer := range image.Layers {
		b.chain = b.chain.with(layer)
		b.chain.ofBase = true
	}
	return b
}

// base finds out what a layer starts from, by digest.
func (b *Builder) base(ctx context.Context, l *layers.Layer) (*base, error) {
	var image *oci.Base
	var err error
	switch l.From.Type {
	case layers.BaseScratch:
		return &base{}, nil
	case layers.BaseBuilt:
		parent := b.layers[b.graph.Layer(l.From.Tag)]
		return &base{parent.config.Base(), parent.chain}, nil
	case layers.BaseOCI:
		image, err = b.layoutBase(ctx, l)
	case layers.BaseDocker:
		image, err = b.registryBase(ctx, l)
	case layers.BaseTar:
		image, err = b.tarBase(ctx, l)
	default:
		err = fmt.Errorf("unknown type of base %q", l.From.Type)
	}
	if err != nil {
		return nil, b.failAt(ctx, l, l.From.Pos, err)
	}
	b.use(image.Manifest.Encoded())
	return newBase(image), nil
}

func platform(l *layers.Layer) ispec.Platform {
	return ispec.Platform{OS: l.OS, Architecture: l.Arch}
}

func (b *Builder) layoutBase(ctx context.Context, l *layers.Layer) (*oci.Base, error) {
	path, tag := l.From.Source.Path, l.From.Tag
	manifest, err := oci.ResolveLayout(ctx, path, tag, platform(l))
	if err != nil {
		return nil, err
	}
	if image, err := b.Blobs.Base(manifest.Digest); err == nil {
		return image, nil
	}
	lock, err := b.Cache.Lock(ctx, buildcache.Key(manifest.Digest.Encoded()), "has been copying "+l.From.URL)
	if err != nil {
		return nil, err
	}
	defer lock.Unlock()
	if image, err := b.Blobs.Base(manifest.Digest); err == nil {
		return image, nil
	}
	defer b.lingering(l.Name, "copying "+l.From.URL)()
	return b.Blobs.BaseFromLayout(ctx, path, tag, platform(l))
}

// registryBase asks the registry what the reference stands for now. When that
// cannot be known, what it stood for the last time serves, and is said.
func (b *Builder) registryBase(ctx context.Context, l *layers.Layer) (*oci.Base, error) {
	ref := registry.Ref{Name: l.From.URL, Insecure: l.From.Insecure}
	name := l.From.URL + " " + l.OS + "/" + l.Arch
	manifest, err := b.resolve(ctx, l, ref, name)
	if err != nil {
		return nil, err
	}
	if image, err := b.Blobs.Base(manifest); err == nil {
		return image, nil
	}
	if b.asksNone() {
		return nil, b.notHere(l)
	}
	if b.Plan {
		b.tellPull(l, manifest)
	}
	if err := b.mounts(); err != nil {
		return nil, err
	}
	return b.pull(ctx, l, ref, manifest)
}

// pull takes in an image that is not here, once for all layers that start from it.
func (b *Builder) pull(ctx context.Context, l *layers.Layer, ref registry.Ref, manifest digest.Digest) (*oci.Base, error) {
	lock, err := b.Cache.Lock(ctx, buildcache.Key(manifest.Encoded()), "has been pulling "+l.From.URL)
	if err != nil {
		return nil, err
	}
	defer lock.Unlock()
	if image, err := b.Blobs.Base(manifest); err == nil {
		return image, nil
	}
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

// resolve returns the manifest that a reference stands for, by the pull policy. What
// it stood for the last time is known, though its blobs may be gone.
func (b *Builder) resolve(ctx context.Context, l *layers.Layer, ref registry.Ref, name string) (digest.Digest, error) {
	if b.Pull != PullAlways {
		if known, ok := b.pinned(l, ref, name); ok {
			return known, nil
		}
	}
	known, unknown := b.Cache.Resolution(name)
	switch {
	case b.asksNone() && unknown != nil:
		return "", b.notHere(l)
	case b.asksNone():
		return digest.Digest(known.Answer), nil
	case b.Pull == PullMissing && unknown == nil:
		if _, err := b.Blobs.Base(digest.Digest(known.Answer)); err == nil {
			return digest.Digest(known.Answer), nil
		}
	}
	manifest, err := b.inquiry.ask(fmt.Sprint(name, ref.Insecure), func() (digest.Digest, error) {
		manifest, err := oci.Resolve(ctx, b.registry(), ref, platform(l))
		return manifest.Digest, err
	})
	if err == nil {
		return manifest, b.remember(name, manifest)
	}
	if !errors.Is(err, registry.ErrUnreachable) || unknown != nil || b.Pull == PullAlways {
		return "", err
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
	return pin, err == nil && image.Config.OS == l.OS && image.Config.Architecture == l.Arch
}

func (b *Builder) remember(name string, manifest digest.Digest) error {
	if known, err := b.Cache.Resolution(name); err == nil && known.Answer == string(manifest) {
		return nil
	}
	return b.Cache.SetResolution(name, string(manifest))
}

// tarBase makes a base of a tar file: an image of one layer, told apart by the
// file's digest.
func (b *Builder) tarBase(ctx context.Context, l *layers.Layer) (*oci.Base, error) {
	file, err := b.source(ctx, l, l.From.Source, "", imports.Source{})
	if err != nil {
		return nil, err
	}
	sum, err := file.digest(ctx)
	if err != nil {
		return nil, err
	}
	var in buildcache.Inputs
	in.Add(buildcache.BaseChange, "tar", string(sum))
	in.Add(buildcache.Platform, "platform", l.OS+"/"+l.Arch)
	in.Add(buildcache.Format, "compressor", oci.CompressorVersion)
	known := func() (*oci.Base, error) {
		var manifest digest.Digest
		if _, err := b.lookup(buildcache.Resolve, in, &manifest); err != nil {
			return nil, err
		}
		return b.Blobs.Base(manifest)
	}
	if image, err := known(); err == nil {
		return image, nil
	}
	if err := b.mounts(); err != nil {
		return nil, err
	}
	lock, err := b.Cache.Lock(ctx, in.Key(buildcache.Resolve), "has been taking in "+registry.Redact(l.From.URL))
	if err != nil {
		return nil, err
	}
	defer lock.Unlock()
	if image, err := known(); err == nil { // another has taken it in meanwhile
		return image, nil
	}
	start := time.Now()
	at, release, err := file.open(ctx)
	if err != nil {
		return nil, err
	}
	defer release()
	defer file.lingering("taking in")()
	image, err := b.Blobs.BaseFromTar(ctx, cmp.Or(at.Root, "/"), at.Path, sum, platform(l))
	if err != nil {
		return nil, err
	}
	_, err = b.Cache.Put(buildcache.Resolve, in, image.Manifest, time.Since(start), origin(l))
	return image, err
}
