package build

import (
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// TestMigrateState builds with a state folder that older code wrote: nothing may
// run, and once it is migrated nothing changes any more.
func TestMigrateState(t *testing.T) {
	states, err := filepath.Glob("testdata/state-*")
	if err != nil || len(states) == 0 {
		t.Fatal("no frozen states", err)
	}
	for _, frozen := range states {
		t.Run(filepath.Base(frozen), func(t *testing.T) {
			dir, state := t.TempDir(), t.TempDir()
			if err := os.CopyFS(dir, os.DirFS(frozen)); err != nil {
				t.Fatal(err)
			}
			if out, err := exec.Command("tar", "-xzf", filepath.Join(frozen, "state.tar.gz"), "-C", state).CombinedOutput(); err != nil {
				t.Fatal(string(out))
			}
			first := buildProject(t, dir, state)
			again := buildProject(t, dir, state)
			if n := len(first.ran) + len(again.ran); n > 0 {
				t.Fatalf("%d steps ran:\n%s%s", n, first.log, again.log)
			}
			if !maps.Equal(first.manifests, again.manifests) {
				t.Errorf("images were %v and are %v", first.manifests, again.manifests)
			}
		})
	}
}
