package progress

import (
	"sync"
	"time"
)

// A Timeline is a sink that collects the work of a build: who worked on what, from when
// to when. Work that begins takes the first track on which nothing goes on.
type Timeline struct {
	mu    sync.Mutex
	began time.Time // of the first event
	busy  []bool    // by track
	open  map[work][]int
	spans []Span
	marks []Event
}

// work tells works apart.
type work struct{ layer, text string }

// A Span is one work. End is zero while it goes on.
type Span struct {
	Layer      string // "" when it is for the build as a whole
	Text       string
	Start, End time.Time
	Track      int // from 0
}

// NewTimeline returns a timeline without work.
func NewTimeline() *Timeline { return &Timeline{open: map[work][]int{}} }

// Report takes note of work that starts and ends, and of what became of layers.
func (t *Timeline) Report(e Event) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.began.IsZero() {
		t.began = e.Time
	}
	id := work{e.Layer, e.Text}
	switch e.Kind {
	case Started:
		t.open[id] = append(t.open[id], len(t.spans))
		t.spans = append(t.spans, Span{Layer: e.Layer, Text: e.Text, Start: e.Time, Track: t.take()})
	case Finished:
		if began := t.open[id]; len(began) > 0 {
			span := &t.spans[began[0]]
			span.End = e.Time
			t.busy[span.Track] = false
			t.open[id] = began[1:]
		}
	case Hit, Built, Checked, Failed:
		t.marks = append(t.marks, e)
	}
}

// take returns the first track on which nothing goes on, and has it busy.
func (t *Timeline) take() int {
	for i, busy := range t.busy {
		if !busy {
			t.busy[i] = true
			return i
		}
	}
	t.busy = append(t.busy, true)
	return len(t.busy) - 1
}

// Spans returns the work so far, in the order in which it began.
func (t *Timeline) Spans() []Span {
	t.mu.Lock()
	defer t.mu.Unlock()
	return append([]Span(nil), t.spans...)
}
