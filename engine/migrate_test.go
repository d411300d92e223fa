package engine

import (
	"encoding/json"
	"flag"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

var freeze = flag.String("engine.freeze", "", "a folder of testdata with a stacker.yaml, to which TestFreeze writes what a build of it leaves")

// TestFreeze makes a frozen state, for the code after this to migrate.
func TestFreeze(t *testing.T) {
	if *freeze == "" {
		t.Skip("no -engine.freeze")
	}
	state := t.TempDir()
	images, err := json.MarshalIndent(buildProject(t, *freeze, state).manifests, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(*freeze, "manifests.json"), append(images, '\n'), 0o644); err != nil {
		t.Fatal(err)
	}
	runTar(t, "-czf", filepath.Join(*freeze, "state.tar.gz"), "-C", state, "--exclude=./tmp", "--exclude=./in-use", ".")
}

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
			dir, state, want := thaw(t, frozen)
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

// TestMigrateOpaque builds with an older state of which a layer has an opaque folder: that
// layer is built again, and told why, and what was built on it if it comes out otherwise.
func TestMigrateOpaque(t *testing.T) {
	frozen, state, was := thaw(t, "testdata/opaque-2")
	got := buildProject(t, frozen, state)
	if len(got.ran) != 2 || got.manifests["old"] != was["old"] || got.manifests["new"] == was["new"] {
		t.Errorf("%d steps ran, the images are %v, and were %v", len(got.ran), got.manifests, was)
	}
	if !maps.Equal(got.manifests, buildProject(t, frozen, t.TempDir()).manifests) {
		t.Error("the images are not those of a build without cache")
	}
}

// thaw copies a frozen state and its project, and returns the images that were made.
func thaw(t *testing.T, frozen string) (dir, state string, manifests map[string]string) {
	t.Helper()
	dir, state = t.TempDir(), t.TempDir()
	if err := os.CopyFS(dir, os.DirFS(frozen)); err != nil {
		t.Fatal(err)
	}
	runTar(t, "-xzf", filepath.Join(frozen, "state.tar.gz"), "-C", state)
	raw, err := os.ReadFile(filepath.Join(frozen, "manifests.json"))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(raw, &manifests); err != nil {
		t.Fatal(err)
	}
	return dir, state, manifests
}

func runTar(t *testing.T, args ...string) {
	t.Helper()
	if out, err := exec.Command("tar", append([]string{"--xattrs", "--xattrs-include=*"}, args...)...).CombinedOutput(); err != nil {
		t.Fatal(string(out))
	}
}
