package build

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// TestMigrateState builds with a state folder that older code wrote: nothing may
// run, and the images must be those of a build without a cache.
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
			want := buildProject(t, dir, t.TempDir())
			for range 2 {
				got := buildProject(t, dir, state)
				if len(got.ran) > 0 {
					t.Fatalf("%d steps ran:\n%s", len(got.ran), got.log)
				}
				for tag, manifest := range want.manifests {
					if got.manifests[tag] != manifest {
						t.Errorf("%s is %s, without a cache %s", tag, got.manifests[tag], manifest)
					}
				}
			}
		})
	}
}
