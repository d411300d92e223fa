package engine

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/layerbuild/layerbuild/progress"
)

type events []progress.Event

func (e *events) Report(event progress.Event) { *e = append(*e, event) }

// Work that takes no time is not told of; what lingers is, from when it does.
func TestLingering(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var told events
		b := &Builder{Options: Options{Sink: &told}}
		done := b.lingering("web", "digesting x")
		time.Sleep(lingers - time.Millisecond)
		done()
		time.Sleep(time.Hour)
		if len(told) > 0 {
			t.Errorf("told of %v", told)
		}
		done = b.lingering("web", "digesting x")
		time.Sleep(3 * time.Second)
		done()
		kinds := []progress.Kind{}
		for _, e := range told {
			if kinds = append(kinds, e.Kind); e.Layer != "web" || e.Text != "digesting x" {
				t.Errorf("told %+v", e)
			}
		}
		if want := []progress.Kind{progress.Started, progress.Finished}; !slices.Equal(kinds, want) || told[1].Took != 3*time.Second-lingers {
			t.Errorf("told %v", told)
		}
	})
}
