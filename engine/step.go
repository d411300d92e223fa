package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/layerbuild/layerbuild/buildcache"
	"github.com/layerbuild/layerbuild/explain"
	"github.com/layerbuild/layerbuild/imports"
	"github.com/layerbuild/layerbuild/layers"
	"github.com/layerbuild/layerbuild/progress"
	"github.com/layerbuild/layerbuild/redact"
)

// compatibility pins whatever decides the content of snapshots: what a step
// finds around it, the clamping of times, the form of tars. It changes when a
// release makes other DiffIDs of the same inputs, and only then.
const compatibility = "2"

// A rootfsStep is what makes a layer's rootfs from its base: its overlay dirs,
// its imports and its run, with all that they read.
type rootfsStep struct {
	l        *layers.Layer
	base     *base
	epoch    time.Time
	copied   []imported // imports with a dest: they are put into the image
	shown    []imported // imports that the run sees below /stacker
	overlays []overlaid
	binds    []bound // those that are tracked
	env      []layers.EnvVar

	inputs    buildcache.Inputs
	unknown   []unknown // what is not known of them
	untracked []string  // binds that nobody watches: what sees them is never found in the cache

	remaking sync.Mutex // held while a lost result is made again
	lost     bool       // since it was damaged

	by   map[string]*layers.Layer // inputs that other layers make
	said map[string]explain.Said  // what the stackerfile says of inputs
}

type imported struct {
	layers.Import
	source *source
	tree   imports.Tree
}

type overlaid struct {
	layers.OverlayDir
	source *source
	tree   imports.Tree
}

type bound struct {
	layers.Bind
	source *source
	tree   imports.Tree
}

// A rootfs is the result of a rootfs step: the layers it added to its base.
type rootfs buildcache.RootfsResult

// newRootfsStep measures all that the step reads. What cannot change the result
// is left out: without a run nobody sees the environment, the layer's name, or
// imports that are not copied into the image.
func (b *Builder) newRootfsStep(ctx context.Context, l *layers.Layer, base *base) (*rootfsStep, error) {
	s := &rootfsStep{l: l, base: base, epoch: b.Clock.clamp(base), by: map[string]*layers.Layer{}, said: map[string]explain.Said{}}
	switch {
	case l.From.Type == layers.BaseBuilt:
		s.by["base"] = b.graph.Layer(l.From.Tag)
		s.said["base"] = explain.Said{}
	case l.From.Source.Scheme == layers.SchemeStacker:
		s.by["base"] = b.graph.Layer(l.From.Source.Layer)
	}
	in := &s.inputs
	in.Add(buildcache.Format, "compatibility", compatibility)
	in.Add(buildcache.BaseChange, "base", string(base.chain.ID()))
	in.Add(buildcache.Epoch, "epoch", epochText(s.epoch))
	if err := b.addOverlays(ctx, s); err != nil {
		return nil, err
	}
	if err := b.addImports(ctx, s); err != nil {
		return nil, err
	}
	if l.Run == "" && l.GenerateLabels == "" {
		return s, nil
	}
	s.env = b.environment(s)
	if err := b.measureBinds(ctx, s); err != nil {
		return nil, err
	}
	if l.Run == "" {
		return s, nil
	}
	in.Add(buildcache.Definition, "run", l.Run)
	if l.BuildUser != "" {
		in.Add(buildcache.Definition, "user", l.BuildUser)
	}
	return s, b.addSurroundings(in, s)
}

// environment returns what the scripts of a step see, with the time that files are clamped
// to, which is an input already. The caller's is one of its own where it is passed on.
func (b *Builder) environment(s *rootfsStep) []layers.EnvVar {
	env := s.l.BuildEnvironment(b.environ, s.base.environment())
	given := slices.ContainsFunc(env, func(v layers.EnvVar) bool { return v.Name == epochVariable }) ||
		slices.ContainsFunc(s.l.Secrets, func(s layers.Secret) bool { return s.Env == epochVariable })
	epoch := s.epoch
	if b.Clock.Seen {
		epoch = b.Clock.created(epoch)
	}
	if given || epoch.IsZero() {
		return env
	}
	return append(env, layers.EnvVar{Name: epochVariable, Value: strconv.FormatInt(epoch.Unix(), 10), Keyed: !epoch.Equal(s.epoch)})
}

// addSurroundings adds what any script of a layer sees besides its rootfs and the imports:
// its environment, and what is mounted. Imports, the script itself and the user are a run's.
func (b *Builder) addSurroundings(in *buildcache.Inputs, s *rootfsStep) error {
	in.Add(buildcache.Platform, "platform", s.l.OS+"/"+s.l.Arch)
	in.Add(buildcache.Definition, "network", s.l.Network)
	for _, v := range s.env {
		if v.Keyed {
			in.Add(buildcache.Env, "env "+v.Name, v.Value)
			s.said["env "+v.Name] = explain.Said{Directive: s.l.Lets(v.Name)}
		}
	}
	for _, bind := range s.binds {
		name := "bind " + bind.Dest
		s.said[name] = explain.Said{Source: bind.Raw}
		in.Add(buildcache.Bind, name, string(bind.tree.Digest))
	}
	return b.addMounts(in, s.l)
}

// notes notes why something that the step reads is not known, unless it is.
func (s *rootfsStep) notes(why unknown) {
	if why != "" && !slices.Contains(s.unknown, why) {
		s.unknown = append(s.unknown, why)
	}
}

// reads measures something that the step reads, and notes what is not known of it.
func (b *Builder) reads(ctx context.Context, s *rootfsStep, from layers.Source, hash string, at imports.Source) (*source, imports.Tree, error) {
	source, why, err := b.source(ctx, s.l, from, hash, at)
	var m measure
	if err == nil && why == "" {
		m, why, err = source.measure(ctx)
	}
	s.notes(why)
	return source, m.Tree, err
}

func (b *Builder) addOverlays(ctx context.Context, s *rootfsStep) error {
	for i, dir := range s.l.OverlayDirs {
		from := layers.Source{Raw: dir.Raw, Path: dir.Source, Content: true}
		source, tree, err := b.reads(ctx, s, from, "", imports.Source{Normalize: s.l.File.Normalize, IgnoreFiles: true})
		if err == nil && !tree.Dir {
			err = fmt.Errorf("overlay dir %s is not a folder: use `imports` with `dest` for a file", dir.Raw)
		}
		if err != nil {
			return b.failAt(ctx, s.l, dir.Pos, err)
		}
		s.overlays = append(s.overlays, overlaid{dir, source, tree})
		name := fmt.Sprintf("overlay %d %s", i, dir.Dest)
		s.said[name] = explain.Said{Source: dir.Raw, Normalized: s.l.File.Normalize != ""}
		s.inputs.Add(buildcache.Overlay, name, string(tree.Digest))
	}
	return nil
}

func (b *Builder) addImports(ctx context.Context, s *rootfsStep) error {
	for i, imp := range s.l.Imports {
		all, err := b.imported(ctx, s, imp)
		if err != nil {
			return b.failAt(ctx, s.l, imp.Pos, err)
		}
		for _, in := range all {
			b.addImport(s, i, in)
		}
	}
	return nil
}

// imported measures what an import is.
func (b *Builder) imported(ctx context.Context, s *rootfsStep, imp layers.Import) ([]imported, error) {
	switch {
	case imp.Text != nil || imp.Make:
		return []imported{{Import: imp}}, nil
	case imp.Copy != nil:
		return b.selected(ctx, s, imp)
	}
	source, tree, err := b.reads(ctx, s, imp.Source, imp.Hash, importedSource(imp))
	if err == nil && len(s.unknown) == 0 && len(imp.Ignore) > 0 && !tree.Dir {
		err = errors.New("it is a file: `ignore` is for folders")
	}
	return []imported{{imp, source, tree}}, err
}

// addImport adds what was measured of the i-th import.
func (b *Builder) addImport(s *rootfsStep, i int, in imported) {
	for _, path := range in.tree.Skipped {
		b.notice(s.l, progress.Warning, "import %q: %q is a socket and is left out", in.Source.Raw, path)
	}
	var name string
	switch {
	case in.Dest != "":
		s.copied = append(s.copied, in)
		name = fmt.Sprintf("copy %d %s", len(s.copied), in.Dest)
		s.inputs.Add(buildcache.Import, name, copyText(in.Import, in.tree))
	case s.l.Run != "":
		if name = in.place(i); s.said[name] != (explain.Said{}) {
			return // one source, imported twice
		}
		s.shown = append(s.shown, in)
		s.inputs.Add(buildcache.Import, name, string(in.tree.Digest))
	}
	s.said[name] = explain.Said{Source: redact.URL(in.Source.Raw), Normalized: in.Normalize != ""}
	if in.Source.Scheme == layers.SchemeStacker {
		s.by[name] = b.graph.Layer(in.Source.Layer)
	}
}

// place names where a run sees the i-th import.
func (in imported) place(i int) string {
	switch {
	case in.Mount != "":
		return "import at " + in.Mount
	case in.Name == "":
		return fmt.Sprintf("import %d's content in %s", i+1, in.Folder())
	}
	return "import " + in.Folder() + "/" + in.Name
}

// importedSource says how an import is read. Only a folder of this machine has
// files that say what of it is ignored: what another layer made is content.
func importedSource(imp layers.Import) imports.Source {
	return imports.Source{Normalize: imp.Normalize, Ignore: imp.Ignore, IgnoreFiles: imp.Source.Scheme == layers.SchemeLocal}
}

// copyText spells out what is copied into the image, and how. Copies are
// numbered, since a later one replaces what an earlier one put in its place.
func copyText(imp layers.Import, tree imports.Tree) string {
	if imp.Copy == nil { // what no one owns is root's, spelled out or not
		imp.UID, imp.GID = unlessRoot(imp.UID), unlessRoot(imp.GID)
	}
	text, _ := json.Marshal(struct {
		Tree     digest.Digest
		Name     string
		Content  bool
		Mode     *fs.FileMode
		UID, GID *int

		Copy, Make bool    `json:",omitempty"`
		Text       *string `json:",omitempty"`
		Owner      string  `json:",omitempty"`
	}{tree.Digest, imp.Name, imp.Source.Content, imp.Mode, imp.UID, imp.GID, imp.Copy != nil, imp.Make, imp.Text, imp.Owner})
	return string(text)
}

// unlessRoot returns nil for root's id.
func unlessRoot(id *int) *int {
	if id != nil && *id == 0 {
		return nil
	}
	return id
}

// measureBinds measures the binds that are tracked, and notes the others.
func (b *Builder) measureBinds(ctx context.Context, s *rootfsStep) error {
	for _, bind := range s.l.Binds {
		if !bind.Track {
			if !slices.Contains(s.untracked, bind.Raw) { // it may be bound at several places
				s.untracked = append(s.untracked, bind.Raw)
			}
			continue
		}
		source, tree, err := b.reads(ctx, s, layers.Source{Raw: bind.Source, Path: bind.Source}, "", imports.Source{})
		if err != nil {
			return b.failAt(ctx, s.l, bind.Pos, err)
		}
		s.binds = append(s.binds, bound{bind, source, tree})
	}
	return nil
}

// runUntracked are the untracked binds that a run sees.
func (s *rootfsStep) runUntracked() []string {
	if s.l.Run == "" {
		return nil
	}
	return s.untracked
}

// failAt makes an error about a place in the stackerfile, unless the build was
// stopped for another reason.
func (b *Builder) failAt(ctx context.Context, l *layers.Layer, pos layers.Position, err error) error {
	if err == nil || ctx.Err() != nil {
		return err
	}
	err = b.before.explain(err)
	return placedError{fail(l, pos, err), err}
}

// A placedError is an error about a place in the stackerfile that says what was met
// there, too: damage, or a change.
type placedError struct {
	error
	cause error
}

func (e placedError) Unwrap() []error { return []error{e.error, e.cause} }
