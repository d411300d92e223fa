package imports

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// checkMirror shows that a mirror is equal to its tree, root's, and of MirrorTime.
func checkMirror(t *testing.T, s *Store, m *Mirror, tree Tree) {
	t.Helper()
	fresh := open(t, Options{NoStatIndex: true})
	if got := digestOf(t, fresh, Source{Path: m.Path}); got.Digest != tree.Digest {
		t.Errorf("the mirror differs:\n%v", differing(must(s.Entries(tree.Digest))(t), must(fresh.Entries(got.Digest))(t)))
	}
	err := filepath.WalkDir(m.Path, func(p string, d fs.DirEntry, err error) error {
		ok(t, err)
		var st unix.Stat_t
		ok(t, unix.Lstat(p, &st))
		if st.Uid != 0 || st.Gid != 0 || st.Mtim.Sec != MirrorTime || st.Mtim.Nsec != 0 {
			t.Errorf("%s: owner %d:%d, mtime %d.%d", p, st.Uid, st.Gid, st.Mtim.Sec, st.Mtim.Nsec)
		}
		return nil
	})
	ok(t, err)
	if left := must(os.ReadDir(filepath.Join(s.state, "tmp")))(t); len(left) != 0 {
		t.Errorf("left in tmp: %v", left)
	}
}

func mirrorOf(t *testing.T, s *Store, src Source, tree Tree) *Mirror {
	t.Helper()
	m := must(s.Mirror(context.Background(), src, tree))(t)
	t.Cleanup(func() { m.Release() })
	return m
}

func TestMirrorOfEverything(t *testing.T) {
	src := Source{Path: special(t)}
	ok(t, os.Lchown(filepath.Join(src.Path, "plain"), 12, 34))
	s := open(t, Options{})
	tree := digestOf(t, s, src)
	m := mirrorOf(t, s, src, tree)
	checkMirror(t, s, m, tree)
	var st unix.Stat_t
	ok(t, unix.Stat(filepath.Join(m.Path, "sparse"), &st))
	if st.Blocks*512 > 1<<20 {
		t.Errorf("the sparse file takes %d bytes", st.Blocks*512)
	}
	if again := mirrorOf(t, s, src, tree); again.Path != m.Path {
		t.Error(again.Path)
	}
}

func TestMirrorOfFile(t *testing.T) {
	dir := write(t, t.TempDir(), map[string]string{"f": "content"})
	src := Source{Path: filepath.Join(dir, "f")}
	s := open(t, Options{})
	tree := digestOf(t, s, src)
	m := mirrorOf(t, s, src, tree)
	checkMirror(t, s, m, tree)
	if b := must(os.ReadFile(m.Path))(t); string(b) != "content" {
		t.Error(string(b))
	}
}

// edit changes a folder in every way that a diff has to follow.
func edit(t *testing.T, dir string) {
	t.Helper()
	ok(t, os.WriteFile(filepath.Join(dir, "plain"), []byte("other"), 0o644))
	ok(t, os.RemoveAll(filepath.Join(dir, "dir")))
	ok(t, os.WriteFile(filepath.Join(dir, "dir"), []byte("now a file"), 0o600))
	ok(t, os.Remove(filepath.Join(dir, "empty")))
	write(t, dir, map[string]string{"empty/now/a/folder": "x", "new/file": "y"})
	ok(t, os.Remove(filepath.Join(dir, "loop")))
	ok(t, os.Chmod(filepath.Join(dir, "ü"), 0o755))
	ok(t, os.Chmod(filepath.Join(dir, "nothing"), 0o700))
	ok(t, unix.Removexattr(filepath.Join(dir, "nothing"), "user.folder"))
	ok(t, os.Remove(filepath.Join(dir, "null")))
	ok(t, os.Chmod(dir, 0o750))
}

func inode(t *testing.T, p string) uint64 {
	t.Helper()
	var st unix.Stat_t
	ok(t, unix.Lstat(p, &st))
	return st.Ino
}

func TestMirrorSharesWithTheLast(t *testing.T) {
	for name, inUse := range map[string]bool{"nobody uses the last": false, "the last is in use": true} {
		t.Run(name, func(t *testing.T) {
			src := Source{Path: special(t)}
			s := open(t, Options{})
			tree := digestOf(t, s, src)
			old := must(s.Mirror(context.Background(), src, tree))(t)
			kept := inode(t, filepath.Join(old.Path, "sparse"))
			if inUse {
				t.Cleanup(func() { old.Release() })
			} else {
				old.Release()
			}
			edit(t, src.Path)
			changed := digestOf(t, s, src)
			m := mirrorOf(t, s, src, changed)
			checkMirror(t, s, m, changed)
			if inode(t, filepath.Join(m.Path, "sparse")) != kept {
				t.Error("an unchanged file is not shared")
			}
			if inUse {
				checkMirror(t, s, old, tree)
			}
		})
	}
}

func TestMirrorRefusesWhatIsNotTheTree(t *testing.T) {
	for name, edit := range map[string]func(dir string) error{
		"content":     func(dir string) error { return os.WriteFile(filepath.Join(dir, "a/f"), []byte("2"), 0o644) },
		"shorter":     func(dir string) error { return os.WriteFile(filepath.Join(dir, "a/f"), nil, 0o644) },
		"gone":        func(dir string) error { return os.Remove(filepath.Join(dir, "a/f")) },
		"folder gone": func(dir string) error { return os.RemoveAll(filepath.Join(dir, "a")) },
		"link": func(dir string) error {
			return errors.Join(os.Remove(filepath.Join(dir, "a/f")), os.Symlink("../b", filepath.Join(dir, "a/f")))
		},
		"fifo": func(dir string) error {
			return errors.Join(os.Remove(filepath.Join(dir, "a/f")), unix.Mkfifo(filepath.Join(dir, "a/f"), 0o644))
		},
		"folder a link": func(dir string) error {
			return errors.Join(os.Rename(filepath.Join(dir, "a"), dir+"-a"), os.Symlink(dir+"-a", filepath.Join(dir, "a")))
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := write(t, filepath.Join(t.TempDir(), "src"), map[string]string{"a/f": "1", "b": "1"})
			src := Source{Path: dir}
			s := open(t, Options{})
			tree := digestOf(t, s, src)
			ok(t, edit(dir))
			_, err := s.Mirror(context.Background(), src, tree)
			var changed *ChangedError
			if !errors.As(err, &changed) || changed.Path != filepath.Join(dir, "a/f") {
				t.Error(err)
			}
			if left := must(filepath.Glob(filepath.Join(s.state, "*", "*imports*")))(t); len(left) != 0 {
				t.Error("left behind:", left)
			}
		})
	}
}

func TestMirrorsAtOnce(t *testing.T) {
	src := Source{Path: special(t)}
	state := t.TempDir()
	tree := digestOf(t, must(Open(state, Options{}))(t), src)
	var group sync.WaitGroup
	for range 8 {
		group.Go(func() {
			s := must(Open(state, Options{}))(t)
			m, err := s.Mirror(context.Background(), src, tree)
			if err != nil {
				t.Error(err)
				return
			}
			defer m.Release()
			if _, err := os.Stat(filepath.Join(m.Path, "plain")); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	s := must(Open(state, Options{}))(t)
	checkMirror(t, s, mirrorOf(t, s, src, tree), tree)
}

// TestMirrorAfterPowerCut: what was not synced may be lost with the boot in
// which it was written.
func TestMirrorAfterPowerCut(t *testing.T) {
	src := Source{Path: write(t, t.TempDir(), map[string]string{"f": "content", "g": "more"})}
	s := open(t, Options{})
	tree := digestOf(t, s, src)
	for name, damage := range map[string]func(dir string){
		"sound":     func(string) {},
		"truncated": func(dir string) { ok(t, os.Truncate(filepath.Join(dir, "root/f"), 0)) },
		"lost":      func(dir string) { ok(t, os.RemoveAll(filepath.Join(dir, "root"))) },
	} {
		t.Run(name, func(t *testing.T) {
			ok(t, mirrorOf(t, s, src, tree).Release())
			dir := s.mirrorDir(tree.Digest)
			damage(dir)
			ok(t, os.WriteFile(filepath.Join(dir, "boot"), []byte("an-earlier-one "+s.place.ID), 0o644))
			m := mirrorOf(t, s, src, tree)
			checkMirror(t, s, m, tree)
			ok(t, m.Release())
		})
	}
}

func TestMirrorIsCancelled(t *testing.T) {
	src := Source{Path: special(t)}
	s := open(t, Options{})
	tree := digestOf(t, s, src)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := s.Mirror(ctx, src, tree); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if _, err := s.Digest(ctx, src); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

func TestDeepPaths(t *testing.T) {
	dir := t.TempDir()
	at := must(unix.Open(dir, unix.O_DIRECTORY, 0))(t)
	name := strings.Repeat("d", 200)
	for range 25 {
		ok(t, unix.Mkdirat(at, name, 0o755))
		next := must(unix.Openat(at, name, unix.O_DIRECTORY, 0))(t)
		unix.Close(at)
		at = next
	}
	file := must(unix.Openat(at, "file", unix.O_CREAT|unix.O_WRONLY, 0o644))(t)
	must(unix.Write(file, []byte("deep\n")))(t)
	unix.Close(file)
	unix.Close(at)
	src := Source{Path: dir}
	s := open(t, Options{})
	tree := digestOf(t, s, src)
	if tree.Files != 1 || tree.Size != 5 {
		t.Errorf("%+v", tree)
	}
	m := mirrorOf(t, s, src, tree)
	if got := digestOf(t, open(t, Options{}), Source{Path: m.Path}); got.Digest != tree.Digest {
		t.Error("the mirror differs")
	}
	root := t.TempDir()
	ok(t, s.Copy(context.Background(), src, tree, root, "/x", CopyOptions{Epoch: time.Unix(1, 0)}))
	if got := digestOf(t, s, Source{Path: filepath.Join(root, "x")}); got.Digest != tree.Digest {
		t.Error("the copy differs")
	}
}

// TestDiskFull mirrors, digests and downloads onto a filesystem that is too small.
func TestDiskFull(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root to mount")
	}
	small := t.TempDir()
	if err := unix.Mount("tmpfs", small, "tmpfs", 0, "size=300k"); err != nil {
		t.Skip(err)
	}
	t.Cleanup(func() { ok(t, unix.Unmount(small, unix.MNT_DETACH)) })
	src := Source{Path: write(t, t.TempDir(), map[string]string{"a": strings.Repeat("a", 100<<10), "b": strings.Repeat("b", 400<<10)})}
	s := must(Open(filepath.Join(small, "state"), Options{}))(t)
	tree := digestOf(t, s, src)
	if _, err := s.Mirror(context.Background(), src, tree); !errors.Is(err, unix.ENOSPC) {
		t.Error(err)
	}
	srv := server(t, func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, strings.Repeat("x", 1<<20)) })
	if _, err := s.Fetch(context.Background(), srv.URL, asking(FetchOptions{})); !errors.Is(err, unix.ENOSPC) {
		t.Error(err)
	}
	if left := must(os.ReadDir(filepath.Join(s.state, "tmp")))(t); len(left) > 0 {
		t.Error("left behind:", left)
	}
	ok(t, os.Remove(filepath.Join(src.Path, "b")))
	tree = digestOf(t, s, src)
	checkMirror(t, s, mirrorOf(t, s, src, tree), tree)
}

// TestMirrorOfAnotherTree: a last mirror with little in common stays.
func TestMirrorOfAnotherTree(t *testing.T) {
	dir := write(t, filepath.Join(t.TempDir(), "src"), map[string]string{"a": "1", "b": "2", "c": "3"})
	src := Source{Path: dir}
	s := open(t, Options{})
	old := digestOf(t, s, src)
	ok(t, mirrorOf(t, s, src, old).Release())
	ok(t, os.RemoveAll(dir))
	write(t, dir, map[string]string{"x": "1", "y": "2"})
	tree := digestOf(t, s, src)
	checkMirror(t, s, mirrorOf(t, s, src, tree), tree)
	if _, err := os.Stat(s.mirrorDir(old.Digest)); err != nil {
		t.Error(err)
	}
	ok(t, os.RemoveAll(dir))
	ok(t, os.WriteFile(dir, []byte("now a file"), 0o644))
	file := digestOf(t, s, src)
	checkMirror(t, s, mirrorOf(t, s, src, file), file)
}
