package engine

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/layerbuild/layerbuild/layers"
	"github.com/layerbuild/layerbuild/namespace"
	"github.com/layerbuild/layerbuild/progress"
	"github.com/layerbuild/layerbuild/sandbox"
)

// A Runner runs steps: a sandbox.Runtime, once one is needed.
type Runner interface {
	Run(ctx context.Context, s sandbox.Step) error
}

// A lazyRuntime looks for a runtime when the first step needs one. To find one costs
// as much as a step, so what was found is remembered until the machine is started
// again or another runtime is installed.
type lazyRuntime struct {
	b       *Builder
	mu      sync.Mutex
	real    *sandbox.Runtime
	told    sync.Once    // which it is
	running atomic.Int32 // steps
}

func (r *lazyRuntime) Run(ctx context.Context, s sandbox.Step) error {
	real, err := r.find(ctx)
	if err != nil {
		return err
	}
	r.told.Do(func() {
		for _, why := range real.PassedOver {
			r.b.report(progress.Event{Kind: progress.Debug, Text: "passed over: " + why})
		}
		r.b.report(progress.Event{Kind: progress.Debug, Text: strings.TrimSpace("steps run in " + real.Path + " " + real.Version)})
	})
	r.running.Add(1)
	defer r.running.Add(-1)
	return real.Run(ctx, s)
}

func (r *lazyRuntime) find(ctx context.Context) (*sandbox.Runtime, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.real != nil {
		return r.real, nil
	}
	tmp := filepath.Join(r.b.StateDir, "tmp")
	question := r.question()
	if known, err := r.b.Cache.Resolution(question); err == nil {
		r.real = sandbox.Known(known.Answer, tmp)
	} else {
		if r.real, err = sandbox.Find(ctx, r.b.Runtime, tmp); err != nil {
			return nil, err
		}
		if err := r.b.Cache.SetResolution(question, r.real.Path); err != nil {
			return nil, err
		}
	}
	r.real.More, r.real.Space = r.more, namespace.Space{}
	return r.real, nil
}

func (r *lazyRuntime) question() string {
	return "runtime" + sandbox.Stamp(r.b.Runtime) + " " + r.b.rights()
}

// known tells whether no runtime needs to be looked for.
func (r *lazyRuntime) known() bool {
	if !r.b.hasScripts() {
		return true
	}
	_, err := r.b.Cache.Resolution(r.question())
	return err == nil
}

// more tells whether scripts are left that have not begun to run. Those that will be
// found in the cache count until then.
func (r *lazyRuntime) more() bool {
	begun := int(r.running.Load())
	for _, l := range slices.Backward(r.b.graph.Layers) { // the last ones are done last
		if !hasScript(l) {
			continue
		}
		select {
		case <-r.b.layers[l].done:
		default:
			if begun--; begun < 0 {
				return true
			}
		}
	}
	return false
}

// expect fails when a layer has something to run and no runtime starts here. The
// first step's supervisor starts while others look up what there is to do.
func (r *lazyRuntime) expect(ctx context.Context) error {
	if !r.b.hasScripts() {
		return nil
	}
	if err := r.b.Limits.Check(); err != nil {
		return fmt.Errorf("%w: leave out the limit", err)
	}
	real, err := r.find(ctx)
	if err != nil {
		return err
	}
	real.Expect()
	return nil
}

func (b *Builder) hasScripts() bool { return slices.ContainsFunc(b.graph.Layers, hasScript) }

func hasScript(l *layers.Layer) bool { return l.Run != "" || l.GenerateLabels != "" }

// close ends what was expected and did not come.
func (r *lazyRuntime) close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.real != nil {
		_ = r.real.Close()
	}
}
