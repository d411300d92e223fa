package progress

import (
	"fmt"
	"io"
	"sync"
	"time"
)

// A Level says how much is shown.
type Level int

// Levels, each showing all of the one before.
const (
	Quiet   Level = iota // nothing but warnings
	Normal               // what happens, and what steps write
	Verbose              // debug events too
)

// Plain shows one event a line, as logs want it.
type Plain struct {
	mu    sync.Mutex
	w     io.Writer
	level Level
}

// NewPlain returns a sink that writes to w.
func NewPlain(w io.Writer, level Level) *Plain {
	return &Plain{w: w, level: level}
}

// Report writes the event's line.
func (p *Plain) Report(e Event) {
	if !p.shows(e.Kind) {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	fmt.Fprintln(p.w, line(e))
}

func (p *Plain) shows(kind Kind) bool {
	switch kind {
	case Warning:
		return true
	case Debug:
		return p.level >= Verbose
	default:
		return p.level >= Normal
	}
}

func line(e Event) string {
	switch e.Kind {
	case Hit:
		return "found cached layer " + e.Layer
	case Miss:
		return fmt.Sprintf("%s: cache miss because %s", e.Layer, e.Text)
	case Output:
		return fmt.Sprintf("%s | %s", e.Layer, e.Text)
	case Built:
		return fmt.Sprintf("filesystem %s built successfully (%s)", e.Layer, round(e.Took))
	case Summary:
		return fmt.Sprintf("%s (%s)", e.Text, round(e.Took))
	}
	text := e.Text
	if e.Layer != "" {
		text = e.Layer + ": " + text
	}
	if e.Kind == Warning {
		text = "warning: " + text
	}
	return text
}

// round keeps what a person reads of a duration.
func round(d time.Duration) time.Duration {
	if d < time.Second {
		return d.Round(time.Millisecond)
	}
	return d.Round(10 * time.Millisecond)
}
