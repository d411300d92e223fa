package buildcache

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// Who waits is told for whom, unless that is the same process, or one that was
// killed.
func TestLockNamesOthers(t *testing.T) {
	c := open(t, t.TempDir())
	key := Inputs{}.Key(Rootfs)
	var waited []Holder
	wait := func(ctx context.Context) error {
		lock, err := c.Lock(ctx, key, "second", func(h Holder) { waited = append(waited, h) })
		if err == nil {
			lock.Unlock()
		}
		return err
	}
	held, err := c.Lock(t.Context(), key, "first", nil)
	if err != nil {
		t.Fatal(err)
	}
	soon, cancel := context.WithTimeout(t.Context(), 3*pollInterval)
	defer cancel()
	if err := wait(soon); !errors.Is(err, context.DeadlineExceeded) || len(waited) > 0 {
		t.Errorf("for this process: %v, waited for %v", err, waited)
	}
	other := Holder{PID: 1, Layer: "first", Since: time.Now().UTC()}
	if err := sign(held.file, other); err != nil {
		t.Fatal(err)
	}
	soon, cancel = context.WithTimeout(t.Context(), 3*pollInterval)
	defer cancel()
	if err := wait(soon); !errors.Is(err, context.DeadlineExceeded) || len(waited) != 1 || waited[0].PID != 1 || waited[0].Layer != "first" {
		t.Errorf("for another process: %v, waited for %v", err, waited)
	}
	held.Unlock()

	// A lock that a killed process left, signed by a longer name.
	if err := os.WriteFile(filepath.Join(c.dir, "locks", string(key)), []byte(`{"pid":1,"layer":"a very long name of a layer","since":"2001-01-01T00:00:00Z"}`+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	mine, err := c.Lock(t.Context(), key, "x", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer mine.Unlock()
	if h := holder(mine.file); h.PID != os.Getpid() || h.Layer != "x" {
		t.Errorf("the lock is signed by %+v", h)
	}
}
