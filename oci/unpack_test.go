package oci

import (
	"archive/tar"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"
)

// overlay mounts upper over lower and returns the merged view.
func overlay(t *testing.T, lower, upper string) string {
	t.Helper()
	work, merged := t.TempDir(), t.TempDir()
	options := "lowerdir=" + lower + ",upperdir=" + upper + ",workdir=" + work + ",redirect_dir=off,metacopy=off,index=off"
	must(t, unix.Mount("overlay", merged, "overlay", 0, options))
	t.Cleanup(func() { must(t, unix.Unmount(merged, unix.MNT_DETACH)) })
	return merged
}

// plainLayer keeps a tar as an uncompressed layer.
func plainLayer(t *testing.T, s *Store, content []byte) Layer {
	t.Helper()
	d, err := s.PutBytes(context.Background(), ispec.MediaTypeImageLayer, content)
	must(t, err)
	return Layer{d, d.Digest}
}

func names(t *testing.T, dir string) string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	must(t, err)
	var all []string
	for _, e := range entries {
		all = append(all, e.Name())
	}
	return strings.Join(all, " ")
}

// A layer that names a file in a folder but not the folder must leave the
// folder's owner and mode alone: umoci's overlayfs format makes it root's, 0755.
func TestUnpackKeepsFoldersThatTheLayerDoesNotName(t *testing.T) {
	s := newStore(t)
	lower, upper := t.TempDir(), t.TempDir()
	must(t, os.MkdirAll(filepath.Join(lower, "private/deep"), 0o700))
	must(t, os.Chown(filepath.Join(lower, "private"), 7, 8))
	must(t, os.Chtimes(filepath.Join(lower, "private"), epoch, epoch))
	must(t, os.Chmod(filepath.Join(lower, "private"), 0o700))
	root := overlay(t, lower, upper)
	must(t, s.Unpack(context.Background(), plainLayer(t, s, tarOf(t, tar.Header{Name: "private/new"})), root, nil))
	var st unix.Stat_t
	must(t, unix.Stat(filepath.Join(root, "private"), &st))
	if st.Mode&0o7777 != 0o700 || st.Uid != 7 || st.Gid != 8 || st.Mtim.Sec != epoch.Unix() {
		t.Errorf("mode %o, owner %d:%d, mtime %v", st.Mode&0o7777, st.Uid, st.Gid, time.Unix(st.Mtim.Unix()))
	}
}

func TestWhiteoutsDelete(t *testing.T) {
	s := newStore(t)
	lower, upper := t.TempDir(), t.TempDir()
	for _, name := range []string{"gone", "kept", "dir/a", "dir/sub/b", "opaque/old", "opaque/sub/old"} {
		write(t, filepath.Join(lower, name), "lower")
	}
	root := overlay(t, lower, upper)
	must(t, s.Unpack(context.Background(), plainLayer(t, s, tarOf(t,
		tar.Header{Name: ".wh.gone"}, tar.Header{Name: "dir/.wh.sub"}, tar.Header{Name: ".wh.neverwas"},
		tar.Header{Name: "opaque/new"}, tar.Header{Name: "opaque/.wh..wh..opq"}, // also after what it must not hide
	)), root, nil))
	for dir, want := range map[string]string{".": "dir kept opaque", "dir": "a", "opaque": "new"} {
		if got := names(t, filepath.Join(root, dir)); got != want {
			t.Errorf("%s holds %q, want %q", dir, got, want)
		}
	}
}

// What a step deletes and replaces on an overlay is packed as whiteouts, and
// unpacked on the same lower layer it gives the same view.
func TestWhiteoutsGoAroundInFull(t *testing.T) {
	ctx := context.Background()
	s := newStore(t)
	lower, upper := t.TempDir(), t.TempDir()
	for _, name := range []string{"gone1", "gone2", "kept", "replaced/old", "dirgone/x", "tofile/x", "todir"} {
		write(t, filepath.Join(lower, name), "lower")
	}
	root := overlay(t, lower, upper)
	at := func(name string) string { return filepath.Join(root, name) }
	for _, name := range []string{"gone1", "gone2", "replaced", "dirgone", "tofile", "todir"} {
		must(t, os.RemoveAll(at(name)))
	}
	write(t, at("replaced/new"), "upper")
	write(t, at("tofile"), "upper")
	write(t, at("todir/x"), "upper")
	write(t, at("fresh/x"), "upper")
	packed, err := s.Pack(ctx, upper, PackOptions{Compression: None, Epoch: epoch})
	must(t, err)

	entries := entriesOf(t, s, packed)
	for _, want := range []string{".wh.gone1", ".wh.gone2", ".wh.dirgone", "replaced/.wh..wh..opq"} {
		h, ok := entries[want]
		if !ok || h.Typeflag != tar.TypeReg || h.Size != 0 {
			t.Errorf("no entry %s in %v", want, entries)
		}
	}
	for name, h := range entries {
		for key := range h.PAXRecords {
			if strings.Contains(key, "overlay") {
				t.Errorf("%s has %s", name, key)
			}
		}
	}
	second := overlay(t, lower, t.TempDir())
	must(t, s.Unpack(ctx, packed.Layer, second, nil))
	sameTree(t, manifestOf(t, root), manifestOf(t, second))
}

// entriesOf returns the entries of an uncompressed layer.
func entriesOf(t *testing.T, s *Store, p Packed) map[string]*tar.Header {
	t.Helper()
	f, err := s.Open(p.Descriptor)
	must(t, err)
	defer f.Close()
	entries := map[string]*tar.Header{}
	tr := tar.NewReader(f)
	for {
		h, err := tr.Next()
		if err != nil {
			return entries
		}
		entries[h.Name] = h
	}
}

func TestUnpackChecksTheDiffID(t *testing.T) {
	s := newStore(t)
	l := plainLayer(t, s, append(tarOf(t, tar.Header{Name: "a"}), make([]byte, 5000)...)) // padding counts
	must(t, s.Unpack(context.Background(), l, t.TempDir(), nil))
	right := l.DiffID
	l.DiffID = digest.FromString("other")
	err := s.Unpack(context.Background(), l, t.TempDir(), nil)
	if !errors.Is(err, ErrCorrupt) || !strings.Contains(err.Error(), right.String()) || !strings.Contains(err.Error(), l.DiffID.String()) {
		t.Errorf("error %v", err)
	}
}

func TestDamagedBlobsArePutAside(t *testing.T) {
	ctx := context.Background()
	s := newStore(t)
	good := tarOf(t, tar.Header{Name: "a"})
	layout := makeLayout(t)
	path := layout.tags(map[string]Descriptor{"x": layout.image(false, amd64, good)})
	base, err := s.BaseFromLayout(ctx, path, "x", amd64)
	must(t, err)
	flip := func(d digest.Digest) {
		data, err := os.ReadFile(s.Path(d))
		must(t, err)
		data[len(data)/3] ^= 1
		must(t, os.Remove(s.Path(d)))
		must(t, os.WriteFile(s.Path(d), data, 0o444))
	}
	l := base.Layers[0]
	flip(l.Digest)
	if err := s.Unpack(ctx, l, t.TempDir(), nil); !errors.Is(err, ErrCorrupt) || s.Has(l.Descriptor) {
		t.Errorf("error %v, still there: %v", err, s.Has(l.Descriptor))
	}
	flip(base.Manifest)
	if _, err := s.Base(base.Manifest); !errors.Is(err, ErrCorrupt) {
		t.Errorf("a damaged manifest: %v", err)
	}
	if _, err = s.BaseFromLayout(ctx, path, "x", amd64); err != nil {
		t.Fatal(err)
	}
	must(t, s.Unpack(ctx, l, t.TempDir(), nil))
	if got := len(strings.Fields(names(t, s.state.Path("corrupt")))); got != 2 {
		t.Errorf("%d blobs were put aside, want 2", got)
	}
}

func TestUnpackRefuses(t *testing.T) {
	s := newStore(t)
	content := tarOf(t, tar.Header{Name: "a"})
	compressed := func(mediaType, tool string, args ...string) Layer {
		d, err := s.PutBytes(context.Background(), mediaType, filter(t, content, tool, args...))
		must(t, err)
		return Layer{d, digest.FromBytes(content)}
	}
	cut, err := s.PutBytes(context.Background(), ispec.MediaTypeImageLayerGzip, filter(t, content, "gzip", "-n")[:60])
	must(t, err)
	for name, c := range map[string]struct {
		Layer
		want string
	}{
		"other compression":    {compressed(ispec.MediaTypeImageLayerGzip, "zstd", "-q"), "compressed with zstd"},
		"xz":                   {compressed(ispec.MediaTypeImageLayer, "xz"), "compressed with xz"},
		"type":                 {Layer{Descriptor: Descriptor{MediaType: "text/plain"}}, "not that of a layer"},
		"cut":                  {Layer{cut, digest.FromBytes(content)}, "unexpected EOF"},
		"whiteout of ..":       {plainLayer(t, s, tarOf(t, tar.Header{Name: ".wh..."})), `removes ".."`},
		"the same, less plain": {plainLayer(t, s, tarOf(t, tar.Header{Name: "a/.wh.../."})), `removes ".."`},
		"root link":            {plainLayer(t, s, tarOf(t, tar.Header{Name: "./", Typeflag: tar.TypeSymlink, Linkname: "/"})), "root directory"},
	} {
		above := t.TempDir()
		root := filepath.Join(above, "root")
		must(t, os.Mkdir(root, 0o755))
		if err := s.Unpack(context.Background(), c.Layer, root, nil); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
		if got := names(t, above); got != "root" {
			t.Errorf("%s: beside the root is %q", name, got)
		}
	}
}

func TestUnpackStaysInTheRoot(t *testing.T) {
	s := newStore(t)
	outside, root := t.TempDir(), t.TempDir()
	must(t, s.Unpack(context.Background(), plainLayer(t, s, tarOf(t,
		tar.Header{Name: "link", Typeflag: tar.TypeSymlink, Linkname: outside}, tar.Header{Name: "link/planted"},
		tar.Header{Name: "../../../../../" + outside + "/planted2"},
	)), root, nil))
	if got := names(t, outside); got != "" {
		t.Errorf("outside the root: %s", got)
	}
}

func TestUnpackReadsWhatGNUTarWrites(t *testing.T) {
	s := newStore(t)
	dir, root := t.TempDir(), t.TempDir()
	f, err := os.Create(filepath.Join(dir, "sparse"))
	must(t, err)
	_, err = f.WriteAt([]byte("end"), 1<<20)
	must(t, err)
	must(t, f.Close())
	for _, format := range []string{"gnu", "posix"} {
		file := filepath.Join(t.TempDir(), "f.tar")
		run(t, "tar", "--sparse", "--format="+format, "-C", dir, "-cf", file, "sparse")
		base, err := s.BaseFromTar(context.Background(), "/", file, "", amd64)
		must(t, err)
		must(t, s.Unpack(context.Background(), base.Layers[0], root, nil))
		got, err := os.ReadFile(filepath.Join(root, "sparse"))
		if err != nil || len(got) != 1<<20+3 || !strings.HasSuffix(string(got), "\x00end") {
			t.Errorf("%s: %d bytes, %v", format, len(got), err)
		}
	}
}

func TestUnpackStopsWhenCancelled(t *testing.T) {
	s := newStore(t)
	l := plainLayer(t, s, tarOf(t, tar.Header{Name: "a"}))
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := s.Unpack(ctx, l, t.TempDir(), nil); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if _, err := s.Pack(ctx, t.TempDir(), PackOptions{}); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	nothingInTmp(t, s)
}
