package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"runtime"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"

	"github.com/layerbuild/layerbuild/buildcache"
	"github.com/layerbuild/layerbuild/history"
	"github.com/layerbuild/layerbuild/layers"
	"github.com/layerbuild/layerbuild/namespace"
)

// unread stands for a layer of the stackerfile without reading that.
func (o Options) unread(layer string) (*layers.Layer, error) {
	file, err := history.Place(o.Stackerfile)
	if err != nil {
		return nil, err
	}
	return &layers.Layer{Name: layer, File: &layers.Stackerfile{Name: o.Stackerfile, Path: file}, Network: layers.NetworkHost, OS: runtime.GOOS, Arch: runtime.GOARCH}, nil
}

// openMounting opens the rooms in a process that has mounts of its own.
func openMounting(ctx context.Context, o Options, graph *layers.Graph) (*Builder, error) {
	if err := namespace.Enter(); err != nil {
		return nil, err
	}
	b, err := open(ctx, o, graph)
	if err != nil {
		return nil, err
	}
	if err := b.ready(); err != nil {
		b.close()
		return nil, err
	}
	return b, nil
}

// lastBuilt returns the ChainID of a layer as it was last built, of this
// stackerfile or else of any, and makes sure of its snapshot.
func (b *Builder) lastBuilt(ctx context.Context, l *layers.Layer) (digest.Digest, error) {
	latest, err := b.Cache.Latest(l.File.Path, l.Name)
	if errors.Is(err, buildcache.ErrNotFound) || err == nil && !latest.Built() {
		latest, err = b.latestOf(l)
	}
	if err != nil {
		return "", err
	}
	if id, err := b.rootfsOf(latest); err == nil {
		if ok, err := b.proven(ctx, id); ok || err != nil {
			return id, err
		}
	}
	// Its snapshot has made room for others. The image has its layers, too.
	image, err := b.Blobs.BaseFromLayout(ctx, b.OCIDir, l.Name, platform(l))
	if err != nil {
		return "", fmt.Errorf("the files of layer %q are no longer here: %s brings them back", l.Name, b.command(l, "build", "--no-cache="+l.Name))
	}
	c := newBase(image).chain
	return c.ID(), b.ensure(ctx, l, c)
}

// latestOf returns the last build of a layer of that name, of any stackerfile.
func (b *Builder) latestOf(l *layers.Layer) (*buildcache.Latest, error) {
	all, err := b.Cache.LatestOf(l.Name)
	if err != nil {
		return nil, err
	}
	for _, latest := range all {
		if latest.Keys[buildcache.Rootfs] != "" {
			return &latest, nil
		}
	}
	return nil, fmt.Errorf("layer %q has not been built here: %s builds it", l.Name, b.command(l, "build", l.Name))
}

// rootfsOf returns the ChainID of what a build gave: its base's, and what the
// rootfs step added to it.
func (b *Builder) rootfsOf(latest *buildcache.Latest) (digest.Digest, error) {
	record, err := b.Cache.Get(buildcache.Rootfs, latest.Keys[buildcache.Rootfs])
	if err != nil {
		return "", err
	}
	var fs rootfs
	if err := json.Unmarshal(record.Result, &fs); err != nil {
		return "", err
	}
	var chain []digest.Digest
	for _, in := range record.Inputs {
		if in.Code == buildcache.BaseChange && in.Name == "base" && in.Value != "" {
			chain = append(chain, digest.Digest(in.Value))
		}
	}
	for _, layer := range fs.Layers {
		chain = append(chain, layer.DiffID)
	}
	return identity.ChainID(chain), nil
}
