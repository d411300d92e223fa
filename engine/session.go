package engine

import (
	"context"
	"errors"
	"fmt"

	"github.com/layerbuild/layerbuild/buildcache"
	"github.com/layerbuild/layerbuild/explain"
	"github.com/layerbuild/layerbuild/layers"
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
