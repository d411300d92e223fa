package engine

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/docker/go-units"
	"github.com/opencontainers/go-digest"
	"golang.org/x/term"

	"github.com/layerbuild/layerbuild/buildcache"
	"github.com/layerbuild/layerbuild/caches"
	"github.com/layerbuild/layerbuild/imports"
	"github.com/layerbuild/layerbuild/layers"
	"github.com/layerbuild/layerbuild/oci"
	"github.com/layerbuild/layerbuild/overlay"
	"github.com/layerbuild/layerbuild/progress"
	"github.com/layerbuild/layerbuild/sandbox"
)

// makeRootfs does a rootfs step: each overlay dir becomes a layer on the base,
// and what the imports and the run change becomes one more.
func (b *Builder) makeRootfs(ctx context.Context, s *rootfsStep) (rootfs, error) {
	var fs rootfs
	c := s.base.chain
	add := func(by string, points []sandbox.Mountpoint, change func(root string) error) error {
		layer, empty, err := b.addLayer(ctx, s, c, points, change)
		if err == nil && !empty {
			c = c.with(layer)
			b.Cache.Exhume(buildcache.BurySnapshot, c.id.Encoded())
			fs.Layers = append(fs.Layers, buildcache.AddedLayer{DiffID: layer.DiffID, By: by})
		}
		return err
	}
	for _, dir := range s.overlays {
		err := add("overlay_dirs "+dir.Dest, nil, func(root string) error { return b.layOver(ctx, s, dir, root) })
		if err != nil {
			return fs, b.failAt(ctx, s.l, dir.Pos, err)
		}
	}
	if s.l.Run == "" {
		if len(s.copied) == 0 {
			return fs, nil
		}
		return fs, add("imports", nil, func(root string) error { return b.copyImports(ctx, s, root) })
	}
	mirrors, release, err := b.mirrors(ctx, s)
	if err != nil {
		return fs, err
	}
	defer release()
	run, err := b.newRun(ctx, s, script{"run", s.l.Run, s.l.RunPos}, mirrors)
	if err != nil {
		return fs, err
	}
	defer run.close()
	return fs, add("run", run.points, func(root string) error {
		if err := b.copyImports(ctx, s, root); err != nil {
			return err
		}
		return run.in(ctx, root)
	})
}

// addLayer makes a layer of what change does to the rootfs of a chain. The layer
// is empty, and not there, if nothing changed.
func (b *Builder) addLayer(ctx context.Context, s *rootfsStep, c *chain, points []sandbox.Mountpoint, change func(root string) error) (layer oci.Layer, empty bool, err error) {
	upper, err := b.Snapshots.Prepare(ctx, c.ID())
	if err != nil {
		return layer, false, snapshotDamage(err)
	}
	defer upper.Drop()
	root, err := upper.Mount(ctx, mountpoints(points)...)
	if err != nil {
		return layer, false, err
	}
	if err := change(root); err != nil {
		if b.KeepFailed && ctx.Err() == nil {
			b.keep(s.l, upper)
		}
		return layer, false, err
	}
	if err := upper.Unmount(); err != nil {
		return layer, false, err
	}
	diff, err := upper.Normalize(ctx, s.epoch)
	for _, path := range diff.Sockets {
		b.notice(s.l, progress.Warning, "%q is a socket and is left out", path)
	}
	if err != nil || diff.Empty {
		return layer, diff.Empty, err
	}
	layer.DiffID, err = b.commit(ctx, s, upper)
	return layer, false, err
}

// commit packs an upper folder and makes a snapshot of it. The blob is written
// before the snapshot, and the record of it after: what refers to something
// comes after it. When others build on the layer they do not wait for its blob:
// only its DiffID is found out, and the snapshot is packed while they go on. To
// verify, packing is a step of its own.
func (b *Builder) commit(ctx context.Context, s *rootfsStep, upper *overlay.Mutable) (digest.Digest, error) {
	release, err := b.limits.cores.acquire(ctx, b.worth()[s.l])
	if err != nil {
		return "", err
	}
	defer release()
	start := time.Now()
	discard := s.l.BuildOnly || b.needed[s.l] || named(b.Verify, s.l.Name)
	packed, err := b.packFolder(ctx, s, upper.Upper(), discard)
	if err != nil {
		return "", err
	}
	snap, err := upper.Commit(ctx, packed.DiffID, b.label(s.l, nil))
	if err != nil {
		return "", err
	}
	if err := b.Snapshots.Hold(ctx, snap.ID); err != nil {
		return "", err
	}
	if !discard {
		err = b.keepPacked(ctx, s.l, packed.Layer, time.Since(start))
	}
	return packed.DiffID, err
}

// layOver copies the content of an overlay dir over the rootfs.
func (b *Builder) layOver(ctx context.Context, s *rootfsStep, dir overlaid, root string) error {
	return dir.source.copy(ctx, dir.tree, root, dir.Dest, imports.CopyOptions{Epoch: mtime(s.epoch)})
}

// mtime is the time of what is copied into a rootfs.
func mtime(epoch time.Time) time.Time {
	if epoch.IsZero() {
		return time.Now()
	}
	return epoch
}

// mirrors makes an immutable copy of each import that the run sees. They stay
// until they are released.
func (b *Builder) mirrors(ctx context.Context, s *rootfsStep) (mirrors []*imports.Mirror, release func(), err error) {
	release = func() {
		for _, mirror := range mirrors {
			_ = mirror.Release()
		}
	}
	for _, imp := range s.shown {
		mirror, err := imp.source.mirror(ctx, imp.tree)
		if err != nil {
			release()
			return nil, nil, b.failAt(ctx, s.l, imp.Pos, err)
		}
		mirrors = append(mirrors, mirror)
	}
	return mirrors, release, nil
}

// copyImports copies those imports into the rootfs that have a dest.
func (b *Builder) copyImports(ctx context.Context, s *rootfsStep, root string) error {
	for _, imp := range s.copied {
		o := imports.CopyOptions{Name: imp.Name, Mode: imp.Mode, UID: imp.UID, GID: imp.GID, Epoch: mtime(s.epoch)}
		if err := b.put(ctx, imp, root, o); err != nil {
			return b.failAt(ctx, s.l, imp.Pos, privileged(err, ""))
		}
	}
	return nil
}

// A script is what a directive of a layer has run.
type script struct {
	directive string
	text      string
	pos       layers.Position
}

// A stepRun is one script, ready to run in a rootfs.
type stepRun struct {
	b      *Builder
	l      *layers.Layer
	script script
	dir    string // what is seen at /stacker
	step   sandbox.Step
	points []sandbox.Mountpoint // what must be there to mount on
	out    *lines
	caches []*caches.Cache

	mirrors []*imports.Mirror // of binds
}

// newRun prepares a script to run with the layer's environment, binds, secrets and
// caches, which it waits for. It sees the mirrors of the layer's imports, or none if
// there are none.
func (b *Builder) newRun(ctx context.Context, s *rootfsStep, script script, mirrors []*imports.Mirror) (*stepRun, error) {
	dir, err := os.MkdirTemp(filepath.Join(b.StateDir, "tmp"), "step-")
	if err != nil {
		return nil, err
	}
	r := &stepRun{b: b, l: s.l, script: script, dir: dir}
	if err := r.prepare(ctx, s, mirrors); err != nil {
		r.close()
		return nil, err
	}
	return r, nil
}

func (r *stepRun) prepare(ctx context.Context, s *rootfsStep, mirrors []*imports.Mirror) error {
	place := stackerFolder{dir: r.dir, labels: r.script.directive == "generate_labels"}
	if err := place.fill(r.script.text, s.shown[:len(mirrors)], mirrors); err != nil {
		return err
	}
	mounts := place.mounts
	bound, err := r.bind(ctx, s)
	if err != nil {
		return err
	}
	mounts = append(mounts, bound...)
	cached, err := r.takeCaches(ctx)
	if err != nil {
		return err
	}
	r.step = sandbox.Step{
		Args:    []string{stackerDir + "/" + scriptName},
		Env:     environment(s.env),
		Network: s.l.Network,
		Limits:  r.b.Limits,
		Mounts:  append(mounts, cached...),
		Tmpfs:   s.l.Tmpfs,
	}
	hidden, err := r.b.addSecrets(&r.step, s.l)
	if err != nil {
		return err
	}
	r.out = &lines{hidden: hidden, emit: func(text string) {
		r.b.report(progress.Event{Kind: progress.Output, Layer: s.l.Name, Text: text})
	}}
	r.step.Stdout, r.step.Stderr = r.out, r.out
	r.points, err = r.step.Mountpoints()
	return err
}

// bind returns the layer's binds as mounts. Those that were measured are mirrored, as imports
// are: what is mounted is what was measured, whoever edits it meanwhile.
func (r *stepRun) bind(ctx context.Context, s *rootfsStep) (mounts []sandbox.Mount, err error) {
	for _, b := range s.l.Binds {
		source := b.Source
		if i := slices.IndexFunc(s.binds, func(measured bound) bool { return measured.Dest == b.Dest }); i >= 0 {
			mirror, err := s.binds[i].source.mirror(ctx, s.binds[i].tree)
			if err != nil {
				return nil, r.b.failAt(ctx, s.l, b.Pos, err)
			}
			r.mirrors, source = append(r.mirrors, mirror), mirror.Path
		} else if _, err := os.Stat(source); err != nil {
			return nil, fail(s.l, b.Pos, fmt.Errorf("bind: %w", err))
		}
		mounts = append(mounts, sandbox.Mount{Source: source, Dest: b.Dest, ReadOnly: b.Track})
	}
	return mounts, nil
}

func (r *stepRun) close() {
	for _, mirror := range r.mirrors {
		_ = mirror.Release()
	}
	for _, c := range r.caches {
		c.Release()
	}
	_ = os.RemoveAll(r.dir)
}

// in runs the script in a rootfs.
func (r *stepRun) in(ctx context.Context, root string) error {
	if err := checkForeign(r.l, r.script.text, root); err != nil {
		return fail(r.l, r.script.pos, err)
	}
	r.step.Rootfs = root
	if err := r.become(root); err != nil {
		return r.b.failAt(ctx, r.l, r.script.pos, err)
	}
	done := r.b.doing(r.l, "running")
	limited, end := r.limited(ctx)
	err := r.b.runner.Run(limited, r.step)
	end()
	r.out.flush()
	done()
	var exit *sandbox.ExitError
	if errors.As(err, &exit) {
		return r.failed(ctx, exit)
	}
	return r.b.failAt(ctx, r.l, r.script.pos, err)
}

// become has a run be the layer's build_user, whose home is HOME unless a variable
// says otherwise.
func (r *stepRun) become(root string) error {
	if r.l.BuildUser == "" || r.script.directive != "run" {
		return nil
	}
	u, err := userIn(root, r.l.BuildUser)
	if err != nil {
		return err
	}
	r.step.User = sandbox.User{UID: uint32(u.Uid), GID: uint32(u.Gid)}
	for _, group := range u.Sgids {
		r.step.User.Groups = append(r.step.User.Groups, uint32(group))
	}
	if !slices.ContainsFunc(r.step.Env, func(v string) bool { return strings.HasPrefix(v, "HOME=") }) {
		r.step.Env = append(r.step.Env, "HOME="+u.Home)
	}
	return nil
}

// limited is a context for a script, with the time that it may take.
func (r *stepRun) limited(ctx context.Context) (context.Context, context.CancelFunc) {
	if r.b.Timeout == 0 {
		return ctx, func() {}
	}
	return context.WithTimeoutCause(ctx, r.b.Timeout, fmt.Errorf("%s was ended after %s, its --timeout", r.script.directive, r.b.Timeout))
}

// failed makes the error of a failed run, after giving its user a look around
// if that was asked for.
func (r *stepRun) failed(ctx context.Context, exit *sandbox.ExitError) error {
	advice := "nothing of it is kept; --keep-failed keeps it, --shell-fail opens a shell where it failed"
	if r.b.KeepFailed {
		advice = r.b.command(r.l, "shell", r.l.Name) + " shows what it left"
	}
	if command := r.b.OnRunFailure; command != "" {
		if !r.b.KeepFailed {
			advice = "nothing of it is kept"
		}
		step := r.step
		step.Args = []string{"/bin/sh", "-c", command}
		step.Stdin, step.Stdout, step.Stderr = os.Stdin, os.Stdout, os.Stderr
		step.Terminal = term.IsTerminal(int(os.Stdin.Fd()))
		r.b.report(progress.Event{Kind: progress.Paused})
		err := r.b.runner.Run(ctx, step)
		r.b.report(progress.Event{Kind: progress.Resumed})
		if err != nil {
			r.b.notice(r.l, progress.Warning, "--on-run-failure %q: %s", command, err)
		}
	}
	memory := ""
	if exit.OutOfMemory {
		memory = "it needs more than the " + units.HumanSize(float64(r.b.Limits.Memory)) + " of --memory"
	}
	for _, lack := range []string{r.b.short(), fewOwners(), memory} {
		if lack != "" {
			advice = lack + "; " + advice
		}
	}
	if last := r.out.last(); last != "" {
		advice += "; its last lines were:\n" + last
	}
	return fail(r.l, r.script.pos, fmt.Errorf("%s failed with %w: %s", r.script.directive, exit, advice))
}

func mountpoints(points []sandbox.Mountpoint) []overlay.Mountpoint {
	out := make([]overlay.Mountpoint, len(points))
	for i, point := range points {
		out[i] = overlay.Mountpoint{Path: point.Path, File: !point.Dir}
	}
	return out
}

// environment is what a step is given: NAME=VALUE each.
func environment(vars []layers.EnvVar) []string {
	env := make([]string, len(vars))
	for i, v := range vars {
		env[i] = v.Name + "=" + v.Value
	}
	return env
}

// lines cuts what a step writes into lines without its secrets, and keeps the last
// ones.
type lines struct {
	emit   func(string)
	hidden *mask
	part   []byte
	kept   []string
}

// Bounds of what is kept of a step's output, in lines and bytes.
const (
	keptLines = 10
	maxLine   = 64 << 10
)

func (w *lines) Write(p []byte) (int, error) {
	n := len(p)
	for len(p) > 0 {
		end := bytes.IndexByte(p, '\n')
		if end < 0 {
			w.part = append(w.part, p...)
			break
		}
		w.part = append(w.part, p[:end]...)
		w.line()
		p = p[end+1:]
	}
	if len(w.part) > maxLine+w.hidden.longest {
		w.cut()
	}
	return n, nil
}

// cut makes a line of the beginning of one that is too long, but of nothing that may
// be the beginning of a secret.
func (w *lines) cut() {
	text := w.hidden.hide(string(w.part))
	rest := text[max(0, len(text)-w.hidden.longest):]
	w.part = []byte(strings.TrimSuffix(text, rest))
	w.line()
	w.part = []byte(rest)
}

func (w *lines) line() {
	text := w.hidden.hide(strings.TrimSuffix(string(w.part), "\r"))
	w.part = w.part[:0]
	w.emit(text)
	if len(w.kept) == keptLines {
		w.kept = w.kept[1:]
	}
	w.kept = append(w.kept, progress.PlainText(text))
}

func (w *lines) flush() {
	if len(w.part) > 0 {
		w.line()
	}
}

func (w *lines) last() string {
	var out strings.Builder
	for i, text := range w.kept {
		if i > 0 {
			out.WriteByte('\n')
		}
		fmt.Fprintf(&out, "  %s", text)
	}
	return out.String()
}
