package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strconv"

	"github.com/layerbuild/layerbuild/buildcache"
	"github.com/layerbuild/layerbuild/inroot"
	"github.com/layerbuild/layerbuild/layers"
	"github.com/layerbuild/layerbuild/overlay"
	"github.com/layerbuild/layerbuild/progress"
)

// labels returns what the layer's generate_labels makes of its rootfs. Its changes to
// that are thrown away; each file it leaves in /oci-labels becomes a label.
func (b *Builder) labels(ctx context.Context, s *rootfsStep, o *outcome) (map[string]string, buildcache.Outcome, error) {
	if s.l.GenerateLabels == "" {
		return nil, buildcache.Outcome{How: buildcache.Hit}, nil
	}
	step, err := b.labelsStep(s, o)
	if err != nil {
		return nil, buildcache.Outcome{}, err
	}
	return remember(ctx, b, s.l, step)
}

func (b *Builder) labelsStep(s *rootfsStep, o *outcome) (*buildcache.Step[map[string]string], error) {
	c := o.chain
	in, err := b.labelsInputs(s, c)
	if err != nil {
		return nil, err
	}
	return &buildcache.Step[map[string]string]{
		Task:    buildcache.Task{Kind: buildcache.Labels, Inputs: in, Origin: origin(s.l), Doing: "has been making the same labels", Untracked: len(s.untracked) > 0},
		Missed:  func(_ context.Context, miss error) error { return b.tellLabels(s, in, &o.told, miss) },
		Prepare: func(ctx context.Context) error { return b.ensure(ctx, s.l, c) },
		Slot:    func(ctx context.Context) (func(), error) { return b.limits.steps.acquire(ctx, b.worth()[s.l]) },
		Do:      func(ctx context.Context) (map[string]string, error) { return b.generateLabels(ctx, s, c) },
		Compare: func(_ context.Context, before, again map[string]string) (bool, error) {
			return b.compareLabels(s.l, before, again), nil
		},
	}, nil
}

func (b *Builder) labelsInputs(s *rootfsStep, c *chain) (in buildcache.Inputs, err error) {
	in.Add(buildcache.Format, "compatibility", compatibility)
	in.Add(buildcache.BaseChange, "chain", string(c.ID()))
	in.Add(buildcache.Definition, "generate_labels", s.l.GenerateLabels)
	in.Add(buildcache.Epoch, "epoch", epochText(s.epoch))
	return in, b.addSurroundings(&in, s)
}

func (b *Builder) generateLabels(ctx context.Context, s *rootfsStep, c *chain) (map[string]string, error) {
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

// maxLabels bounds all labels together: an image's config is to be smaller.
const maxLabels = 4 << 20

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
	size := 0
	for _, name := range names {
		if labels[name], err = readLabel(dir, name); err != nil {
			return nil, fmt.Errorf("generate_labels: %s/%q %w", labelsDir, name, err)
		}
		if size += len(name) + len(labels[name]); size > maxLabels {
			return nil, fmt.Errorf("generate_labels: the files in %s are more than 4 MiB together, which no image can have", labelsDir)
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

// compareLabels reports whether generate_labels gave the same labels again, and tells
// which differ.
func (b *Builder) compareLabels(l *layers.Layer, before, again map[string]string) bool {
	if maps.Equal(before, again) {
		return true
	}
	names := slices.Sorted(maps.Keys(before))
	for name := range again {
		if _, ok := before[name]; !ok {
			names = append(names, name)
		}
	}
	for _, name := range names {
		was, had := before[name]
		is, has := again[name]
		switch {
		case !has:
			b.notice(l, progress.Warning, "not reproducible: generate_labels gave no label %q, which was %s", name, labelText(was))
		case !had:
			b.notice(l, progress.Warning, "not reproducible: generate_labels gave another label, %q: %s", name, labelText(is))
		case was != is:
			b.notice(l, progress.Warning, "not reproducible: generate_labels gave %q: %s → %s", name, labelText(was), labelText(is))
		}
	}
	return false
}

// labelText quotes a label's value, or the beginning of a long one.
func labelText(value string) string {
	const most = 64
	if len(value) > most {
		return strconv.Quote(value[:most]) + "…"
	}
	return strconv.Quote(value)
}
