package build

import (
	"context"
	"fmt"
	"path/filepath"
	"sync"

	"github.com/layerbuild/layerbuild/progress"
	"github.com/layerbuild/layerbuild/sandbox"
)

// A Runner runs steps: a sandbox.Runtime, once one is needed.
type Runner interface {
	Run(ctx context.Context, s sandbox.Step) error
}

// A lazyRuntime looks for a runtime when the first step runs. To find one costs as
// much as a step, so what was found is remembered until the machine is started
// again or another runtime is installed.
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
	tmp := filepath.Join(r.b.StateDir, "tmp")
	question := "runtime " + sandbox.Stamp(r.b.Runtime)
	if known, err := r.b.cache.Resolution(question); err == nil {
		r.real = sandbox.Known(known.Answer, tmp)
		r.b.report(progress.Event{Kind: progress.Debug, Text: "steps run in " + r.real.Path})
		return r.real, nil
	}
	real, err := sandbox.Find(ctx, r.b.Runtime, tmp)
	if err != nil {
		return nil, err
	}
	for _, why := range real.PassedOver {
		r.b.report(progress.Event{Kind: progress.Debug, Text: "passed over: " + why})
	}
	r.b.report(progress.Event{Kind: progress.Debug, Text: "steps run in " + real.Path + " " + real.Version})
	r.real = real
	return real, r.b.cache.SetResolution(question, real.Path)
}

// haveRuntime fails when a layer has something to run and no runtime starts here.
func (b *Builder) haveRuntime(ctx context.Context) error {
	for _, l := range b.graph.Layers {
		if l.Run != "" || l.GenerateLabels != "" {
			if err := b.Limits.Check(); err != nil {
				return fmt.Errorf("%w: leave out the limit", err)
			}
			_, err := (&lazyRuntime{b: b}).find(ctx)
			return err
		}
	}
	return nil
}
