package engine

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"

	"golang.org/x/term"

	"github.com/layerbuild/layerbuild/layers"
	"github.com/layerbuild/layerbuild/overlay"
	"github.com/layerbuild/layerbuild/progress"
	"github.com/layerbuild/layerbuild/sandbox"
)

// A Shell is a command that runs in what a failed run of a layer left, instead of
// building the layer.
type Shell struct {
	Layer   string
	Command []string // empty is /bin/sh
}

// keptName is the name that a layer's failed step is kept under: layers of
// different stackerfiles may be named alike.
func keptName(l *layers.Layer) string {
	sum := sha256.Sum256([]byte(l.File.Path))
	return l.Name + "@" + hex.EncodeToString(sum[:4])
}

// keep keeps what a failed step has made of its rootfs, for a Shell.
func (b *Builder) keep(l *layers.Layer, upper *overlay.Mutable) {
	if err := upper.Keep(keptName(l), described(l)); err != nil {
		b.notice(l, progress.Warning, "what the failed run left cannot be kept: %s", err)
		return
	}
	b.notice(l, progress.Notice, "what the failed run left is kept: %s shows it", b.command(l, "shell", l.Name))
}

// dropKept removes what an earlier failure of a layer left, now that it went well.
func (b *Builder) dropKept(l *layers.Layer) {
	if err := b.Snapshots.RemoveKept(keptName(l)); err != nil && !errors.Is(err, overlay.ErrNotFound) {
		b.notice(l, progress.Warning, "%s", err)
	}
}

// shell runs the shell's command in what a failed run of the layer has left, where
// changes stay. It sees what the step sees, its script as well.
func (b *Builder) shell(ctx context.Context, l *layers.Layer) error {
	upper, err := b.Snapshots.Find(ctx, keptName(l))
	if errors.Is(err, overlay.ErrNotFound) {
		err = errors.New("no failed run of it is kept: build it with --keep-failed; " + b.command(l, "chroot", l.Name) + " shows what is built")
	}
	if err != nil {
		return fail(l, l.Pos, err)
	}
	defer upper.Drop()
	base, _, err := b.base(ctx, l)
	if err == nil {
		var step *rootfsStep
		if step, err = b.newRootfsStep(ctx, l, base); err == nil {
			err = b.shellIn(ctx, step, upper)
		}
	}
	return errors.Join(err, upper.Keep(keptName(l), described(l)))
}

func (b *Builder) shellIn(ctx context.Context, s *rootfsStep, upper *overlay.Mutable) error {
	if err := b.ensureAll(ctx, s); err != nil {
		return err
	}
	mirrors, release, err := b.mirrors(ctx, s)
	if err != nil {
		return err
	}
	defer release()
	run, err := b.newRun(ctx, s, script{"run", s.l.Run, s.l.RunPos}, mirrors)
	if err != nil {
		return err
	}
	defer run.close()
	root, err := upper.Mount(ctx, mountpoints(run.points)...)
	if err != nil {
		return err
	}
	run.step.Rootfs = root
	run.step.Args = []string{"/bin/sh"}
	if len(b.Shell.Command) > 0 { // the shell finds it in PATH
		run.step.Args = append(run.step.Args, "-c", `exec "$@"`, "sh")
		run.step.Args = append(run.step.Args, b.Shell.Command...)
	}
	run.step.Stdin, run.step.Stdout, run.step.Stderr = os.Stdin, os.Stdout, os.Stderr
	run.step.Terminal = term.IsTerminal(int(os.Stdin.Fd()))
	err = b.runner.Run(ctx, run.step)
	var exit *sandbox.ExitError
	if errors.As(err, &exit) {
		return &ShellError{exit}
	}
	if err != nil {
		return fmt.Errorf("shell: %w", err)
	}
	return nil
}

// A ShellError says that a Shell's command ended with another status than 0.
type ShellError struct{ Exit *sandbox.ExitError }

func (e *ShellError) Error() string { return "the command ended with " + e.Exit.Error() }
