package engine

import (
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/layerbuild/layerbuild/buildcache"
)

// TestParts names every part of the keys of a layer that reads something of every
// kind. A part that comes or goes changes all keys: it needs a new format version
// and a migration.
func TestParts(t *testing.T) {
	t.Setenv("PASSED", "1")
	t.Setenv("http_proxy", "http://proxy.invalid:1")
	f := newFixture(t)
	f.build()
	for kind, want := range map[buildcache.Kind]string{
		buildcache.Resolve: `
			BASE tar
			FORMAT compressor
			PLATFORM platform`,
		buildcache.Digest: `
			BASE chain
			DEFINITION content
			DEFINITION normalize
			DEFINITION path`,
		buildcache.Pack: `
			BASE diff
			DEFINITION compression
			DEFINITION type
			FORMAT compressor`,
		buildcache.Labels: `
			BASE chain
			BIND bind /bound
			DEFINITION generate_labels
			DEFINITION network
			ENV env A
			ENV env B
			ENV env PASSED
			ENV env STACKER_LAYER_NAME
			EPOCH epoch
			FORMAT compatibility
			PLATFORM platform`,
		buildcache.Rootfs: `
			BASE base
			BIND bind /bound
			DEFINITION network
			DEFINITION run
			ENV env A
			ENV env B
			ENV env PASSED
			ENV env STACKER_LAYER_NAME
			EPOCH epoch
			FORMAT compatibility
			IMPORT copy 1 /copied
			IMPORT copy 2 /copieddir
			IMPORT copy 3 /fromlayer
			IMPORT import /stacker/imports/b
			IMPORT import /stacker/imports/dir
			IMPORT import /stacker/imports/file
			OVERLAY overlay 0 /over
			PLATFORM platform`,
	} {
		parts := partsOf(t, f.state, kind)
		if got, want := strings.Join(parts, "\n"), strings.ReplaceAll(strings.TrimSpace(want), "\t", ""); got != want {
			t.Errorf("a %s step reads\n%s\nwant\n%s", kind, got, want)
		}
	}
}

// partsOf returns the inputs of the records of a kind; of rootfs steps, of those
// of layer app.
func partsOf(t *testing.T, state string, kind buildcache.Kind) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(state, "records", string(kind), "*", "*"))
	if err != nil {
		t.Fatal(err)
	}
	parts := map[string]bool{}
	for _, file := range files {
		var sealed struct{ Record buildcache.Record }
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(data, &sealed); err != nil {
			t.Fatal(err)
		}
		if kind == buildcache.Rootfs && sealed.Record.Origin.Layer != "app" {
			continue
		}
		for _, input := range sealed.Record.Inputs {
			parts[string(input.Code)+" "+input.Name] = true
		}
	}
	return slices.Sorted(maps.Keys(parts))
}
