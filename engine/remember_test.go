package engine

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/layerbuild/layerbuild/layers"
	"github.com/layerbuild/layerbuild/progress"
)

// nestedProject has eight layers, each of which reads the one before and makes labels.
func nestedProject(t *testing.T) (dir string) {
	t.Helper()
	dir = t.TempDir()
	var text strings.Builder
	for n := range 8 {
		fmt.Fprintf(&text, "layer%d:\n  from: {type: scratch}\n  run: see it\n  generate_labels: label n %d\n", n, n)
		if n > 0 {
			fmt.Fprintf(&text, "  imports: [{path: stacker://layer%d/it, dest: /before}]\n", n-1)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "stacker.yaml"), []byte(text.String()), 0o644); err != nil {
		t.Fatal(err)
	}
	return dir
}

// buildChanged builds as buildProject does, after change has changed the Builder, and
// fails when it takes long.
func buildChanged(t *testing.T, dir, state, output string, change func(*Builder)) built {
	t.Helper()
	graph := must(layers.Load(filepath.Join(dir, "stacker.yaml"), layers.Options{}))
	var log bytes.Buffer
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	b := must(open(ctx, Options{StateDir: state, OCIDir: output, LayerTypes: []string{TypeTar}, Sink: progress.NewPlain(&log, progress.Verbose)}, graph))
	defer b.close()
	fake := &fakeRunner{b: b}
	b.mayMount, b.runner = true, fake
	change(b)
	if err := b.build(ctx); err != nil {
		t.Fatalf("%v\n%s", err, &log)
	}
	out := built{manifests: map[string]string{}, scripts: fake.scripts, log: log.String()}
	for l, o := range b.layers {
		out.manifests[l.Name] = string(o.image.Manifest.Digest)
	}
	return out
}

// TestVerifyDigest changes a file in a way that stat does not tell. A build does not see
// that, --no-cache does, and verify tells it.
func TestVerifyDigest(t *testing.T) {
	dir, state, output := t.TempDir(), t.TempDir(), filepath.Join(t.TempDir(), "oci")
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("stacker.yaml", "app:\n  from: {type: scratch}\n  imports: [{path: file, dest: /file}]\n")
	write("file", "1")
	file := must(os.OpenFile(filepath.Join(dir, "file"), os.O_RDWR, 0))
	defer file.Close()
	shared := must(unix.Mmap(int(file.Fd()), 0, 1, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED))
	defer unix.Munmap(shared)
	shared[0] = '2'              // from now on the page is dirty, and to write to it changes no time
	time.Sleep(time.Second / 10) // until the time is old enough to be believed
	first := buildChanged(t, dir, state, output, func(*Builder) {})
	shared[0] = '3'
	unseen := buildChanged(t, dir, state, output, func(*Builder) {}).manifests["app"] == first.manifests["app"]

	graph := must(layers.Load(filepath.Join(dir, "stacker.yaml"), layers.Options{}))
	said := &held{}
	b := must(open(t.Context(), Options{StateDir: state, OCIDir: output, Verify: []string{AllLayers}, Sink: said}, graph))
	b.mayMount, b.runner = true, &fakeRunner{b: b}
	err := b.build(t.Context())
	b.close()
	var differs *DifferError
	if errors.As(err, &differs) != unseen || (reported(said, progress.Warning, "file is not what it was digested as") == 1) != unseen {
		t.Errorf("the change was unseen: %t; verify says %v, %v", unseen, err, said.events)
	}
	again := buildChanged(t, dir, state, output, func(b *Builder) { b.NoCache = []string{"app"} })
	if again.manifests["app"] == first.manifests["app"] {
		t.Error("--no-cache has not read the file")
	}
	if after := buildChanged(t, dir, state, output, func(*Builder) {}); after.manifests["app"] != again.manifests["app"] {
		t.Error("what --no-cache has read is not believed afterwards")
	}
}

// remove removes all that matches a pattern in a folder.
func remove(t *testing.T, dir, pattern string) {
	t.Helper()
	for _, path := range must(filepath.Glob(filepath.Join(dir, pattern))) {
		if err := os.RemoveAll(path); err != nil {
			t.Fatal(err)
		}
	}
}

// TestOneSlot has one slot of each class, and eight layers each of whose steps needs
// nested ones: snapshots to be unpacked, paths in them to be digested, labels.
func TestOneSlot(t *testing.T) {
	dir, state, output := nestedProject(t), t.TempDir(), filepath.Join(t.TempDir(), "oci")
	one := func(b *Builder) { b.limits = limits{newSlots(1), newSlots(1), newSlots(1), newSlots(1)} }
	first := buildChanged(t, dir, state, output, one)
	if len(first.scripts) != 16 {
		t.Errorf("%d scripts ran\n%s", len(first.scripts), first.log)
	}
	for _, gone := range []string{"records/digest/*", "records/labels/*", "records/[dl]*/*", "records/rootfs/*"} {
		remove(t, state, "snapshots/*")
		remove(t, state, gone)
		again := buildChanged(t, dir, state, output, one)
		if !maps.Equal(again.manifests, first.manifests) {
			t.Errorf("%s: %v, want %v\n%s", gone, again.manifests, first.manifests, again.log)
		}
	}
}

// TestRemake damages what a step is about to read, so that only doing another layer's
// step once more brings it back. That happens in the same build, and once for all that need it.
func TestRemake(t *testing.T) {
	dir := t.TempDir()
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, "stacker.yaml"), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	const tool = "tool:\n  from: {type: scratch}\n  run: see tool\n"
	const reader = "%s:\n  from: {type: built, tag: tool}\n  run: put %[1]s %d\n"
	const importer = "imports:\n  from: {type: scratch}\n  imports: [{path: stacker://tool/tool, dest: /tool}]\n"
	for name, test := range map[string]struct {
		change string // what is built after the damage
		output string // "" is where it was
		ran    []string
	}{
		"its base":       {fmt.Sprintf(reader, "app", 2), "", []string{"put app 2", "see tool"}},
		"its bases":      {fmt.Sprintf(reader, "app", 2) + fmt.Sprintf(reader, "web", 2), "", []string{"put app 2", "put web 2", "see tool"}},
		"what it reads":  {fmt.Sprintf(reader, "app", 1) + importer, "", []string{"see tool"}},
		"what it writes": {fmt.Sprintf(reader, "app", 1), "other", []string{"see tool"}},
	} {
		t.Run(name, func(t *testing.T) {
			state, output := t.TempDir(), filepath.Join(t.TempDir(), "oci")
			write(tool + fmt.Sprintf(reader, "app", 1))
			first := buildChanged(t, dir, state, output, func(*Builder) {})
			remove(t, state, "snapshots/*")
			damage(t, state, output, first.manifests["tool"])
			write(tool + test.change)
			again := buildChanged(t, dir, state, output+test.output, func(*Builder) {})
			for i, script := range again.scripts {
				again.scripts[i] = strings.TrimSpace(strings.TrimPrefix(script, "#!/bin/sh -xe"))
			}
			slices.Sort(again.scripts)
			if !slices.Equal(again.scripts, test.ran) || again.manifests["tool"] != first.manifests["tool"] {
				t.Errorf("%q ran, want %q; %v\n%s", again.scripts, test.ran, again.manifests, again.log)
			}
			if !strings.Contains(again.log, "making it again") || strings.Contains(again.log, "tool: cache miss because FIRST") {
				t.Errorf("it said\n%s", again.log)
			}
		})
	}
}

// damage changes a byte of the only layer of an image, in the state folder.
func damage(t *testing.T, state, output, manifest string) {
	t.Helper()
	var document struct{ Layers []struct{ Digest string } }
	readDocument(t, filepath.Join(output, "blobs", strings.Replace(manifest, ":", "/", 1)), &document)
	blob := filepath.Join(state, "layout/blobs", strings.Replace(document.Layers[0].Digest, ":", "/", 1))
	data := must(os.ReadFile(blob))
	data[len(data)/2] ^= 0x10
	if err := os.Remove(blob); err != nil { // the output may share it
		t.Fatal(err)
	}
	if err := os.WriteFile(blob, data, 0o444); err != nil {
		t.Fatal(err)
	}
}

func readDocument(t *testing.T, path string, document any) {
	t.Helper()
	if err := json.Unmarshal(must(os.ReadFile(path)), document); err != nil {
		t.Fatal(err)
	}
}
