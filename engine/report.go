package engine

import (
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/layerbuild/layerbuild/layers"
	"github.com/layerbuild/layerbuild/namespace"
	"github.com/layerbuild/layerbuild/progress"
)

func (b *Builder) report(e progress.Event) {
	e.Time = time.Now()
	if e.Kind != progress.Output {
		e.Text = namespace.Space{}.Inside(e.Text)
	}
	b.Sink.Report(e)
}

// command is a command of the program about a layer, as hints name it.
func (o *Options) command(l *layers.Layer, args ...string) string {
	if o.Again == nil {
		return "`layerbuild " + strings.Join(args, " ") + "`"
	}
	return "`" + o.Again(l.File.Name, args...) + "`"
}

// inside makes an error name the files of root filesystems as people know them.
func inside(err error) error {
	if err == nil {
		return nil
	}
	return insideError{err}
}

type insideError struct{ error }

func (e insideError) Error() string { return namespace.Space{}.Inside(e.error.Error()) }
func (e insideError) Unwrap() error { return e.error }

func (b *Builder) notice(l *layers.Layer, kind progress.Kind, format string, args ...any) {
	b.report(progress.Event{Kind: kind, Layer: l.Name, Text: fmt.Sprintf(format, args...)})
}

// doing reports that work on a layer begins, and that it ends when the returned
// function is called.
func (b *Builder) doing(l *layers.Layer, what string) (done func()) { return b.work(l.Name, what) }

// work is doing for a layer's name, "" for the build as a whole.
func (b *Builder) work(layer, what string) (done func()) {
	b.report(progress.Event{Kind: progress.Started, Layer: layer, Text: what})
	start := time.Now()
	return func() {
		b.report(progress.Event{Kind: progress.Finished, Layer: layer, Text: what, Took: time.Since(start)})
	}
}

// lingers is how long work may take that is not worth telling of.
const lingers = 200 * time.Millisecond

// lingering is work that mostly takes no time: it is told of when it does.
func (b *Builder) lingering(layer, what string) (done func()) {
	var mu sync.Mutex
	over, end := false, func() {}
	timer := time.AfterFunc(lingers, func() {
		mu.Lock()
		defer mu.Unlock()
		if !over {
			end = b.work(layer, what)
		}
	})
	return func() {
		timer.Stop()
		mu.Lock()
		defer mu.Unlock()
		over = true
		end()
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

// held keeps events back until it is known where they go.
type held struct {
	mu     sync.Mutex
	events []progress.Event
	to     progress.Sink
}

func (h *held) Report(e progress.Event) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.to != nil {
		h.to.Report(e)
		return
	}
	h.events = append(h.events, e)
}

// release lets events go, those that were held first.
func (h *held) release(to progress.Sink) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, e := range h.events {
		to.Report(e)
	}
	h.events, h.to = nil, to
}
