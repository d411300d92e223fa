package engine

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/layerbuild/layerbuild/buildcache"
	"github.com/layerbuild/layerbuild/explain"
	"github.com/layerbuild/layerbuild/layers"
	"github.com/layerbuild/layerbuild/namespace"
	"github.com/layerbuild/layerbuild/progress"
)

// newSession returns what the steps of the build have in common.
func (b *Builder) newSession() *buildcache.Session {
	s := &buildcache.Session{
		Cache: b.Cache,
		Policy: buildcache.Policy{
			NoCache:    func(layer string) bool { return named(b.NoCache, layer) },
			Verify:     func(layer string) bool { return named(b.Verify, layer) },
			FailOnMiss: b.FailOnMiss,
			Plan:       b.Plan,
		},
		Ready:  func(context.Context) (bool, error) { return b.mayDo() },
		Trusts: b.remote.trusts,
		Served: b.served,
		Again:  b.tellDamage,
		Damaged: func(kind buildcache.Kind) {
			b.report(progress.Event{Kind: progress.Warning, Text: fmt.Sprintf("a damaged %s record has been put aside in the state folder's corrupt folder", kind)})
		},
	}
	if b.remote != nil { // a nil pointer in an interface is not nil
		s.Remote = b.remote
	}
	return s
}

// served notes a record that the build uses, or has made.
func (b *Builder) served(r *buildcache.Record, made bool) {
	if !made {
		b.use(string(r.Key))
	}
	b.remote.served(r, made)
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

// readable reports whether a plan can read a rootfs: its snapshots are here, and may be
// mounted by this process as it is.
func (b *Builder) readable(ctx context.Context, c *chain) bool {
	if _, err := b.Cache.Resolution(b.mountQuestion()); err != nil || !namespace.Stays() {
		return false
	}
	for ; c != nil; c = c.below {
		if !b.has(ctx, c) {
			return false
		}
	}
	return true
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
		return true, nil
	}
	b.Sink = sink
	end := b.begin()
	hold.release(b.Sink)
	end(err)
	return false, err
}

// remember is buildcache.Remember for a step of a layer, whose outcome notes what
// differs. Where the policy refuses to do the step, the error is a MissError.
func remember[R any](ctx context.Context, b *Builder, l *layers.Layer, step *buildcache.Step[R]) (R, buildcache.Outcome, error) {
	result, came, err := buildcache.Remember(ctx, b.session, step)
	if o := b.layers[l]; o != nil {
		o.differs = o.differs || came.Differs
		if errors.Is(err, buildcache.ErrRefused) {
			o.told.Outcome = explain.WouldBuild
		}
	}
	if errors.Is(err, buildcache.ErrRefused) {
		err = &MissError{[]string{l.Name}}
	}
	return result, came, err
}
