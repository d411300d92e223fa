package engine

import (
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/layerbuild/layerbuild/overlay"
	"github.com/layerbuild/layerbuild/progress"
)

// placeRoots moves the place of root filesystems to RootsDir, from now on. It warns if there
// are some at the place before.
func (o Options) placeRoots() error {
	if o.RootsDir == "" {
		return nil
	}
	before, err := overlay.SetRoots(o.StateDir, o.RootsDir)
	if err != nil {
		return fmt.Errorf("--roots-dir: %w", err)
	}
	there, _ := os.ReadDir(filepath.Join(before, "snapshots"))
	if after, err := overlay.Roots(o.StateDir); err != nil || after == before || len(there) == 0 {
		return err
	}
	o.Sink.Report(progress.Event{Time: time.Now(), Kind: progress.Warning, Text: fmt.Sprintf(
		"root filesystems are in %s from now on; those in %s are of no use until --roots-dir names that", o.RootsDir, before)})
	return nil
}
