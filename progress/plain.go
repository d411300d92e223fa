package progress

import (
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/docker/go-units"
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
	stamp bool // the time is before each line
}

// NewStamped returns a sink that writes to w, each line with its time before it.
func NewStamped(w io.Writer, level Level) *Plain {
	return &Plain{w: w, level: level, stamp: true}
}

// NewPlain returns a sink that writes to w.
func NewPlain(w io.Writer, level Level) *Plain {
	return &Plain{w: w, level: level}
}

// Report writes the event's line.
func (p *Plain) Report(e Event) {
	if !p.level.shows(e.Kind) {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.stamp {
		fmt.Fprintf(p.w, "%s ", e.Time.Format(time.RFC3339))
	}
	fmt.Fprintln(p.w, line(e, true))
}

// Close does nothing: every line has been written.
func (p *Plain) Close() error { return nil }

// shows tells whether events of a kind have a line. The error that ends a build
// has none: whoever built shows it.
func (level Level) shows(kind Kind) bool {
	switch kind {
	case Warning:
		return true
	case Begin, Bytes, Error, Paused, Resumed:
		return false
	case Debug, Started, Finished:
		return level >= Verbose
	default:
		return level >= Normal
	}
}

// line is what is shown of an event, safe for a terminal: of what steps write,
// perhaps the colours are kept, of all else nothing but text.
func line(e Event, colors bool) string {
	if e.Kind == Output {
		return Safe(e.Layer) + " | " + stripped(e.Text, colors)
	}
	return Safe(words(e))
}

func words(e Event) string {
	switch e.Kind {
	case Hit:
		if e.Text != "" {
			return e.Layer + ": " + e.Text
		}
		return "found cached layer " + e.Layer
	case Miss:
		return fmt.Sprintf("%s: cache miss because %s", e.Layer, e.Text)
	case Built:
		text := fmt.Sprintf("filesystem %s built successfully (%s", e.Layer, round(e.Took))
		if e.Done > 0 {
			text += ", " + bytesText(e.Done)
		}
		return text + ")"
	case Checked:
		return fmt.Sprintf("filesystem %s built again and compared (%s)", e.Layer, round(e.Took))
	case Failed:
		return fmt.Sprintf("%s: failed", e.Layer)
	case Summary:
		return fmt.Sprintf("%s (%s)", e.Text, round(e.Took))
	}
	text := e.Text
	if e.Kind == Finished {
		text += fmt.Sprintf(": done (%s)", round(e.Took))
	}
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

// bytesText names a number of bytes.
func bytesText(n int64) string { return units.HumanSizeWithPrecision(float64(n), 3) }

// A Log is a Plain of all events, for a file: each line begins with the seconds
// since the log began.
type Log struct {
	mu    sync.Mutex
	w     io.Writer
	began time.Time
}

// NewLog returns a log that writes to w.
func NewLog(w io.Writer) *Log { return &Log{w: w} }

// Report writes the event's line.
func (l *Log) Report(e Event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.began.IsZero() {
		l.began = e.Time
	}
	var text string
	switch e.Kind {
	case Failed, Error:
		text = fmt.Sprintf("%s: %s", e.Kind, Safe(e.Text))
		if e.Layer != "" {
			text = e.Layer + ": " + text
		}
	default:
		if !Verbose.shows(e.Kind) {
			return
		}
		text = line(e, true)
	}
	fmt.Fprintf(l.w, "%9.3f %s\n", e.Time.Sub(l.began).Seconds(), text)
}
