package engine

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/layerbuild/layerbuild/gc"
	"github.com/layerbuild/layerbuild/locks"
)

// TestFsckWithoutRecords finds what is damaged, and nothing else, when no record is left to say what the
// files of snapshots were.
func TestFsckWithoutRecords(t *testing.T) {
	t.Setenv("PASSED", "1")
	f := newFixture(t)
	f.yaml("    see everything", "    see everything\n    remove in-base")
	f.build()
	f.check(os.RemoveAll(filepath.Join(f.state, "records")))
	faults := f.fsck()
	if len(faults) > 0 {
		t.Errorf("sound, and called damaged: %v", faults)
	}
	f.each(f.state+"/snapshots/*/fs/everything", func(path string) error { return os.Chtimes(path, time.Now(), time.Unix(1, 0)) })
	if faults = f.fsck(); len(faults) != 1 || !strings.Contains(faults[0].Problem, "its files are not those it was made with") {
		t.Errorf("a file has another time, and the faults are %v", faults)
	}
}

// fsck returns all faults of the state folder.
func (f *fixture) fsck() (faults []gc.Fault) {
	f.t.Helper()
	_, err := gc.Fsck(f.t.Context(), gc.FsckOptions{StateDir: f.state, ReadData: true, Found: func(fault gc.Fault) { faults = append(faults, fault) }})
	if err != nil && !errors.As(err, new(*gc.FsckError)) {
		f.t.Fatal(err)
	}
	return faults
}

// TestFsckBesideBuilds checks a state folder, all data too, while builds change what is in it and prune
// takes it away: what is sound is never called damaged.
func TestFsckBesideBuilds(t *testing.T) {
	t.Setenv("PASSED", "1")
	f := newFixture(t)
	f.yaml("    see everything", "    see everything\n    remove in-base") // a whiteout has a time of its own when it is packed
	f.build()
	var over atomic.Bool
	var group errgroup.Group
	for _, types := range []string{"type==record", "type==layer", "type~=tree|base"} {
		filters, err := gc.ParseFilters([]string{types})
		f.check(err)
		rules := []gc.Rule{{All: true, Filters: filters}}
		group.Go(func() error {
			for !over.Load() {
				if err := gc.Prune(t.Context(), gc.PruneOptions{StateDir: f.state, Rules: rules, By: "the test"}); err != nil && !errors.Is(err, locks.ErrHeld) {
					return fmt.Errorf("prune: %w", err)
				}
			}
			return nil
		})
	}
	checks := 0
	group.Go(func() error {
		for !over.Load() {
			n, err := gc.Fsck(t.Context(), gc.FsckOptions{StateDir: f.state, ReadData: true, Found: func(fault gc.Fault) {
				t.Errorf("%s %s: %s", fault.Type, fault.ID, fault.Problem)
			}})
			if checks += n; err != nil {
				return fmt.Errorf("fsck: %w", err)
			}
		}
		return nil
	})
	for i := range 5 {
		f.write("file", fmt.Sprint("content ", i))
		f.write("copied", fmt.Sprint("copied ", i))
		f.build()
	}
	over.Store(true)
	f.check(group.Wait())
	if checks < 10 {
		t.Errorf("only %d things were checked", checks)
	}
}
