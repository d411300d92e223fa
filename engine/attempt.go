package engine

import (
	"context"
	"errors"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/layerbuild/layerbuild/layers"
	"github.com/layerbuild/layerbuild/namespace"
)

// attempt is one Build, as far as this process may do it: left reports whether something
// is left for one that has entered a mount namespace.
func attempt(ctx context.Context, o Options, graph *layers.Graph) (left bool, err error) {
	before := roomOf(o.StateDir)
	ctx = reportWaiting(ctx, o.Sink.Report) // at once, whatever is held back
	b, err := open(ctx, o, graph)
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		return false, before.explain(err)
	}
	if err != nil {
		return false, err // of a folder that cannot be a state folder: that says it all
	}
	defer b.close()
	defer func() { err = b.before.explain(err) }()
	if err := b.checkFiles(); err != nil {
		return false, err
	}
	b.tellMoved()
	switch {
	case o.Plan:
		return false, b.build(ctx)
	case b.mayMount: // there is something to make
		if err := b.ready(); err != nil {
			return false, err
		}
	case namespace.Stays():
		b.mayMount = b.knowsMachine()
	}
	if !b.mayMount {
		return b.buildQuietly(ctx)
	}
	end := b.begin()
	err = b.build(reportWaiting(ctx, b.report))
	end(err)
	return false, err
}

// A look is a build by a process that may not mount. It ends where something is not in
// the cache. The methods of a nil one do nothing.
type look struct {
	left atomic.Bool // something is to be done
	stop context.CancelFunc
}

func (k *look) end() {
	if k != nil {
		k.left.Store(true)
		k.stop()
	}
}

func (k *look) over() bool { return k != nil && k.left.Load() }

// buildQuietly builds what is found in the cache. Nothing is reported before it is known
// that this is all. Otherwise something is left to do, and what was learned is kept for
// this process's next life, if that is how it goes on.
func (b *Builder) buildQuietly(ctx context.Context) (left bool, err error) {
	sink, hold := b.Sink, &held{}
	b.Sink = hold
	looking, stop := context.WithCancel(ctx)
	defer stop()
	b.look = &look{stop: stop}
	go func() { _, _ = b.numbered() }() // to make a file can take as long as all the rest
	err = b.build(looking)
	if b.look.over() {
		if number, err := b.numbered(); err == nil {
			b.Cache.DropBuild(number) // the one that does it has its own
		}
		b.Sources.HandOver()
		b.inquiry.handOver()
		return ctx.Err() == nil, ctx.Err()
	}
	b.Sink = sink
	end := b.begin()
	hold.release(b.Sink)
	end(err)
	return false, err
}

// mayDo reports whether this process may do a step, and makes it ready for that: it is
// called before anything that mounts or takes long. Where it may not, the build is left to
// one that may.
func (b *Builder) mayDo() (bool, error) {
	switch {
	case b.Plan && namespace.Stays():
		return true, namespace.Enter()
	case b.Plan:
		return true, nil
	case b.mayMount:
		return true, b.ready()
	}
	b.look.end()
	return false, nil
}
