package oci

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	ispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"github.com/layerbuild/layerbuild/locks"
)

// imageOf packs a folder with one file into an image.
func imageOf(t *testing.T, s *Store, content string) *Image {
	t.Helper()
	dir := t.TempDir()
	must(t, os.Chtimes(dir, epoch, epoch))
	write(t, filepath.Join(dir, "file"), content)
	p, err := s.Pack(context.Background(), dir, PackOptions{Epoch: epoch})
	must(t, err)
	image, err := Compose(ImageSpec{Layers: []SpecLayer{{p.Layer, "test"}}, Epoch: epoch, OS: "linux", Arch: "amd64"})
	must(t, err)
	return image
}

func newLayout(t *testing.T) *Layout {
	t.Helper()
	l, err := CreateLayout(filepath.Join(t.TempDir(), "deep/er/oci"))
	must(t, err)
	return l
}

func tagNames(t *testing.T, l *Layout) string {
	t.Helper()
	tags, err := l.Tags()
	must(t, err)
	var names []string
	for _, tag := range tags {
		names = append(names, tag.Name)
	}
	return strings.Join(names, " ")
}

func TestLayoutIsReadByOthers(t *testing.T) {
	s, l := newStore(t), newLayout(t)
	image := imageOf(t, s, "hello")
	must(t, l.Put(context.Background(), s, map[string]*Image{"web": image}))
	ref := l.path + ":web"

	if out := run(t, "umoci", "ls", "--layout", l.path); strings.TrimSpace(out) != "web" {
		t.Errorf("umoci ls: %q", out)
	}
	bundle := filepath.Join(t.TempDir(), "bundle")
	run(t, "umoci", "unpack", "--image", ref, bundle)
	if got, err := os.ReadFile(filepath.Join(bundle, "rootfs/file")); err != nil || string(got) != "hello" {
		t.Errorf("unpacked by umoci: %q, %v", got, err)
	}
	var inspected struct{ Digest string }
	must(t, json.Unmarshal([]byte(run(t, "skopeo", "inspect", "oci:"+ref)), &inspected))
	if inspected.Digest != image.Manifest.Digest.String() {
		t.Errorf("skopeo says %s, want %s", inspected.Digest, image.Manifest.Digest)
	}
	run(t, "skopeo", "copy", "--quiet", "oci:"+ref, "dir:"+filepath.Join(t.TempDir(), "copy"))
	podman := []string{"--root", filepath.Join(t.TempDir(), "root"), "--runroot", filepath.Join(t.TempDir(), "run"), "--storage-driver", "vfs"}
	lower, err := os.MkdirTemp("", "layout") // podman makes a name of the path, which must be lower case
	must(t, err)
	defer os.RemoveAll(lower)
	run(t, "cp", "-r", l.path, lower)
	id := strings.TrimSpace(run(t, "podman", append(podman, "pull", "--quiet", "oci:"+lower+"/oci:web")...))
	if out := run(t, "podman", append(podman, "image", "inspect", "--format", "{{.Digest}}", id)...); strings.TrimSpace(out) != image.Manifest.Digest.String() {
		t.Errorf("podman says %s", out)
	}
	again, err := s.BaseFromLayout(context.Background(), l.path, "web", amd64)
	if err != nil || again.Manifest != image.Manifest.Digest {
		t.Errorf("taken in again: %+v, %v", again, err)
	}
}

// Zstd layers are read by podman's library, which Debian's umoci cannot.
func TestZstdIsReadBySkopeo(t *testing.T) {
	s, l := newStore(t), newLayout(t)
	dir := t.TempDir()
	write(t, filepath.Join(dir, "file"), "hello")
	p, err := s.Pack(context.Background(), dir, PackOptions{Compression: Zstd, Epoch: epoch})
	must(t, err)
	image, err := Compose(ImageSpec{Layers: []SpecLayer{{p.Layer, "test"}}, Epoch: epoch, OS: "linux", Arch: "amd64"})
	must(t, err)
	must(t, l.Put(context.Background(), s, map[string]*Image{"z": image}))
	out := filepath.Join(t.TempDir(), "out")
	run(t, "skopeo", "copy", "--quiet", "--dest-decompress", "oci:"+l.path+":z", "dir:"+out)
	if _, err := os.Stat(filepath.Join(out, p.DiffID.Encoded())); err != nil {
		t.Error(err)
	}
}

func TestLayoutHas(t *testing.T) {
	ctx := context.Background()
	s, l := newStore(t), newLayout(t)
	image, other := imageOf(t, s, "one"), imageOf(t, s, "two")
	has := func(want bool, what string) {
		t.Helper()
		got, err := l.Has("web", image.Manifest.Digest)
		if err != nil || got != want {
			t.Errorf("%s: %v, %v", what, got, err)
		}
	}
	has(false, "an empty layout")
	must(t, l.Put(ctx, s, map[string]*Image{"web": image}))
	has(true, "after Put")
	must(t, l.Put(ctx, s, map[string]*Image{"web": other}))
	has(false, "after another Put")
	for _, d := range []Descriptor{image.Config, image.Layers[0].Descriptor, image.Manifest} {
		must(t, l.Put(ctx, s, map[string]*Image{"web": image}))
		has(true, "put again")
		must(t, os.Truncate(l.blobPath(d.Digest), d.Size-1))
		has(false, d.MediaType+" is cut")
		if tags, err := l.Tags(); err != nil || len(tags) != 1 || len(tags[0].Missing) != 1 || tags[0].Missing[0].Digest != d.Digest {
			t.Errorf("tags %+v, %v", tags, err)
		}
		must(t, l.Put(ctx, s, map[string]*Image{"web": image})) // repairs
		has(true, d.MediaType+" was put again")
		must(t, os.Remove(l.blobPath(d.Digest)))
		has(false, d.MediaType+" is gone")
	}
	must(t, l.Put(ctx, s, map[string]*Image{"web": image}))
	before, err := os.Stat(filepath.Join(l.path, "index.json"))
	must(t, err)
	must(t, l.Put(ctx, s, map[string]*Image{"web": image}))
	after, err := os.Stat(filepath.Join(l.path, "index.json"))
	must(t, err)
	if !os.SameFile(before, after) {
		t.Error("index.json was written although nothing changed")
	}
	must(t, l.Remove(ctx, "web", "none"))
	has(false, "removed")
	if got := tagNames(t, l); got != "" {
		t.Errorf("tags %q", got)
	}
}

// umoci's engines lose references when several write; see libraries.md. Every
// writer here opens the layout for itself, as a process of its own would.
func TestParallelWritersLoseNoTag(t *testing.T) {
	s := newStore(t)
	path := filepath.Join(t.TempDir(), "oci")
	images := []*Image{imageOf(t, s, "one"), imageOf(t, s, "two")}
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			for i := range 10 {
				l, err := CreateLayout(path)
				if err == nil {
					err = l.Put(context.Background(), s, map[string]*Image{fmt.Sprintf("tag-%d-%d", w, i): images[i%2]})
				}
				if err == nil && i%3 == 0 {
					err = l.Remove(context.Background(), fmt.Sprintf("tag-%d-%d", w, i))
				}
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	l, err := OpenLayout(path)
	must(t, err)
	tags, err := l.Tags()
	must(t, err)
	if len(tags) != 4*6 {
		t.Errorf("%d tags, want 24", len(tags))
	}
	for _, tag := range tags {
		if len(tag.Missing) > 0 {
			t.Errorf("%s lacks %v", tag.Name, tag.Missing)
		}
	}
	if got := names(t, filepath.Dir(path)); got != "oci" {
		t.Errorf("beside the layout: %s", got)
	}
	if got := names(t, path); got != "blobs index.json oci-layout" {
		t.Errorf("in the layout: %s", got)
	}
}

func TestWhatOtherToolsWroteIsKept(t *testing.T) {
	ctx := context.Background()
	s, l := newStore(t), newLayout(t)
	must(t, l.Put(ctx, s, map[string]*Image{"mine": imageOf(t, s, "one")}))
	run(t, "umoci", "new", "--image", l.path+":theirs")
	run(t, "umoci", "tag", "--image", l.path+":theirs", "also")
	data, err := os.ReadFile(filepath.Join(l.path, "index.json"))
	must(t, err)
	edited := strings.Replace(string(data), "{", `{"annotations":{"top":"kept"},"x-future":[1,2],`, 1)
	edited = strings.Replace(edited, `"annotations":{"org.opencontainers.image.ref.name":"also"`, `"x-unknown":{"a":1},"annotations":{"org.opencontainers.image.ref.name":"also","extra":"kept"`, 1)
	must(t, os.WriteFile(filepath.Join(l.path, "index.json"), []byte(edited), 0o644))

	must(t, l.Put(ctx, s, map[string]*Image{"mine": imageOf(t, s, "two")}))
	data, err = os.ReadFile(filepath.Join(l.path, "index.json"))
	must(t, err)
	for _, want := range []string{`"top":"kept"`, `"x-future":[1,2]`, `"x-unknown":{"a":1}`, `"extra":"kept"`} {
		if !strings.Contains(string(data), want) {
			t.Errorf("%s is gone: %s", want, data)
		}
	}
	if got := tagNames(t, l); got != "mine theirs also" {
		t.Errorf("tags %q", got)
	}
	run(t, "umoci", "gc", "--layout", l.path)
	if got, err := l.Has("mine", imageOf(t, s, "two").Manifest.Digest); err != nil || !got {
		t.Errorf("after umoci gc: %v, %v", got, err)
	}
}

func TestDoubledTagsBecomeOne(t *testing.T) {
	ctx := context.Background()
	s := newStore(t)
	made := makeLayout(t)
	a, b, c := made.image(false, amd64), made.image(true, amd64), made.image(false, ispec.Platform{OS: "x"})
	l, err := OpenLayout(made.tags(map[string]Descriptor{"web#1": a, "web#2": b, "other": c}))
	must(t, err)
	image := imageOf(t, s, "one")
	must(t, l.Put(ctx, s, map[string]*Image{"web": image}))
	if got, err := l.Has("web", image.Manifest.Digest); err != nil || !got || len(strings.Fields(tagNames(t, l))) != 2 {
		t.Errorf("%v, %v, tags %s", got, err, tagNames(t, l))
	}
}

func TestNoLayoutIsLeftAlone(t *testing.T) {
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	write(t, at("file"), "x")
	write(t, at("folder/precious"), "x")
	write(t, at("newer/oci-layout"), `{"imageLayoutVersion":"9.0.0"}`)
	write(t, at("newer/index.json"), `{}`)
	must(t, os.Mkdir(at("newer/blobs"), 0o755))
	for name, index := range map[string]string{"broken": "{", "list": "[]", "null": "null", "entry": `{"manifests":[5]}`, "manifests": `{"manifests":{}}`} {
		write(t, at(name+"/oci-layout"), `{"imageLayoutVersion":"1.0.0"}`)
		write(t, at(name+"/index.json"), index)
		must(t, os.Mkdir(at(name+"/blobs"), 0o755))
	}
	before := manifestOf(t, dir)
	for name, want := range map[string]string{"file": "is not a folder", "folder": "is not an OCI layout", "newer": "is not an OCI layout",
		"broken": "index.json is broken", "list": "index.json is broken", "null": "index.json is broken", "entry": "entry 1", "manifests": "index.json is broken"} {
		for what, open := range map[string]func(string) (*Layout, error){"open": OpenLayout, "create": CreateLayout} {
			if _, err := open(at(name)); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s %s: %v, want %q", what, name, err, want)
			}
		}
	}
	sameTree(t, before, manifestOf(t, dir))
	if _, err := OpenLayout(at("none")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a missing one: %v", err)
	}
}

func TestLayoutsAreMade(t *testing.T) {
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	must(t, os.Mkdir(at("empty"), 0o700))
	must(t, os.Chown(at("empty"), 1000, 1001))
	// What a killed process may leave.
	must(t, os.MkdirAll(at("half/blobs/sha256"), 0o755))
	write(t, at("half/.layerbuild-123"), "{")
	write(t, at("most/oci-layout"), `{"imageLayoutVersion":"1.0.0"}`)
	for _, name := range []string{"empty", "half", "most", "none", "no/such/parent"} {
		l, err := CreateLayout(at(name))
		must(t, err)
		must(t, l.Remove(context.Background(), "none"))
		run(t, "umoci", "ls", "--layout", at(name))
	}
	fi, err := os.Stat(at("empty"))
	if err != nil || fi.Mode().Perm() != 0o700 {
		t.Errorf("the empty folder was replaced: %v, %v", fi, err)
	}
}

func TestTagsMustBeReferenceNames(t *testing.T) {
	s, l := newStore(t), newLayout(t)
	image := imageOf(t, s, "x")
	for _, tag := range []string{"", "a b", "-a", "a//b", "ä"} {
		if err := l.Put(context.Background(), s, map[string]*Image{tag: image}); err == nil {
			t.Errorf("%q was taken for a tag", tag)
		}
	}
	for _, tag := range []string{"a", "a.b-c_d/e:1", "A--b@x+y"} {
		must(t, l.Put(context.Background(), s, map[string]*Image{tag: image}))
	}
}

func TestALayoutOfAUserStaysTheirs(t *testing.T) {
	s, l := newStore(t), newLayout(t)
	for _, dir := range []string{"", "blobs", "blobs/sha256"} {
		must(t, os.Chown(filepath.Join(l.path, dir), 1000, 1001))
	}
	image := imageOf(t, s, "x")
	must(t, l.Put(context.Background(), s, map[string]*Image{"web": image}))
	for _, path := range []string{filepath.Join(l.path, "index.json"), l.blobPath(image.Manifest.Digest), l.blobPath(image.Layers[0].Digest)} {
		var st unix.Stat_t
		must(t, unix.Stat(path, &st))
		if st.Uid != 1000 || st.Gid != 1001 || st.Mode&0o777 != 0o644 {
			t.Errorf("%s: owner %d:%d, mode %o", path, st.Uid, st.Gid, st.Mode)
		}
	}
}

func TestLockIsWaitedForUntilCancelled(t *testing.T) {
	s, l := newStore(t), newLayout(t)
	image := imageOf(t, s, "x")
	ctx, cancel := context.WithCancel(context.Background())
	err := l.locked(context.Background(), locks.Exclusive, func() error {
		cancel()
		return l.Put(ctx, s, map[string]*Image{"web": image})
	})
	if !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

func TestDestroy(t *testing.T) {
	l := newLayout(t)
	must(t, l.Destroy(context.Background()))
	if got := names(t, filepath.Dir(l.path)); got != "" {
		t.Errorf("left: %s", got)
	}
}

func TestGC(t *testing.T) {
	ctx := context.Background()
	s, l := newStore(t), newLayout(t)
	kept, replaced := imageOf(t, s, "kept"), imageOf(t, s, "replaced")
	must(t, l.Put(ctx, s, map[string]*Image{"a": replaced}))
	must(t, l.Put(ctx, s, map[string]*Image{"a": kept}))
	made := madeLayout{t, l.path} // an index that another tool has put there
	index := made.indexOf(false, made.image(false, amd64, []byte("layer")))
	run(t, "sed", "-i", `s|"manifests":\[|&{"mediaType":"`+index.MediaType+`","digest":"`+string(index.Digest)+`","size":`+fmt.Sprint(index.Size)+`},|`, filepath.Join(l.path, "index.json"))

	freed, err := l.GC(ctx, time.Hour)
	if err != nil || freed != 0 {
		t.Errorf("young blobs: %d bytes, %v", freed, err)
	}
	write(t, filepath.Join(l.path, ".layerbuild-1"), "half")
	freed, err = l.GC(ctx, 0)
	want := 4 + replaced.Manifest.Size + replaced.Config.Size + replaced.Layers[0].Size
	if err != nil || freed != want {
		t.Errorf("%d bytes were freed, want %d, %v", freed, want, err)
	}
	tags, err := l.Tags()
	if err != nil || len(tags) != 1 || len(tags[0].Missing) > 0 {
		t.Errorf("%+v, %v", tags, err)
	}
	if got := len(strings.Fields(names(t, filepath.Join(l.path, "blobs/sha256")))); got != 3+4 {
		t.Errorf("%d blobs are left, want 7", got)
	}
}

// FuzzIndex: no index.json makes the parser panic, and what is parsed is
// written back with the same meaning.
func FuzzIndex(f *testing.F) {
	f.Add([]byte(`{"schemaVersion":2,"manifests":[{"digest":"sha256:x","size":1,"annotations":{"org.opencontainers.image.ref.name":"a"}}],"x":null}`))
	f.Add([]byte(`{"manifests":null}`))
	f.Add([]byte(`[]`))
	f.Fuzz(func(t *testing.T, data []byte) {
		index, err := parseIndex(data)
		if err != nil {
			return
		}
		image := descriptorOf(ispec.MediaTypeImageManifest, []byte("x"))
		others := len(index.entries) - index.count("a")
		index.set("a", image)
		out, err := index.marshal()
		if err != nil {
			t.Fatal(err)
		}
		again, err := parseIndex(out)
		if err != nil {
			t.Fatalf("%s: %v", out, err)
		}
		if i := again.find("a"); i < 0 || again.entries[i].Digest != image.Digest || again.count("a") != 1 || len(again.entries) != others+1 {
			t.Errorf("%s became %s", data, out)
		}
	})
}

// FuzzManifest: no manifest or config makes the parsers panic, and each base
// that comes out can be built on.
func FuzzManifest(f *testing.F) {
	f.Add([]byte(`{"schemaVersion":2,"config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","size":0},"layers":[]}`),
		[]byte(`{"os":"linux","architecture":"amd64","rootfs":{"type":"layers","diff_ids":[]},"history":[{"empty_layer":true}]}`))
	f.Add([]byte(`{"schemaVersion":2,"layers":[{"mediaType":"application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"}]}`), []byte(`null`))
	f.Fuzz(func(t *testing.T, manifest, config []byte) {
		m, err := parseManifest(manifest)
		if err != nil {
			return
		}
		base, err := newBase(m.Config.Digest, m, config)
		if err != nil {
			return
		}
		if _, err := Compose(ImageSpec{Base: base, Cmd: []string{"x"}}); err != nil {
			t.Error(err)
		}
	})
}
