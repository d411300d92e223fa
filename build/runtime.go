package build

import (
	"context"
	"path/filepath"
	"sync"

	"github.com/layerbuild/layerbuild/progress"
	"github.com/layerbuild/layerbuild/sandbox"
)

// A Runner runs steps: a sandbox.Runtime, once one is needed.
type Runner interface {
	Run(ctx context.Context, s sandbox.Step) error
}

// A lazyRuntime looks for a runtime when the first step runs, since to find one
// costs as much as a step.
type lazyRuntime struct {
	b    *Builder
	mu   sync.Mutex
	real *sandbox.Runtime
}

func (r *lazyRuntime) Run(ctx context.Context, s sandbox.Step) error {
	real, err := r.find(ctx)
	if err != nil {
		return err
	}
	return real.Run(ctx, s)
}

func (r *lazyRuntime) find(ctx context.Context) (*sandbox.Runtime, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.real != nil {
		return r.real, nil
	}
	real, err := sandbox.Find(ctx, r.b.Runtime, filepath.Join(r.b.StateDir, "tmp"))
	if err != nil {
		return nil, err
	}
	for _, why := range real.PassedOver {
		r.b.report(progress.Event{Kind: progress.Debug, Text: "passed over: " + why})
	}
	r.b.report(progress.Event{Kind: progress.Debug, Text: "steps run in " + real.Name + " " + real.Version})
	r.real = real
	return real, nil
}
