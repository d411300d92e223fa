package progress

import (
	"bytes"
	"encoding/json"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestJSON(t *testing.T) {
	var out bytes.Buffer
	j := NewJSON(&out)
	j.Report(Event{Time: epoch, Kind: Output, Layer: "web", Text: "<a>\nb\x1b"})
	j.Report(Event{Time: epoch.Add(time.Second), Kind: Bytes, Layer: "web", Text: "packing", Done: 1, Total: 2})
	j.Report(Event{Time: epoch, Kind: Summary, Text: "done", Took: 1500 * time.Millisecond})
	want := `{"time":"2026-01-02T03:04:05.000000Z","kind":"output","layer":"web","text":"<a>\nb\u001b"}
{"time":"2026-01-02T03:04:06.000000Z","kind":"bytes","layer":"web","text":"packing","done":1,"total":2}
{"time":"2026-01-02T03:04:05.000000Z","kind":"summary","text":"done","seconds":1.5}
`
	if out.String() != want {
		t.Errorf("got\n%s\nwant\n%s", out.String(), want)
	}
}

// docs/progress.md names each kind of event that there is.
func TestDocumentedKinds(t *testing.T) {
	doc, err := os.ReadFile("../docs/progress.md")
	if err != nil {
		t.Fatal(err)
	}
	_, doc, _ = bytes.Cut(doc, []byte("| kind | meaning |"))
	source, err := os.ReadFile("progress.go")
	if err != nil {
		t.Fatal(err)
	}
	var kinds, documented []string
	for _, m := range regexp.MustCompile(`Kind = "([a-z]+)"`).FindAllSubmatch(source, -1) {
		kinds = append(kinds, string(m[1]))
	}
	for _, m := range regexp.MustCompile("(?m)^\\| `([a-z]+)` \\|").FindAllSubmatch(doc, -1) {
		documented = append(documented, string(m[1]))
	}
	slices.Sort(kinds)
	slices.Sort(documented)
	if len(kinds) < 10 || !slices.Equal(kinds, documented) {
		t.Errorf("there are  %q\ndocumented %q", kinds, documented)
	}
}

// Works that go on at the same time have tracks of their own; a track that is
// free again is used again.
func TestTrace(t *testing.T) {
	trace := NewTimeline()
	for _, step := range []struct {
		ms   int
		kind Kind
		text string
	}{
		{0, Begin, ""}, {1, Started, "a"}, {2, Started, "b"}, {5, Finished, "a"}, {6, Started, "c"}, {7, Finished, "b"}, {9, Finished, "c"}, {9, Built, ""},
	} {
		trace.Report(Event{Time: epoch.Add(time.Duration(step.ms) * time.Millisecond), Kind: step.kind, Layer: "web", Text: step.text})
	}
	var out bytes.Buffer
	if err := WriteTrace(&out, trace); err != nil {
		t.Fatal(err)
	}
	var got struct {
		TraceEvents []struct {
			Name, Ph          string
			Ts, Dur, Pid, Tid int64
		}
	}
	if err := json.Unmarshal(out.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	type event = struct {
		Name, Ph          string
		Ts, Dur, Pid, Tid int64
	}
	want := []event{
		{"web: a", "X", 1000, 4000, 1, 1}, {"web: b", "X", 2000, 5000, 1, 2}, {"web: c", "X", 6000, 3000, 1, 1}, {"web: built", "i", 9000, 0, 1, 0},
	}
	for i, e := range got.TraceEvents {
		if i >= len(want) || e != want[i] {
			t.Errorf("event %d is %+v", i, e)
		}
	}
	if len(got.TraceEvents) != len(want) {
		t.Errorf("there are %d events", len(got.TraceEvents))
	}
}

// A trace of nothing is one that viewers open.
func TestTraceEmpty(t *testing.T) {
	var out bytes.Buffer
	if err := WriteTrace(&out, NewTimeline()); err != nil || !strings.HasPrefix(out.String(), `{"traceEvents":[]`) {
		t.Errorf("%s %v", out.String(), err)
	}
}

func TestLog(t *testing.T) {
	var out bytes.Buffer
	log := NewLog(&out)
	for i, e := range []Event{
		{Kind: Begin, Total: 2}, {Kind: Started, Layer: "web", Text: "running"}, {Kind: Output, Layer: "web", Text: "hello"},
		{Kind: Finished, Layer: "web", Text: "running", Took: time.Second}, {Kind: Failed, Layer: "web", Text: "why"}, {Kind: Error, Text: "web: why"},
	} {
		e.Time = epoch.Add(time.Duration(i) * time.Second)
		log.Report(e)
	}
	want := `    1.000 web: running
    2.000 web | hello
    3.000 web: running: done (1s)
    4.000 web: failed: why
    5.000 error: web: why
`
	if out.String() != want {
		t.Errorf("got\n%s\nwant\n%s", out.String(), want)
	}
}
