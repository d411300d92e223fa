package engine

import (
	"maps"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestMoved builds with copies of a state folder, which may have lost owners, modes, times, extended
// attributes or content of what is in it: all layers are found in it, and what is built on them is what it
// is without it.
func TestMoved(t *testing.T) {
	t.Setenv("PASSED", "1")
	f := newFixture(t)
	f.yaml("    put made 1", "    put made 1\n    replace d one") // on the base's d that is not there
	before := f.build()
	for _, row := range []struct{ what, copy string }{
		{"careful", "cp -a from/. to"},
		{"plain", "cp -r from/. to"},
		{"a tar without extended attributes", "tar -C from -c . | tar -C to -x"},
		{"with a file of a snapshot lost", "cp -a from/. to; rm to/snapshots/*/fs/everything"},
		{"with other owners in it", "cp -a from/. to; find to/snapshots to/mirrors -type f -exec chown 7:7 {} +"},
		{"without blobs", "cp -r from/. to; rm -r to/layout/blobs"},
		{"without records of packing and blobs", "cp -r from/. to; rm -r to/records/pack to/layout/blobs/sha256/*"},
	} {
		t.Run(row.what, func(t *testing.T) {
			sub := *f
			sub.t, sub.state = t, filepath.Join(t.TempDir(), "to")
			cmd := exec.Command("sh", "-ec", "mkdir -m 700 to; ln -s "+f.state+" from;"+row.copy)
			cmd.Dir = filepath.Dir(sub.state)
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			start := time.Now()
			if !strings.Contains(row.what, "without") {
				if missed := sub.missed(before); missed != "" {
					t.Errorf("missed %q", missed)
				}
				t.Logf("all hits took %v", time.Since(start))
			}
			f.write("file", row.what)
			after := sub.build()
			sub.state = t.TempDir()
			if cold := sub.build(); !maps.Equal(after.manifests, cold.manifests) {
				t.Errorf("with the copy the images are %v, and without it %v", after.manifests, cold.manifests)
			}
			f.write("file", "content of file")
		})
	}
}
