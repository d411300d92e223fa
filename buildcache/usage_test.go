package buildcache

import (
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

// TestUsage counts uses of several processes, through the log and the totals.
func TestUsage(t *testing.T) {
	state := t.TempDir()
	var group sync.WaitGroup
	var ids []string
	for i := range 200 {
		ids = append(ids, fmt.Sprintf("%064d", i))
	}
	for p := range 4 {
		c := open(t, state)
		group.Go(func() {
			for n := range 50 {
				if err := c.Used(time.Unix(int64(1000*p+n), 0), ids); err != nil {
					t.Error(err)
				}
			}
		})
	}
	group.Wait()
	c := open(t, state)
	if info, err := os.Stat(filepath.Join(state, usageLog)); err != nil || info.Size() > usageLimit+1<<16 {
		t.Error("the log grows without bound", info, err)
	}
	all, err := c.Usage()
	if err != nil || len(all) != 200 || all[ids[7]].Times != 200 || all[ids[7]].Last.Unix() != 3049 {
		t.Fatal(len(all), all[ids[7]], err)
	}
	if err := c.ForgetUsage(ids[:100]); err != nil {
		t.Fatal(err)
	}
	if all, err = c.Usage(); err != nil || len(all) != 100 || all[ids[150]].Times != 200 {
		t.Fatal(len(all), err)
	}
	for _, name := range []string{usageLog, usageTotals} {
		if err := os.WriteFile(filepath.Join(state, name), []byte("garbage\x00 \n1 2\nx 1 y\n7 unfinished"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := c.Usage(); err != nil {
		t.Error("damage is no error:", err)
	}
}

// TestSweepTmp removes what dead processes left, and nothing while others live.
func TestSweepTmp(t *testing.T) {
	state := t.TempDir()
	first := open(t, state)
	left := filepath.Join(state, "tmp", "step-left")
	if err := os.Mkdir(left, 0o700); err != nil {
		t.Fatal(err)
	}
	second := open(t, state)
	if _, err := os.Stat(left); err != nil {
		t.Error("it may be of the living:", err)
	}
	_, _ = first.Close(), second.Close()
	open(t, state)
	if _, err := os.Stat(left); err == nil {
		t.Error("it is still there")
	}
}
