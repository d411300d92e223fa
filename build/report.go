package build

import (
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/layerbuild/layerbuild/layers"
	"github.com/layerbuild/layerbuild/progress"
)

func (b *Builder) report(e progress.Event) {
	e.Time = time.Now()
	b.Sink.Report(e)
}

func (b *Builder) notice(l *layers.Layer, kind progress.Kind, format string, args ...any) {
	b.report(progress.Event{Kind: kind, Layer: l.Name, Text: fmt.Sprintf(format, args...)})
}

// doing reports that work on a layer begins, and that it ends when the returned
// function is called.
func (b *Builder) doing(l *layers.Layer, what string) (done func()) {
	b.report(progress.Event{Kind: progress.Started, Layer: l.Name, Text: what})
	start := time.Now()
	return func() {
		b.report(progress.Event{Kind: progress.Finished, Layer: l.Name, Text: what, Took: time.Since(start)})
	}
}

// meterPause is how often the bytes of a work are reported at most.
const meterPause = 100 * time.Millisecond

// meter returns a function that reports how many bytes of a work are done, of a
// total or of 0 for nobody knows. It is cheap to call, by several goroutines.
func (b *Builder) meter(l *layers.Layer, what string) func(done, total int64) {
	var last atomic.Int64
	last.Store(time.Now().UnixNano())
	return func(done, total int64) {
		now, before := time.Now().UnixNano(), last.Load()
		if now-before < int64(meterPause) || !last.CompareAndSwap(before, now) {
			return
		}
		b.report(progress.Event{Kind: progress.Bytes, Layer: l.Name, Text: what, Done: done, Total: max(0, total)})
	}
}

// held keeps events back until it is known that the build ends in this process.
type held struct {
	mu     sync.Mutex
	events []progress.Event
}

func (h *held) Report(e progress.Event) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.events = append(h.events, e)
}

func (h *held) release(to progress.Sink) {
	for _, e := range h.events {
		to.Report(e)
	}
}
