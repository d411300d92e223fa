package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/layerbuild/layerbuild/buildcache"
	"github.com/layerbuild/layerbuild/inroot"
	"github.com/layerbuild/layerbuild/overlay"
)

// labels returns what the layer's generate_labels makes of its rootfs: from the
// cache, or by running it. Its changes to the rootfs are thrown away; each file
// it leaves in /oci-labels becomes a label.
func (b *Builder) labels(ctx context.Context, s *rootfsStep, o *outcome) (map[string]string, buildcache.Key, error) {
	if s.l.GenerateLabels == "" {
		return nil, "", nil
	}
	c := o.chain
	s.env = s.l.BuildEnvironment(b.environ, s.base.environment())
	in := labelsInputs(s, c)
	if err := b.addMounts(&in, s.l); err != nil {
		return nil, "", err
	}
	key := in.Key(buildcache.Labels)
	var labels map[string]string
	if _, err := b.lookup(buildcache.Labels, in, &labels); err == nil {
		return labels, key, nil
	}
	if err := b.mounts(); err != nil {
		return nil, "", err
	}
	if err := b.tellLabels(s, in, &o.told); err != nil {
		return nil, "", err
	}
	ended, err := b.limits.steps.acquire(ctx, b.worth()[s.l])
	if err != nil {
		return nil, "", err
	}
	defer ended()
	lock, err := b.Cache.Lock(ctx, key, "has been making the same labels")
	if err != nil {
		return nil, "", err
	}
	defer lock.Unlock()
	if _, err := b.lookup(buildcache.Labels, in, &labels); err == nil {
		return labels, key, nil
	}
	start := time.Now()
	if labels, err = b.generateLabels(ctx, s, c); err != nil {
		return nil, "", err
	}
	_, err = b.Cache.Put(buildcache.Labels, in, labels, time.Since(start), origin(s.l))
	return labels, key, err
}

func labelsInputs(s *rootfsStep, c *chain) (in buildcache.Inputs) {
	in.Add(buildcache.Format, "compatibility", compatibility)
	in.Add(buildcache.BaseChange, "chain", string(c.ID()))
	in.Add(buildcache.Definition, "generate_labels", s.l.GenerateLabels)
	in.Add(buildcache.Definition, "network", s.l.Network)
	for _, v := range s.env {
		if v.Keyed {
			in.Add(buildcache.Env, "env "+v.Name, v.Value)
		}
	}
	return in
}

func (b *Builder) generateLabels(ctx context.Context, s *rootfsStep, c *chain) (map[string]string, error) {
	if err := b.ensure(ctx, s.l, c); err != nil {
		return nil, err
	}
	upper, err := b.Snapshots.Prepare(ctx, c.ID())
	if err != nil {
		return nil, snapshotDamage(err)
	}
	defer upper.Drop()
	run, err := b.newRun(ctx, s, script{"generate_labels", s.l.GenerateLabels, s.l.GenerateLabelsPos}, nil)
	if err != nil {
		return nil, err
	}
	defer run.close()
	root, err := upper.Mount(ctx, append(mountpoints(run.points), overlay.Mountpoint{Path: labelsDir})...)
	if err != nil {
		return nil, err
	}
	if err := run.in(ctx, root); err != nil {
		return nil, err
	}
	labels, err := readLabels(root)
	return labels, b.failAt(ctx, s.l, s.l.GenerateLabelsPos, err)
}

// maxLabel bounds a label's value, in bytes.
const maxLabel = 1 << 20

// readLabels makes a label of each regular file in the labels' folder, as the step sees that:
// a symlink in its place leads nowhere but into the root filesystem.
func readLabels(root string) (map[string]string, error) {
	dir, err := inroot.Folder(root, labelsDir)
	if err != nil {
		return nil, fmt.Errorf("generate_labels: %w", err)
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return nil, fmt.Errorf("generate_labels: %w", err)
	}
	labels := map[string]string{}
	for _, name := range names {
		if labels[name], err = readLabel(dir, name); err != nil {
			return nil, fmt.Errorf("generate_labels: %s/%q %w", labelsDir, name, err)
		}
	}
	return labels, nil
}

var errNoLabel = errors.New("should be a file of at most 1 MiB")

func readLabel(dir *os.File, name string) (string, error) {
	f, err := inroot.FileIn(dir, name)
	if errors.Is(err, inroot.ErrNotRegular) {
		return "", errNoLabel
	}
	if err != nil {
		return "", fmt.Errorf("cannot be read: %w", err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxLabel+1))
	if err == nil && len(text) > maxLabel {
		err = errNoLabel
	}
	return string(text), err
}
