package engine

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/layerbuild/layerbuild/buildcache"
	"github.com/layerbuild/layerbuild/imports"
	"github.com/layerbuild/layerbuild/layers"
	"github.com/layerbuild/layerbuild/namespace"
	"github.com/layerbuild/layerbuild/progress"
	"github.com/layerbuild/layerbuild/redact"
)

// A source is a file or folder that a layer reads: on this machine, downloaded,
// or in another layer.
type source struct {
	b     *Builder
	l     *layers.Layer
	from  layers.Source
	at    imports.Source // Path is "" when it is in another layer
	chain *chain         // the other layer's rootfs
}

// A measure is what a source holds.
type measure struct {
	Tree imports.Tree  `json:"tree"`
	File digest.Digest `json:"file,omitempty"` // sha256 of the content, when the source is a file
}

// source finds a source, and downloads it if it is behind a URL. Its hash, if
// one is demanded, is checked. How it is read, but where it is, is in at.
func (b *Builder) source(ctx context.Context, l *layers.Layer, from layers.Source, hash string, at imports.Source) (*source, unknown, error) {
	at.Content = from.Content
	s := &source{b: b, l: l, from: from, at: at}
	switch from.Scheme {
	case layers.SchemeLocal:
		s.at.Path = from.Path
	case layers.SchemeHTTP, layers.SchemeHTTPS:
		download, why, err := b.downloads.fetch(ctx, l, from.Raw, hash)
		if err != nil || why != "" {
			return nil, why, err
		}
		// It lies in the state folder, where nothing else may be imported from.
		s.at.Root, s.at.Path = "/", download.Path
		b.use(download.Digest.Encoded())
		return s, "", nil
	case layers.SchemeStacker:
		s.chain = b.layers[b.graph.Layer(from.Layer)].chain
	default:
		return nil, "", fmt.Errorf("unknown scheme %q", from.Scheme)
	}
	if hash != "" {
		why, err := s.check(ctx, hash)
		return s, why, err
	}
	return s, "", nil
}

// lingering tells of work on the source that takes some time.
func (s *source) lingering(doing string) (done func()) {
	return s.b.lingering(s.l.Name, doing+" "+redact.URL(s.from.Raw))
}

// check compares the source with the hash that the stackerfile demands.
func (s *source) check(ctx context.Context, hash string) (unknown, error) {
	sum, why, err := s.digest(ctx)
	if err != nil || why != "" {
		return why, err
	}
	if sum.Encoded() != hash {
		return "", fmt.Errorf("the hash %s of %s is different than the actual hash %s: correct the stackerfile if the file is the right one", hash, redact.URL(s.from.Raw), sum.Encoded())
	}
	return "", nil
}

// measure digests the source.
func (s *source) measure(ctx context.Context) (m measure, why unknown, err error) {
	step := s.digestStep()
	if s.at.Path != "" {
		step = s.readStep()
	}
	m, came, err := remember(ctx, s.b, s.l, step)
	if err != nil {
		return m, "", err
	}
	if !came.Known() {
		return m, s.unread(), nil
	}
	s.b.use(m.Tree.Digest.Encoded())
	return m, "", nil
}

// readStep digests what is on this machine. The stat index remembers it.
func (s *source) readStep() *buildcache.Step[measure] {
	var in buildcache.Inputs
	in.Add(buildcache.Import, "source", fmt.Sprintf("%+v", s.at))
	digest := func(ctx context.Context, reread bool) (m measure, err error) {
		release, err := s.b.limits.cores.acquire(ctx, 0)
		if err != nil {
			return m, err
		}
		defer release()
		defer s.lingering("digesting")()
		at := s.at
		at.Reread = reread
		m.Tree, err = s.b.Sources.Digest(ctx, at)
		return m, err
	}
	return &buildcache.Step[measure]{
		Task:    buildcache.Task{Kind: buildcache.Digest, Inputs: in, Origin: origin(s.l), Light: true},
		Memory:  &buildcache.Memory[measure]{Recall: func(ctx context.Context) (measure, error) { return digest(ctx, false) }},
		Do:      func(ctx context.Context) (measure, error) { return digest(ctx, true) },
		Compare: s.compare,
	}
}

// digestStep digests a path in another layer. It is remembered under that layer's
// ChainID, so that nothing needs to be mounted to know it.
func (s *source) digestStep() *buildcache.Step[measure] {
	var in buildcache.Inputs
	in.Add(buildcache.BaseChange, "chain", string(s.chain.ID()))
	in.Add(buildcache.Definition, "path", s.from.Path)
	in.Add(buildcache.Definition, "content", strconv.FormatBool(s.at.Content))
	in.Add(buildcache.Definition, "normalize", s.at.Normalize)
	if len(s.at.Ignore) > 0 {
		in.Add(buildcache.Definition, "ignore", strings.Join(s.at.Ignore, "\n"))
	}
	if s.at.Owners || len(s.at.Filters) > 0 {
		in.Add(buildcache.Definition, "picked", fmt.Sprintf("%t %q", s.at.Owners, s.at.Filters))
	}
	step := inLayer(s, in, s.digestAt)
	step.Compare = s.compare
	return step
}

// inLayer is a step that reads a source in another layer, where that is mounted.
func inLayer[R any](s *source, in buildcache.Inputs, read func(context.Context, imports.Source) (R, error)) *buildcache.Step[R] {
	return &buildcache.Step[R]{
		Task:    buildcache.Task{Kind: buildcache.Digest, Inputs: in, Origin: origin(s.l), Doing: "has been digesting the same path"},
		Here:    s.here,
		Prepare: s.prepare,
		Slot:    func(ctx context.Context) (func(), error) { return s.b.limits.cores.acquire(ctx, 0) },
		Do: func(ctx context.Context) (result R, err error) {
			at, release, err := s.open(ctx)
			if err != nil {
				return result, err
			}
			defer release()
			defer s.lingering("digesting")()
			return read(ctx, at)
		},
	}
}

// unread says why a source in another layer is not known.
func (s *source) unread() unknown {
	return unknown(fmt.Sprintf("layer %q must be unpacked to read %s", s.from.Layer, s.from.Path))
}

func (s *source) digestAt(ctx context.Context, at imports.Source) (m measure, err error) {
	if m.Tree, err = s.b.Sources.Digest(ctx, at); err != nil {
		return m, s.missing(err)
	}
	if !m.Tree.Dir {
		m.File, err = s.b.Sources.FileDigest(ctx, at)
	}
	return m, err
}

// compare reports whether the source has the digest that is remembered.
func (s *source) compare(_ context.Context, before, again measure) (bool, error) {
	if before.Tree.Digest == again.Tree.Digest {
		return true, nil
	}
	cure := ""
	if s.at.Path != "" {
		cure = ": what stat tells of it did not change with it, --no-stat-index reads every file"
	}
	s.b.notice(s.l, progress.Warning, "%s is not what it was digested as: %s, now %s%s", redact.URL(s.from.Raw), before.Tree.Digest, again.Tree.Digest, cure)
	return false, nil
}

// digest returns the sha256 of a source that must be a file.
func (s *source) digest(ctx context.Context) (digest.Digest, unknown, error) {
	if s.at.Path != "" {
		defer s.lingering("digesting")()
		sum, err := s.b.Sources.FileDigest(ctx, s.at)
		return sum, "", err
	}
	m, why, err := s.measure(ctx)
	if err == nil && why == "" && m.Tree.Dir {
		err = fmt.Errorf("%s is a folder: only a file can have a hash", s.from.Raw)
	}
	return m.File, why, err
}

// missing says in the stackerfile's words that another layer lacks a path.
func (s *source) missing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("layer %q has no %s", s.from.Layer, s.from.Path)
	}
	return err
}

// here reports whether the source can be read without unpacking anything, or starting
// the program anew.
func (s *source) here(ctx context.Context) bool { return s.chain == nil || s.b.readable(ctx, s.chain) }

// readable reports whether a plan can read a rootfs: its snapshots are here, and may be
// mounted by this process as it is.
func (b *Builder) readable(ctx context.Context, c *chain) bool {
	if _, err := b.Cache.Resolution(b.mountQuestion()); err != nil || !namespace.Stays() {
		return false
	}
	for ; c != nil; c = c.below {
		snap, err := b.Snapshots.Get(c.id)
		if !b.has(ctx, c) || err != nil || !b.Snapshots.Proven(snap) {
			return false
		}
	}
	return true
}

// prepare unpacks what holds the source.
func (s *source) prepare(ctx context.Context) error { return s.b.ensure(ctx, s.l, s.chain) }

// open makes the source readable until it is released. It was prepared.
func (s *source) open(ctx context.Context) (at imports.Source, release func(), err error) {
	if s.at.Path != "" {
		return s.at, func() {}, nil
	}
	view, err := s.b.Snapshots.View(ctx, s.chain.ID())
	if err != nil {
		return at, nil, snapshotDamage(err)
	}
	at = s.at
	at.Root, at.Path = view.Root, s.from.Path
	return at, func() { _ = view.Release() }, nil
}

// mirror returns an immutable copy of the source that holds exactly what was
// measured: root's, read-only, and the same for every reader.
func (s *source) mirror(ctx context.Context, tree imports.Tree) (*imports.Mirror, error) {
	at, release, err := s.open(ctx)
	if err != nil {
		return nil, err
	}
	defer release()
	defer s.lingering("copying")()
	var mirror *imports.Mirror
	return mirror, s.withManifest(ctx, at, tree, func() (err error) {
		mirror, err = s.b.Sources.Mirror(ctx, at, tree)
		return err
	})
}

// copy copies the source into a rootfs, if it holds exactly what was measured.
func (s *source) copy(ctx context.Context, tree imports.Tree, root, dest string, o imports.CopyOptions) error {
	at, release, err := s.open(ctx)
	if err != nil {
		return err
	}
	defer release()
	defer s.lingering("copying")()
	return s.withManifest(ctx, at, tree, func() error { return s.b.Sources.Copy(ctx, at, tree, root, dest, o) })
}
