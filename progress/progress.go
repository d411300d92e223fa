// Package progress is what people see of a build. The engine reports Events to
// a Sink and never prints; sinks turn events into text: lines for logs (Plain),
// a live picture on a terminal (Terminal), JSON for programs, and a Timeline.
package progress

import (
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/term"
)

// A Kind says what an Event tells.
type Kind string

// Kinds of events.
const (
	Begin   Kind = "begin"   // a build begins; Total is how many layers it has
	Hit     Kind = "hit"     // a layer was found in the cache; Text is how, if not at once
	Miss    Kind = "miss"    // a layer must be built; Text is one reason
	Output  Kind = "output"  // one line that a step wrote, without its newline
	Built   Kind = "built"   // a layer has been built, in Took; Done is the size of its blobs, in bytes
	Checked Kind = "checked" // a layer that is in the cache has been built again, in Took, and compared
	Failed  Kind = "failed"  // a layer could not be built; Text is why, and may have several lines
	Notice  Kind = "notice"  // worth knowing
	Warning Kind = "warning" // probably not what was meant
	Debug   Kind = "debug"   // for those who ask for everything
	Summary Kind = "summary" // the end of a build that went well, in Took
	Error   Kind = "error"   // the end of one that did not; Text may have several lines

	// Work on a layer is told apart by Layer and Text, such as "running".
	Started  Kind = "started"  // work began
	Bytes    Kind = "bytes"    // it has come to Done of Total bytes; Total is 0 where nobody knows it
	Finished Kind = "finished" // it ended, well or not, in Took

	// Between these two the terminal is somebody else's.
	Paused  Kind = "paused"
	Resumed Kind = "resumed"
)

// An Event is one thing that happened in a build.
type Event struct {
	Time        time.Time
	Kind        Kind
	Layer       string        // "" when it is about the build as a whole
	Text        string        // one line where Kind does not say otherwise; sinks make it safe for a terminal
	Took        time.Duration // Built, Checked, Finished and Summary
	Done, Total int64         // see Kind
}

// A Sink takes events. It is safe for concurrent use.
type Sink interface {
	Report(Event)
}

// A Tee is several sinks as one.
type Tee []Sink

// Report reports the event to each sink in turn.
func (t Tee) Report(e Event) {
	for _, sink := range t {
		sink.Report(e)
	}
}

// A Display is a Sink that shows events. After Close nothing more is written, and
// a terminal is as other programs expect it.
type Display interface {
	Sink
	io.Closer
}

// NewDisplay returns a display on a file. The mode is auto, tty, plain, json or
// quiet; auto is tty on a terminal that can do it, and plain elsewhere. The level
// counts for tty and plain. getenv reads TERM and NO_COLOR (https://no-color.org).
func NewDisplay(mode string, file *os.File, level Level, getenv func(string) string) (Display, error) {
	if mode == "auto" {
		mode = "plain"
		if dumb := getenv("TERM") == "dumb" || getenv("TERM") == ""; !dumb && level > Quiet && term.IsTerminal(int(file.Fd())) {
			mode = "tty"
		}
	}
	switch mode {
	case "tty":
		if level == Quiet {
			return NewPlain(file, level), nil
		}
		return NewTerminal(file, level, func() (width, height int) { return size(file) }, getenv("NO_COLOR") == ""), nil
	case "plain":
		return NewPlain(file, level), nil
	case "json":
		return NewJSON(file), nil
	case "quiet":
		return NewPlain(file, Quiet), nil
	}
	return nil, fmt.Errorf("--progress is %q: it should be auto, tty, plain, json or quiet", mode)
}

// size returns how many columns and lines a terminal has.
func size(file *os.File) (width, height int) {
	width, height, err := term.GetSize(int(file.Fd()))
	if err != nil || width <= 0 || height <= 0 {
		return 80, 24
	}
	return width, height
}
