package engine

import (
	"encoding/json"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// TestMigrateState builds with a state folder that older code wrote: nothing may
// run, and the images must be those that the older code made. Where its compressor
// was another one they are those of its snapshots, packed again.
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
			raw, err := os.ReadFile(filepath.Join(frozen, "manifests.json"))
			if err != nil {
				t.Fatal(err)
			}
			var want map[string]string
			if err := json.Unmarshal(raw, &want); err != nil {
				t.Fatal(err)
			}
			for range 2 {
				got := buildProject(t, dir, state)
				if len(got.ran) > 0 {
					t.Fatalf("%d steps ran:\n%s", len(got.ran), got.log)
				}
				if !maps.Equal(got.manifests, want) {
					t.Errorf("the images are %v, want %v", got.manifests, want)
				}
			}
		})
	}
}
