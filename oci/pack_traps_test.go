package oci

import (
	"archive/tar"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

// packPlain packs a folder uncompressed and returns its entries.
func packPlain(t *testing.T, dir string) map[string]*tar.Header {
	t.Helper()
	s := newStore(t)
	p, err := s.Pack(context.Background(), dir, PackOptions{Compression: None, Epoch: epoch})
	must(t, err)
	return entriesOf(t, s, p)
}

// umoci knows hardlinks by inode alone: files of two mounts become links of each other.
func TestHardlinksAreOfOneDevice(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"a", "b"} {
		mnt := filepath.Join(dir, name)
		must(t, os.Mkdir(mnt, 0o755))
		must(t, unix.Mount("tmpfs", mnt, "tmpfs", 0, ""))
		t.Cleanup(func() { must(t, unix.Unmount(mnt, unix.MNT_DETACH)) })
		write(t, filepath.Join(mnt, "one"), name)
		must(t, os.Link(filepath.Join(mnt, "one"), filepath.Join(mnt, "two")))
	}
	var a, b unix.Stat_t
	must(t, unix.Stat(filepath.Join(dir, "a/one"), &a))
	must(t, unix.Stat(filepath.Join(dir, "b/one"), &b))
	if a.Ino != b.Ino {
		t.Fatalf("the mounts have no inode in common: %d, %d", a.Ino, b.Ino)
	}
	entries := packPlain(t, dir)
	for name, want := range map[string]string{"a/one": "", "a/two": "a/one", "b/one": "", "b/two": "b/one"} {
		if got := entries[name].Linkname; got != want {
			t.Errorf("%s links to %q, want %q", name, got, want)
		}
	}
}

// umoci fails the whole layer for a socket.
func TestSocketsAreLeftOut(t *testing.T) {
	dir := t.TempDir()
	must(t, unix.Mknod(filepath.Join(dir, "socket"), unix.S_IFSOCK|0o644, 0))
	write(t, filepath.Join(dir, "file"), "x")
	if entries := packPlain(t, dir); entries["socket"] != nil || entries["file"] == nil {
		t.Errorf("%v", entries)
	}
}

// Overlayfs may link all its whiteouts to one inode: they are no hardlinks.
func TestLinkedWhiteouts(t *testing.T) {
	dir := t.TempDir()
	must(t, unix.Mknod(filepath.Join(dir, "a"), unix.S_IFCHR, 0))
	must(t, os.Link(filepath.Join(dir, "a"), filepath.Join(dir, "b")))
	entries := packPlain(t, dir)
	for _, name := range []string{".wh.a", ".wh.b"} {
		if h := entries[name]; h == nil || h.Typeflag != tar.TypeReg {
			t.Errorf("%s: %+v", name, h)
		}
	}
}

func TestWhatALayerCannotSay(t *testing.T) {
	ctx := context.Background()
	for name, c := range map[string]struct {
		make func(dir string) error
		want string
	}{
		"named like a whiteout": {func(d string) error { return os.WriteFile(d+"/.wh.x", nil, 0o644) }, "/sub/.wh.x: a layer cannot hold"},
		"redirect_dir": {func(d string) error {
			return errors.Join(os.Mkdir(d+"/x", 0o755), unix.Setxattr(d+"/x", "trusted.overlay.redirect", []byte("/y"), 0))
		}, "/sub/x: its content is in another layer"},
		"metacopy": {func(d string) error {
			return errors.Join(os.WriteFile(d+"/x", nil, 0o644), unix.Setxattr(d+"/x", "user.overlay.metacopy", nil, 0))
		}, "/sub/x: its content is in another layer"},
	} {
		dir := t.TempDir()
		must(t, os.Mkdir(dir+"/sub", 0o755))
		must(t, c.make(dir+"/sub"))
		s := newStore(t)
		if _, err := s.Pack(ctx, dir, PackOptions{}); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
		nothingInTmp(t, s)
	}
}

// umoci drops empty extended attributes and fails on names with '='. An empty
// one stands in the tar as it is; the other is in libarchive's form.
func TestXattrsThatUmociLoses(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "f")
	write(t, file, "x")
	for name, value := range map[string]string{"user.empty": "", "user.k=v": "value", "security.selinux": "label", "trusted.overlay.origin": "x",
		"user.overlay.impure": "y", "trusted.t": "t"} {
		must(t, unix.Setxattr(file, name, []byte(value), 0))
	}
	records := packPlain(t, dir)["f"].PAXRecords
	want := map[string]string{"SCHILY.xattr.user.empty": "", "LIBARCHIVE.xattr.user.k%3Dv": "dmFsdWU", "SCHILY.xattr.trusted.t": "t"}
	if len(records) != len(want) {
		t.Errorf("%q, want %q", records, want)
	}
	for key, value := range want {
		if got, ok := records[key]; !ok || got != value {
			t.Errorf("%s is %q, want %q", key, got, value)
		}
	}
}

func TestEmptyUppers(t *testing.T) {
	ctx := context.Background()
	s := newStore(t)
	dir := t.TempDir()
	packed, err := s.Pack(ctx, dir, PackOptions{})
	if err != nil || !packed.Empty || packed.Digest != "" || packed.DiffID != "" {
		t.Errorf("%+v, %v", packed, err)
	}
	nothingInTmp(t, s)
	packed, err = s.Pack(ctx, dir, PackOptions{Root: true})
	if err != nil || packed.Empty || !s.Has(packed.Descriptor) {
		t.Errorf("a change of the root alone: %+v, %v", packed, err)
	}
	must(t, unix.Setxattr(dir, "trusted.overlay.opaque", []byte("y"), 0))
	packed, err = s.Pack(ctx, dir, PackOptions{Compression: None})
	must(t, err)
	if h := entriesOf(t, s, packed)[".wh..wh..opq"]; packed.Empty || h == nil {
		t.Errorf("an opaque root: %+v", packed)
	}
}

func TestTimesAreWholeAndClamped(t *testing.T) {
	dir := t.TempDir()
	for name, mtime := range map[string]time.Time{"old": time.Unix(1000, 999_999_999), "new": epoch.Add(time.Nanosecond), "at": epoch, "ancient": time.Unix(-1000, 1)} {
		write(t, filepath.Join(dir, name), "")
		must(t, os.Chtimes(filepath.Join(dir, name), mtime, mtime))
	}
	s := newStore(t)
	p, err := s.Pack(context.Background(), dir, PackOptions{Compression: None})
	must(t, err)
	if h := entriesOf(t, s, p)["new"]; !h.ModTime.Equal(epoch) {
		t.Errorf("without an epoch: %v", h.ModTime)
	}
	must(t, os.Chtimes(filepath.Join(dir, "new"), time.Now(), time.Now()))
	entries := packPlain(t, dir)
	for name, want := range map[string]int64{"old": 1000, "new": epoch.Unix(), "at": epoch.Unix(), "ancient": -1000} {
		h := entries[name]
		if h.ModTime.Unix() != want || h.ModTime.Nanosecond() != 0 || !h.AccessTime.IsZero() || !h.ChangeTime.IsZero() {
			t.Errorf("%s: %v, %v, %v", name, h.ModTime, h.AccessTime, h.ChangeTime)
		}
	}
	if h := entries["old"]; h.Uname != "" || h.Gname != "" {
		t.Errorf("names of users: %q, %q", h.Uname, h.Gname)
	}
}

// A file that changes under the packer, by size or by content alone, is an error.
func TestFilesThatChangeWhilePacked(t *testing.T) {
	for name, change := range map[string]func(*os.File) error{
		"shrinks": func(f *os.File) error { return f.Truncate(10) },
		"grows":   func(f *os.File) error { return f.Truncate(10 << 20) },
		"changes": func(f *os.File) error { _, err := f.WriteAt([]byte("x"), 0); return err },
	} {
		dir := t.TempDir()
		f, err := os.Create(filepath.Join(dir, "file"))
		must(t, err)
		defer f.Close()
		_, err = f.Write(make([]byte, 2<<20))
		must(t, err)
		must(t, os.Chtimes(f.Name(), epoch, epoch))
		begun := sync.OnceFunc(func() { // the packer has read some of it
			if err := change(f); err != nil {
				t.Error(err)
			}
		})
		_, err = newStore(t).Pack(context.Background(), dir, PackOptions{Progress: func(int64, int64) { begun() }})
		if !errors.Is(err, errChanged) || !strings.Contains(err.Error(), "/file: it changed") {
			t.Errorf("a file that %s: %v", name, err)
		}
	}
}

// Holes are not read: packing a file of 8 TiB would take an hour otherwise.
func TestHolesAreNotRead(t *testing.T) {
	dir := t.TempDir()
	f, err := os.Create(filepath.Join(dir, "sparse"))
	must(t, err)
	defer f.Close()
	const size = 256 << 20
	must(t, f.Truncate(size))
	_, err = f.WriteAt([]byte("data"), 100<<20)
	must(t, err)
	reads := &countingReader{f: f}
	tr := &tarrer{ctx: context.Background(), out: newBlockWriter(io.Discard, None, 0, newCores(1), nil)}
	must(t, tr.sparse(reads, size))
	must(t, tr.out.Close())
	if tr.out.size != size || reads.n > 1<<20 {
		t.Errorf("%d bytes were written, %d were read", tr.out.size, reads.n)
	}
}

type countingReader struct {
	f *os.File
	n int64
}

func (c *countingReader) Seek(at int64, whence int) (int64, error) { return c.f.Seek(at, whence) }
func (c *countingReader) Read(p []byte) (int, error) {
	n, err := c.f.Read(p)
	c.n += int64(n)
	return n, err
}

// How writes are cut must not show in the compressed bytes.
func TestCompressionDoesNotDependOnWrites(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	content := make([]byte, 5<<20)
	for i := range content {
		content[i] = byte(rng.IntN(7) * i >> 9)
	}
	for _, c := range []Compression{Gzip, Zstd} {
		var first digest.Digest
		for _, most := range []int{len(content), 10_000, 3 << 20} {
			d := digest.SHA256.Digester()
			_, level, err := c.Check(0)
			must(t, err)
			w := newBlockWriter(d.Hash(), c, level, newCores(2), nil)
			for rest := content; len(rest) > 0; {
				n := min(len(rest), 1+rng.IntN(most))
				_, err := w.Write(rest[:n])
				must(t, err)
				rest = rest[n:]
			}
			must(t, w.Close())
			if first == "" {
				first = d.Digest()
			} else if first != d.Digest() {
				t.Errorf("%s differs when cut into %d bytes", c, most)
			}
		}
	}
}

// The bytes of packed blobs are pinned: a change of them needs a new
// CompressorVersion, which makes every record of a pack stale.
func TestCompressedBytesArePinned(t *testing.T) {
	dir := t.TempDir()
	must(t, os.Chtimes(dir, epoch, epoch))
	must(t, os.Chmod(dir, 0o755))
	write(t, filepath.Join(dir, "file"), strings.Repeat("all work and no play ", 100_000))
	write(t, filepath.Join(dir, strings.Repeat("long", 50)), "")
	must(t, os.Link(filepath.Join(dir, "file"), filepath.Join(dir, "link\xff")))
	must(t, unix.Setxattr(filepath.Join(dir, "file"), "user.x", []byte("\x00"), 0))
	must(t, unix.Mknod(filepath.Join(dir, "gone"), unix.S_IFCHR, 0))
	s := newStore(t)
	for c, want := range map[Compression]digest.Digest{
		Gzip: "sha256:e05f7516ac5d50827a5b31b9e7937f6637b0bc6a4269af25effbd3efdca20eb6",
		Zstd: "sha256:b1ad6c6ea3ca57e8381aad25d15ed611082dbe5bf15a703816e029be3418cf43",
		None: "sha256:02da7b0280bc78d6d09741bb85c871a6d07b30cb916bc913e427b2d9e6a48181",
	} {
		p, err := s.Pack(context.Background(), dir, PackOptions{Compression: c, Epoch: epoch})
		must(t, err)
		if p.Digest != want {
			t.Errorf("%s: %s, pinned is %s", c, p.Digest, want)
		}
	}
}

func TestCompressorVersionNamesTheLibraries(t *testing.T) {
	mod, err := os.ReadFile("../go.mod")
	must(t, err)
	for module, name := range map[string]string{"github.com/klauspost/compress ": "klauspost/compress-", "github.com/klauspost/pgzip ": "pgzip-"} {
		_, rest, ok := strings.Cut(string(mod), module)
		version, _, _ := strings.Cut(rest, "\n")
		if !ok || !slices.Contains(strings.Fields(CompressorVersion), name+version) {
			t.Errorf("go.mod has %s%s, CompressorVersion says %q", module, version, CompressorVersion)
		}
	}
}

// Memory does not grow with the size. What the heap has taken from the system is
// never less than its peak.
func TestPackMemoryIsBounded(t *testing.T) {
	dir := t.TempDir()
	f, err := os.Create(filepath.Join(dir, "sparse"))
	must(t, err)
	must(t, f.Truncate(300<<20))
	must(t, f.Close())
	for _, c := range []Compression{Gzip, Zstd} {
		s := newStore(t)
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		p, err := s.Pack(context.Background(), dir, PackOptions{Compression: c})
		must(t, err)
		runtime.ReadMemStats(&after)
		if grown := int64(after.HeapSys) - int64(before.HeapSys); grown > 100<<20 || p.TarSize < 300<<20 {
			t.Errorf("%s: the heap grew by %d MiB", c, grown>>20)
		}
	}
}

func TestCompressionsThereAreNot(t *testing.T) {
	s := newStore(t)
	for _, o := range []PackOptions{{Compression: "lzma"}, {Compression: Gzip, Level: 10}, {Compression: None, Level: 1}, {Compression: Zstd, Level: -1}} {
		if _, err := s.Pack(context.Background(), t.TempDir(), o); err == nil {
			t.Errorf("%+v was accepted", o)
		}
	}
}
