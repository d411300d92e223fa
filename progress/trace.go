package progress

import (
	"encoding/json"
	"io"
)

type traceEvent struct {
	Name  string            `json:"name"`
	Phase string            `json:"ph"`
	Time  int64             `json:"ts"`            // microseconds since the first event
	Took  *int64            `json:"dur,omitempty"` // microseconds
	PID   int               `json:"pid"`
	Track int               `json:"tid"`
	Scope string            `json:"s,omitempty"`
	Args  map[string]string `json:"args,omitempty"`
}

// WriteTrace writes a timeline in Chrome's trace event format, which chrome://tracing
// and https://ui.perfetto.dev show. Each track of the timeline is a thread there.
//
// https://docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU
func WriteTrace(w io.Writer, t *Timeline) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	events := []traceEvent{}
	for _, s := range t.spans {
		took := max(0, s.End.Sub(s.Start).Microseconds())
		events = append(events, traceEvent{
			Name: title(s), Phase: "X", Time: s.Start.Sub(t.began).Microseconds(), Took: &took, PID: 1, Track: s.Track + 1,
			Args: map[string]string{"layer": s.Layer},
		})
	}
	for _, m := range t.marks {
		events = append(events, traceEvent{Name: m.Layer + ": " + string(m.Kind), Phase: "i", Time: m.Time.Sub(t.began).Microseconds(), PID: 1, Scope: "g"})
	}
	return json.NewEncoder(w).Encode(struct {
		Events []traceEvent `json:"traceEvents"`
		Unit   string       `json:"displayTimeUnit"`
	}{events, "ms"})
}

func title(s Span) string {
	if s.Layer == "" {
		return s.Text
	}
	return s.Layer + ": " + s.Text
}
