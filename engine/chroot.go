package engine

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"strings"

	"github.com/opencontainers/go-digest"
	"golang.org/x/term"

	"github.com/layerbuild/layerbuild/layers"
	"github.com/layerbuild/layerbuild/progress"
	"github.com/layerbuild/layerbuild/redact"
	"github.com/layerbuild/layerbuild/sandbox"
)

// Chroot runs a command, or a shell, in a layer as it was last built, with the
// environment, the network, the binds and the imports of its run, but not its secrets
// and caches. What it changes is thrown away. Without a layer's name it is the first of the stackerfile; without a
// stackerfile there are only the layer's files. The error is a *CommandError when
// the command fails.
func Chroot(ctx context.Context, o Options, name string, command []string) (err error) {
	defer func() { err = inside(err) }()
	graph, l, err := o.chrootLayer(name)
	if err != nil {
		return err
	}
	b, err := openMounting(ctx, o, graph)
	if err != nil {
		return err
	}
	defer b.close()
	id, err := b.lastBuilt(ctx, l)
	if err != nil {
		return err
	}
	return b.chroot(ctx, l, id, command)
}

func (o Options) chrootLayer(name string) (*layers.Graph, *layers.Layer, error) {
	graph, err := layers.Load(o.Stackerfile, o.Load)
	if errors.Is(err, fs.ErrNotExist) && name != "" {
		l, err := o.unread(name)
		return &layers.Graph{}, l, err
	}
	if err != nil {
		return nil, nil, err
	}
	main := graph.Files[len(graph.Files)-1]
	if name == "" && len(main.Layers) > 0 {
		name = main.Layers[0].Name
	}
	if graph, err = graph.Only(name); err != nil {
		return nil, nil, err
	}
	return graph, graph.Layer(name), nil
}

// imageEnvironment returns the environment of the image that a layer starts from, of
// which built layers need not be built again.
func (b *Builder) imageEnvironment(ctx context.Context, l *layers.Layer) ([]string, error) {
	if l.From.Type != layers.BaseBuilt {
		base, _, err := b.base(ctx, l)
		if err != nil {
			return nil, err
		}
		return base.environment(), nil
	}
	parent := b.graph.Layer(l.From.Tag)
	env, err := b.imageEnvironment(ctx, parent)
	for name, value := range parent.Environment {
		env = append(env, name+"="+value)
	}
	return env, err
}

func (b *Builder) chroot(ctx context.Context, l *layers.Layer, id digest.Digest, command []string) error {
	var base []string
	if l.BuildEnvFromBase {
		var err error
		if base, err = b.imageEnvironment(ctx, l); err != nil {
			b.notice(l, progress.Warning, "the environment of its base is not there: %s", err)
		}
	}
	s := &rootfsStep{l: l, env: l.BuildEnvironment(b.environ, base)}
	for _, imp := range l.Imports {
		if imp.Dest != "" || l.Run == "" {
			continue // a run does not see it
		}
		if err := b.showImport(ctx, s, imp); err != nil {
			b.notice(l, progress.Warning, "import %s is not there: %s", redact.URL(imp.Source.Raw), err)
		}
	}
	mirrors, release, err := b.mirrors(ctx, s)
	if err != nil {
		return err
	}
	defer release()
	bare := *l
	bare.Secrets, bare.Caches = nil, nil
	s.l = &bare
	run, err := b.newRun(ctx, s, script{"run", l.Run, l.RunPos}, mirrors)
	if err != nil {
		return err
	}
	defer run.close()
	upper, err := b.Snapshots.Prepare(ctx, id)
	if err != nil {
		return err
	}
	defer upper.Drop()
	step := run.step
	if step.Rootfs, err = upper.Mount(ctx, mountpoints(run.points)...); err != nil {
		return err
	}
	step.Args = arguments(command)
	if err := checkForeign(l, "#!"+step.Args[0], step.Rootfs); err != nil {
		return fail(l, l.Pos, err)
	}
	step.Stdin, step.Stdout, step.Stderr = os.Stdin, os.Stdout, os.Stderr
	step.Terminal = term.IsTerminal(int(os.Stdin.Fd()))
	err = b.runner.Run(ctx, step)
	var exit *sandbox.ExitError
	if errors.As(err, &exit) {
		return &CommandError{exit.Status, exit}
	}
	return err
}

// showImport has the step see an import as it is now; one of another layer, as that
// was last built.
func (b *Builder) showImport(ctx context.Context, s *rootfsStep, imp layers.Import) error {
	if from := b.graph.Layer(imp.Source.Layer); from != nil && b.layers[from].chain == nil {
		id, err := b.lastBuilt(ctx, from)
		if err != nil {
			return err
		}
		b.layers[from].chain = &chain{id: id, depth: 1}
	}
	all, err := b.imported(ctx, s, imp)
	if err != nil {
		return err
	}
	s.shown = append(s.shown, all...)
	return nil
}

// A CommandError says that a command in a layer failed.
type CommandError struct {
	Status int // 1 to 255
	err    error
}

func (e *CommandError) Error() string { return fmt.Sprintf("the command failed with %s", e.err) }
func (e *CommandError) Unwrap() error { return e.err }

// arguments are what to run for what was asked for: an absolute path is run as
// it is, one text by a shell, several are looked up by one.
func arguments(command []string) []string {
	const shell = "/bin/sh"
	switch {
	case len(command) == 0:
		return []string{shell}
	case path.IsAbs(command[0]) && !strings.ContainsAny(command[0], " \t\n"):
		return command
	case len(command) == 1:
		return []string{shell, "-c", command[0]}
	}
	return append([]string{shell, "-c", `exec "$@"`, shell}, command...)
}
