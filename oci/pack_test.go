package oci

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sort"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

var epoch = time.Date(2001, 2, 3, 4, 5, 6, 0, time.UTC)

func newStore(t *testing.T) *Store {
	t.Helper()
	s, err := OpenStore(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// run runs another tool and returns what it prints.
func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	cmd := exec.Command(name, args...)
	var warnings strings.Builder
	cmd.Stderr = &warnings
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s%s", name, strings.Join(args, " "), err, out, warnings.String())
	}
	return string(out)
}

func write(t *testing.T, path, content string) {
	t.Helper()
	must(t, os.MkdirAll(filepath.Dir(path), 0o755))
	must(t, os.WriteFile(path, []byte(content), 0o644))
}

// everyKind fills dir with an entry of each kind that a layer can hold.
func everyKind(t *testing.T, dir string) {
	t.Helper()
	at := func(name string) string { return filepath.Join(dir, name) }
	must(t, os.Chmod(dir, 0o750))
	must(t, os.Chown(dir, 3, 4))
	write(t, at("plain"), "plain\n")
	write(t, at("empty"), "")
	must(t, os.Mkdir(at("emptydir"), 0o1777))
	must(t, os.Chmod(at("emptydir"), 0o1777))
	write(t, at("bin/setuid"), "x")
	must(t, os.Chmod(at("bin/setuid"), os.ModeSetuid|os.ModeSetgid|0o755))
	write(t, at("bin/caps"), "x")
	caps := "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"
	must(t, unix.Setxattr(at("bin/caps"), "security.capability", []byte(caps), 0))
	write(t, at("links/b-second"), "linked")
	must(t, os.Link(at("links/b-second"), at("links/a-first")))
	must(t, os.Link(at("links/b-second"), at("bin/zlink")))
	must(t, os.Symlink("../no/such\xff", at("links/sym")))
	must(t, os.Link(at("links/sym"), at("links/sym2")))
	must(t, unix.Lsetxattr(at("links/sym"), "trusted.onlink", []byte("v"), 0))
	must(t, unix.Mknod(at("chr"), unix.S_IFCHR|0o620, int(unix.Mkdev(5, 300))))
	must(t, unix.Mknod(at("blk"), unix.S_IFBLK|0o600, int(unix.Mkdev(259, 70000))))
	must(t, unix.Mkfifo(at("fifo"), 0o640))
	long := strings.Repeat("l", 120)
	write(t, at(filepath.Join(long, long, long, strings.Repeat("f", 255))), "deep")
	must(t, os.Symlink(strings.Repeat("t/", 150)+"x", at("longlink")))
	write(t, at("non-utf8-\xff\xfe/\xe9t\xe9"), "latin1")
	write(t, at("new\nline\ttab \\ \"quote\""), "odd")
	write(t, at("xattrs"), "x")
	must(t, unix.Setxattr(at("xattrs"), "user.plain", []byte("value\x00binary\n=\xff"), 0))
	must(t, unix.Setxattr(at("xattrs"), "user.big", bytes.Repeat([]byte("b"), 3000), 0))
	must(t, unix.Setxattr(at("bin"), "user.onfolder", []byte("v"), 0))
	write(t, at("owned"), "x")
	must(t, os.Chown(at("owned"), 3_000_000_000, 4_000_000))
	write(t, at("old"), "x")
	must(t, os.Chtimes(at("old"), time.Unix(1, 5), time.Unix(-86400, 0)))
	sparse, err := os.Create(at("sparse"))
	must(t, err)
	_, err = sparse.WriteAt([]byte("middle"), 1<<20)
	must(t, err)
	must(t, sparse.Truncate(3<<20))
	must(t, sparse.Close())
}

// manifestOf describes a tree, one line an entry, as far as a layer keeps it.
func manifestOf(t *testing.T, dir string) []string {
	t.Helper()
	first := map[inode]string{}
	var lines []string
	must(t, filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(dir, path)
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return err
		}
		line := fmt.Sprintf("%q mode=%o uid=%d gid=%d rdev=%d", rel, st.Mode, st.Uid, st.Gid, st.Rdev)
		mtime := time.Unix(st.Mtim.Unix())
		if mtime.After(epoch) {
			mtime = epoch
		}
		line += fmt.Sprintf(" mtime=%d", mtime.Unix())
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFREG:
			content, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			line += fmt.Sprintf(" size=%d sha256=%x", st.Size, sha256.Sum256(content))
		case unix.S_IFLNK:
			target, err := os.Readlink(path)
			if err != nil {
				return err
			}
			line += fmt.Sprintf(" link=%q", target)
		}
		if st.Nlink > 1 && st.Mode&unix.S_IFMT != unix.S_IFDIR {
			id := inode{st.Dev, st.Ino}
			if first[id] == "" {
				first[id] = rel
			}
			line += fmt.Sprintf(" same=%q", first[id])
		}
		names, err := xattrNames(path)
		if err != nil {
			return err
		}
		sort.Strings(names)
		for _, name := range names {
			value, err := xattrValue(path, name)
			if err != nil {
				return err
			}
			line += fmt.Sprintf(" %s=%q", name, value)
		}
		lines = append(lines, line)
		return nil
	}))
	return lines
}

func sameTree(t *testing.T, want, got []string) {
	t.Helper()
	for i := range max(len(want), len(got)) {
		w, g := "(nothing)", "(nothing)"
		if i < len(want) {
			w = want[i]
		}
		if i < len(got) {
			g = got[i]
		}
		if w != g {
			t.Fatalf("entry %d\nwant %s\ngot  %s", i, w, g)
		}
	}
}

func TestPackSurvivesUmociUnpack(t *testing.T) {
	for _, c := range []Compression{Gzip, None} { // Debian's umoci reads no zstd
		t.Run(string(c), func(t *testing.T) {
			ctx := context.Background()
			s := newStore(t)
			dir := t.TempDir()
			everyKind(t, dir)
			packed, err := s.Pack(ctx, dir, PackOptions{Compression: c, Epoch: epoch})
			must(t, err)
			image, err := Compose(ImageSpec{Layers: []SpecLayer{{packed.Layer, "test"}}, Epoch: epoch})
			must(t, err)
			path := filepath.Join(t.TempDir(), "oci")
			l, err := CreateLayout(path)
			must(t, err)
			must(t, l.Put(ctx, s, map[string]*Image{"all": image}))

			bundle := filepath.Join(t.TempDir(), "bundle")
			run(t, "umoci", "unpack", "--image", path+":all", bundle)
			sameTree(t, manifestOf(t, dir), manifestOf(t, filepath.Join(bundle, "rootfs")))
		})
	}
}

func TestUnpackRestoresWhatPackTook(t *testing.T) {
	for _, c := range []Compression{Gzip, Zstd, None} {
		t.Run(string(c), func(t *testing.T) {
			ctx := context.Background()
			s := newStore(t)
			dir, root := t.TempDir(), t.TempDir()
			everyKind(t, dir)
			must(t, unix.Setxattr(filepath.Join(dir, "xattrs"), "user.empty", nil, 0))
			must(t, unix.Setxattr(filepath.Join(dir, "xattrs"), "user.a=b%c", []byte("=\x00"), 0))
			packed, err := s.Pack(ctx, dir, PackOptions{Compression: c, Epoch: epoch})
			must(t, err)
			must(t, s.Unpack(ctx, packed.Layer, root, nil))
			sameTree(t, manifestOf(t, dir), manifestOf(t, root))
		})
	}
}

func TestPackIsDeterministic(t *testing.T) {
	ctx := context.Background()
	dir := t.TempDir()
	everyKind(t, dir)
	noise := make([]byte, 9<<20)
	for i := range noise {
		noise[i] = byte(i * i >> 7)
	}
	must(t, os.WriteFile(filepath.Join(dir, "noise"), noise, 0o600))
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(0))
	for _, c := range []Compression{Gzip, Zstd, None} {
		var first Packed
		for i, procs := range []int{1, 2, 8, 2} {
			runtime.GOMAXPROCS(procs)
			s := newStore(t)
			packed, err := s.Pack(ctx, dir, PackOptions{Compression: c, Epoch: epoch})
			must(t, err)
			if i == 0 {
				first = packed
			}
			if packed.Digest != first.Digest || packed.DiffID != first.DiffID {
				t.Errorf("%s with GOMAXPROCS %d: %s, before %s", c, procs, packed.Digest, first.Digest)
			}
		}
		discarded, err := newStore(t).Pack(ctx, dir, PackOptions{Compression: c, Epoch: epoch, Discard: true})
		must(t, err)
		if discarded.DiffID != first.DiffID || discarded.Digest != "" || discarded.TarSize != first.TarSize {
			t.Errorf("discarded: %+v, packed: %+v", discarded, first)
		}
	}
}
