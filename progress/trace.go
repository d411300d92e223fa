package progress

import (
	"encoding/json"
	"io"
	"sync"
	"time"
)

// A Trace collects the work of a build in Chrome's trace event format, which
// chrome://tracing and https://ui.perfetto.dev show as a timeline. Each worker
// has a track: work that begins takes the first track on which nothing goes on.
//
// https://docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU
type Trace struct {
	mu     sync.Mutex
	began  time.Time
	busy   []bool // by track; the first is 1
	open   map[work][]int
	events []traceEvent
}

// work tells works apart.
type work struct{ layer, text string }

type traceEvent struct {
	Name  string            `json:"name"`
	Phase string            `json:"ph"`
	Time  int64             `json:"ts"`            // microseconds since the trace began
	Took  *int64            `json:"dur,omitempty"` // microseconds
	PID   int               `json:"pid"`
	Track int               `json:"tid"`
	Scope string            `json:"s,omitempty"`
	Args  map[string]string `json:"args,omitempty"`
}

// NewTrace returns a trace without events.
func NewTrace() *Trace { return &Trace{open: map[work][]int{}, events: []traceEvent{}} }

// Report takes note of work that starts and ends, and of what became of layers.
func (t *Trace) Report(e Event) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.began.IsZero() {
		t.began = e.Time
	}
	at := e.Time.Sub(t.began).Microseconds()
	id := work{e.Layer, e.Text}
	switch e.Kind {
	case Started:
		track := t.free()
		t.busy[track-1] = true
		t.open[id] = append(t.open[id], len(t.events))
		t.events = append(t.events, traceEvent{Name: title(e), Phase: "X", Time: at, Took: new(int64), PID: 1, Track: track, Args: map[string]string{"layer": e.Layer}})
	case Finished:
		if began := t.open[id]; len(began) > 0 {
			event := &t.events[began[0]]
			*event.Took = at - event.Time
			t.busy[event.Track-1] = false
			t.open[id] = began[1:]
		}
	case Hit, Built, Checked, Failed:
		t.events = append(t.events, traceEvent{Name: e.Layer + ": " + string(e.Kind), Phase: "i", Time: at, PID: 1, Scope: "g"})
	}
}

func title(e Event) string {
	if e.Layer == "" {
		return e.Text
	}
	return e.Layer + ": " + e.Text
}

// free returns the first track on which nothing goes on.
func (t *Trace) free() int {
	for i, busy := range t.busy {
		if !busy {
			return i + 1
		}
	}
	t.busy = append(t.busy, false)
	return len(t.busy)
}

// WriteTo writes the trace as JSON.
func (t *Trace) WriteTo(w io.Writer) (int64, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	raw, err := json.Marshal(struct {
		Events []traceEvent `json:"traceEvents"`
		Unit   string       `json:"displayTimeUnit"`
	}{t.events, "ms"})
	if err != nil {
		return 0, err
	}
	n, err := w.Write(append(raw, '\n'))
	return int64(n), err
}
