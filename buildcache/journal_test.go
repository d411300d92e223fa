package buildcache

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"
)

func TestJournals(t *testing.T) {
	state := t.TempDir()
	var group sync.WaitGroup
	for range 4 {
		c := open(t, state)
		group.Go(func() {
			for range keptJournals / 2 {
				n, err := c.NextBuild()
				if err == nil {
					err = c.PutJournal(n, fmt.Append(nil, n))
				}
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	group.Wait()
	c := open(t, state)
	builds, err := c.Builds()
	if err != nil || len(builds) < keptJournals || len(builds) > keptJournals+sweepJournals+4 || slices.Max(builds) != 2*keptJournals {
		t.Fatalf("%d builds of %d are kept, the last is %v: %v", len(builds), keptJournals, builds, err)
	}
	for _, n := range builds {
		if report, err := c.Build(n); err != nil || string(report) != fmt.Sprint(n) {
			t.Fatal(n, string(report), err)
		}
	}
	if _, err := c.Build(1); !errors.Is(err, ErrNotFound) {
		t.Error(err)
	}
	if err := os.WriteFile(filepath.Join(state, "builds", "200.json"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Build(200); !errors.Is(err, ErrCorrupt) {
		t.Error(err)
	}
}

// A number stays taken when its build is killed.
func TestKilledBuild(t *testing.T) {
	c := open(t, t.TempDir())
	for want := 1; want <= 2; want++ {
		if n, err := c.NextBuild(); err != nil || n != want {
			t.Fatal(n, err)
		}
	}
	if _, err := c.Build(1); !errors.Is(err, ErrCorrupt) {
		t.Error(err)
	}
}

func TestTombstones(t *testing.T) {
	c := open(t, t.TempDir())
	in := Inputs{{Code: Definition, Name: "run", Value: "make"}}
	key := string(in.Key(Rootfs))
	if _, err := c.Put(Rootfs, in, "x", 0, Origin{Layer: "l"}); err != nil {
		t.Fatal(err)
	}
	stone := Tombstone{Kind: string(Rootfs), ID: key, When: time.Unix(1e9, 0).UTC(), By: "layerbuild prune", Rule: "--keep-storage 1GB"}
	if err := c.Bury(stone); err != nil {
		t.Fatal(err)
	}
	got, err := c.Tombstone(string(Rootfs), key)
	if err != nil || got.When != stone.When || got.By != stone.By || got.Rule != stone.Rule {
		t.Fatal(got, err)
	}
	if r := got.Record; r == nil || r.Origin.Layer != "l" || len(r.Inputs) != 1 || r.Inputs[0] != in[0] || string(r.Result) == `"x"` {
		t.Errorf("what it was built of is not buried with it: %+v", r)
	}
	if _, err := c.Put(Rootfs, in, "x", 0, Origin{}); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Tombstone(string(Rootfs), key); !errors.Is(err, ErrNotFound) {
		t.Error("what is there again is still buried")
	}
}

func TestPutAsideStaysCorrupt(t *testing.T) {
	state := t.TempDir()
	c := open(t, state)
	in := Inputs{{Code: Definition, Name: "run", Value: "make"}}
	r, err := c.Put(Rootfs, in, "x", 0, Origin{})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(filepath.Join(state, recordName(Rootfs, r.Key)), 10); err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second life of a build must see it, too
		if _, err := c.Get(Rootfs, r.Key); !errors.Is(err, ErrCorrupt) {
			t.Fatal(err)
		}
	}
	if _, err := c.Put(Rootfs, in, "x", 0, Origin{}); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Get(Rootfs, r.Key); err != nil {
		t.Fatal(err)
	}
}
