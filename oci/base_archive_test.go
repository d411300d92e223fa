package oci

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	ispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// A tarred is a file of an archive: its content, or a link's target.
type tarred struct{ name, content, link string }

func packFiles(t testing.TB, files ...tarred) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, f := range files {
		hdr := &tar.Header{Name: f.name, Typeflag: tar.TypeReg, Size: int64(len(f.content)), Mode: 0o644}
		if f.link != "" {
			hdr.Typeflag, hdr.Linkname = tar.TypeSymlink, f.link
		}
		if err := w.WriteHeader(hdr); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, f.content); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// archiveOf makes a file of an archive's content.
func archiveOf(t *testing.T, content []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "image.tar")
	must(t, os.WriteFile(path, content, 0o644))
	return path
}

func TestBaseFromArchiveOfLayout(t *testing.T) {
	l, layer := makeLayout(t), tarOf(t, tar.Header{Name: "file"})
	one, two := l.image(false, amd64, layer), l.image(true, amd64, layer, tarOf(t, tar.Header{Name: "other"}))
	l.tags(map[string]Descriptor{"one": one, "two:2": two})
	var files []tarred
	must(t, filepath.WalkDir(l.path, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		text, err := os.ReadFile(path)
		files = append(files, tarred{name: "./" + strings.TrimPrefix(path, l.path+"/"), content: string(text)})
		return err
	}))
	path := archiveOf(t, packFiles(t, files...))
	for tag, want := range map[string]Descriptor{"one": one, "two:2": two} {
		base, err := newStore(t).BaseFromLayout(t.Context(), path, tag, amd64)
		if err != nil || base.Manifest != want.Digest || base.Layers[0].DiffID != digest.FromBytes(layer) {
			t.Errorf("%s: %+v, %v", tag, base, err)
		}
	}
	if _, err := ResolveLayout(t.Context(), path, "", amd64); err == nil || !strings.Contains(err.Error(), "has 2 images: name one by its tag; it has one, two:2") {
		t.Error(err)
	}
}

// dockerArchive makes what docker save writes: layers in folders, the second image's
// first layer a link to the first image's, and one compressed as other tools do.
func dockerArchive(t testing.TB) (archive []byte, diffIDs [2]digest.Digest) {
	t.Helper()
	first, second := tarOf(t, tar.Header{Name: "file"}), tarOf(t, tar.Header{Name: "other"})
	diffIDs = [2]digest.Digest{digest.FromBytes(first), digest.FromBytes(second)}
	var packed bytes.Buffer
	w := gzip.NewWriter(&packed)
	if _, err := w.Write(second); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	config := func(ids ...digest.Digest) string {
		c := ispec.Image{Platform: amd64, RootFS: ispec.RootFS{Type: "layers", DiffIDs: ids}}
		text, err := json.Marshal(c)
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	return packFiles(t,
		tarred{name: "a/layer.tar", content: string(first)},
		tarred{name: "b/layer.tar", link: "../a/layer.tar"},
		tarred{name: "c.tar.gz", content: packed.String()},
		tarred{name: "one.json", content: config(diffIDs[0])},
		tarred{name: "two.json", content: config(diffIDs[0], diffIDs[1])},
		tarred{name: "manifest.json", content: `[{"Config":"one.json","RepoTags":["app:latest","docker.io/group/app:1"],"Layers":["a/layer.tar"]},
			{"Config":"two.json","RepoTags":null,"Layers":["b/layer.tar","c.tar.gz"]},
			{"Config":"two.json","RepoTags":["localhost/two:1"],"Layers":["b/layer.tar","c.tar.gz"]}]`},
	), diffIDs
}

func TestBaseFromDockerArchive(t *testing.T) {
	content, diffIDs := dockerArchive(t)
	path, s := archiveOf(t, content), newStore(t)
	for tag, layers := range map[string]int{
		"app": 1, "app:latest": 1, "docker.io/library/app:latest": 1, "group/app:1": 1, "docker.io/group/app:1": 1, "localhost/two:1": 2,
		"app:2": 0, "two:1": 0,
	} {
		base, err := s.BaseFromLayout(t.Context(), path, tag, amd64)
		if layers == 0 {
			if err == nil || !strings.Contains(err.Error(), "it has app:latest, docker.io/group/app:1, localhost/two:1") {
				t.Errorf("%s: %v", tag, err)
			}
			continue
		}
		if err != nil || len(base.Layers) != layers {
			t.Errorf("%s: %+v, %v", tag, base, err)
			continue
		}
		for i, layer := range base.Layers {
			if layer.DiffID != diffIDs[i] {
				t.Errorf("%s: layer %d is %s", tag, i, layer.DiffID)
			}
			must(t, s.inspect(layer.Descriptor))
		}
	}
}

func TestArchivesThatAreNone(t *testing.T) {
	config := `{"rootfs":{"type":"layers","diff_ids":["` + digest.FromString("x").String() + `"]}}`
	for name, c := range map[string]struct {
		files []tarred
		want  string
	}{
		"nothing":          {nil, "no archive of an image: it has neither index.json nor manifest.json"},
		"no config":        {[]tarred{{name: "manifest.json", content: `[{"Config":"c"}]`}}, "manifest.json: open c: file does not exist"},
		"no layer":         {[]tarred{{name: "c", content: config}, {name: "manifest.json", content: `[{"Config":"c","Layers":["l"]}]`}}, "open l: file does not exist"},
		"link to itself":   {[]tarred{{name: "l", link: "l"}, {name: "c", content: config}, {name: "manifest.json", content: `[{"Config":"c","Layers":["l"]}]`}}, "open l: file does not exist"},
		"number of layers": {[]tarred{{name: "c", content: config}, {name: "manifest.json", content: `[{"Config":"c"}]`}}, "it has 1 layers, not 0"},
		"no JSON":          {[]tarred{{name: "manifest.json", content: "{"}}, "manifest.json: unexpected end of JSON"},
		"no index":         {[]tarred{{name: "index.json", content: "{"}}, "index.json: unexpected end of JSON"},
		"another layer": {[]tarred{{name: "l", content: "y"}, {name: "c", content: config}, {name: "manifest.json", content: `[{"Config":"c","Layers":["l"]}]`}},
			"its content's digest is"},
	} {
		_, err := newStore(t).BaseFromLayout(t.Context(), archiveOf(t, packFiles(t, c.files...)), "", amd64)
		if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v", name, err)
		}
	}
	path := archiveOf(t, []byte{0x1f, 0x8b, 8, 0, 0})
	if _, err := ResolveLayout(t.Context(), path, "", amd64); err == nil || !strings.Contains(err.Error(), "it is compressed: uncompress it with gunzip") {
		t.Error(err)
	}
}

// Whatever an archive is, its image is what its digests say, or there is none.
func FuzzArchive(f *testing.F) {
	content, _ := dockerArchive(f)
	f.Add(content)
	f.Add(packFiles(f, tarred{name: "index.json", content: `{"manifests":[{}]}`}, tarred{name: "a", link: "a"}))
	f.Fuzz(func(t *testing.T, content []byte) {
		path := archiveOf(t, content)
		src, err := openLayoutSource(path)
		if err != nil {
			return
		}
		for _, d := range src.index.Manifests {
			if d.Annotations[dockerName] == "" {
				continue
			}
			if _, err := checkedDocument(t.Context(), src, d); err != nil {
				t.Errorf("a manifest that was made: %v", err)
			}
		}
		_, _ = newStore(t).BaseFromLayout(t.Context(), path, "", amd64)
	})
}
