// Package progress is what people see of a build. The engine reports Events to
// a Sink and never prints; sinks turn events into text.
package progress

import "time"

// A Kind says what an Event tells.
type Kind string

// Kinds of events.
const (
	Hit     Kind = "hit"     // a layer was found in the cache
	Miss    Kind = "miss"    // a layer must be built; Text is one reason
	Output  Kind = "output"  // one line that a step wrote, without its newline
	Built   Kind = "built"   // a layer has been built, in Took
	Notice  Kind = "notice"  // worth knowing
	Warning Kind = "warning" // probably not what was meant
	Debug   Kind = "debug"   // for those who ask for everything
	Summary Kind = "summary" // the end of a build, in Took
)

// An Event is one thing that happened in a build.
type Event struct {
	Time  time.Time
	Kind  Kind
	Layer string        // "" when it is about the build as a whole
	Text  string        // one line; made safe for a terminal, but for Output
	Took  time.Duration // Built and Summary
}

// A Sink takes events. It is safe for concurrent use.
type Sink interface {
	Report(Event)
}
