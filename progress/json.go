package progress

import (
	"encoding/json"
	"io"
	"sync"
)

// JSON shows one event a line, as an object: see docs/progress.md.
type JSON struct {
	mu  sync.Mutex
	enc *json.Encoder
}

// NewJSON returns a sink that writes to w.
func NewJSON(w io.Writer) *JSON {
	enc := json.NewEncoder(NewSafeWriter(w))
	enc.SetEscapeHTML(false)
	return &JSON{enc: enc}
}

// jsonEvent is the documented form of an Event.
type jsonEvent struct {
	Time    string  `json:"time"` // RFC 3339, UTC
	Kind    Kind    `json:"kind"`
	Layer   string  `json:"layer,omitempty"`
	Text    string  `json:"text,omitempty"`
	Seconds float64 `json:"seconds,omitempty"`
	Done    int64   `json:"done,omitempty"`
	Total   int64   `json:"total,omitempty"`
}

// Report writes the event's object.
func (j *JSON) Report(e Event) {
	j.mu.Lock()
	defer j.mu.Unlock()
	_ = j.enc.Encode(jsonEvent{
		Time:    e.Time.UTC().Format("2006-01-02T15:04:05.000000Z"),
		Kind:    e.Kind,
		Layer:   e.Layer,
		Text:    e.Text,
		Seconds: e.Took.Seconds(),
		Done:    e.Done,
		Total:   e.Total,
	})
}

// Close does nothing: every object has been written.
func (j *JSON) Close() error { return nil }
