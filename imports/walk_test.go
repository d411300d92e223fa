package imports

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// TestUnreadable reads, as a user who may not, files and folders that are
// forbidden to others.
func TestUnreadable(t *testing.T) {
	if dir := os.Getenv("IMPORTS_TEST_UNREADABLE"); dir != "" {
		s := open(t, Options{})
		for p, want := range map[string]string{"file": "file/in/f: permission denied", "dir": "dir/in: permission denied", "file/in/f": "cannot be read"} {
			_, err := s.Digest(context.Background(), Source{Path: filepath.Join(dir, p)})
			if err == nil || !strings.Contains(err.Error(), want) || !strings.HasPrefix(err.Error(), dir) {
				t.Errorf("%s: %v", p, err)
			}
		}
		return
	}
	if os.Getuid() != 0 {
		t.Skip("needs root to become somebody else")
	}
	dir := write(t, t.TempDir(), map[string]string{"file/in/f": "", "dir/in/f": ""})
	ok(t, os.Chmod(filepath.Join(dir, "file/in/f"), 0))
	ok(t, os.Chmod(filepath.Join(dir, "dir/in"), 0o711))
	ok(t, os.Chmod(filepath.Dir(dir), 0o755))
	// The test binary is in a folder that only root may enter.
	binary := filepath.Join(dir, "test")
	if out, err := exec.Command("cp", os.Args[0], binary).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	cmd := exec.Command(binary, "-test.run=^TestUnreadable$")
	cmd.Env = append(os.Environ(), "IMPORTS_TEST_UNREADABLE="+dir)
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
}

// TestFileThatChanges: each sign of a change between looking at a file and
// having read it is an error with its name.
func TestFileThatChanges(t *testing.T) {
	dir := write(t, t.TempDir(), map[string]string{"f": "content"})
	w := &walker{walk: &walk{ctx: context.Background(), src: Source{Path: dir}}, buf: make([]byte, 16), hash: sha256.New()}
	f := must(os.OpenFile(filepath.Join(dir, "f"), os.O_RDWR, 0))(t)
	defer f.Close()
	st := must(statFd(int(f.Fd())))(t)
	var e Entry
	ok(t, w.file(int(f.Fd()), "f", &e, &st.stamp))
	must(f.WriteAt([]byte("x"), 0))(t)
	var changed *ChangedError
	if err := w.file(int(f.Fd()), "f", &e, &st.stamp); !errors.As(err, &changed) || changed.Path != filepath.Join(dir, "f") {
		t.Error(err)
	}
	for _, errno := range []unix.Errno{unix.ENOENT, unix.ELOOP, unix.ENOTDIR, unix.ESTALE} {
		if err := w.problem("gone", errno); !errors.Is(err, ErrChanged) || !strings.Contains(err.Error(), dir+"/gone") {
			t.Error(err)
		}
	}
}

// TestTreeInMotion digests and mirrors a folder in which files come, change and
// go all the time. What comes out is an error, or a tree as it was: the file
// that nobody touches is in it, and of two that swap names there are two.
func TestTreeInMotion(t *testing.T) {
	dir := write(t, t.TempDir(), map[string]string{"still/f": "still", "moving/left": "one", "deep/a/b/c/f": ""})
	stop := make(chan struct{})
	done := make(chan struct{})
	go func() {
		defer close(done)
		at := func(p string) string { return filepath.Join(dir, "moving", p) }
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			os.WriteFile(at(fmt.Sprint("tmp", i%7)), []byte(fmt.Sprint(i)), 0o644)
			os.Rename(at("left"), at("right"))
			os.Remove(at(fmt.Sprint("tmp", (i+3)%7)))
			os.Rename(at("right"), at("left"))
			os.RemoveAll(filepath.Join(dir, "deep/a"))
			os.MkdirAll(filepath.Join(dir, "deep/a/b/c"), 0o755)
		}
	}()
	defer func() { close(stop); <-done }()
	s := open(t, Options{})
	src := Source{Path: dir}
	read := 0
	for range 60 {
		tree, err := s.Digest(context.Background(), src)
		if errors.Is(err, ErrChanged) {
			continue
		}
		ok(t, err)
		read++
		movers, still := 0, 0
		for _, e := range must(s.Entries(tree.Digest))(t) {
			switch e.Path {
			case "moving/left", "moving/right":
				movers++
			case "still/f":
				still++
			}
		}
		if movers != 1 || still != 1 {
			t.Fatalf("%d of the file that moves, %d of the one that does not", movers, still)
		}
		if m, err := s.Mirror(context.Background(), src, tree); err == nil {
			if got := digestOf(t, s, Source{Root: m.Path, Path: "/"}); got.Digest != tree.Digest {
				t.Fatal("the mirror is not the tree")
			}
			m.Release()
		} else if !errors.Is(err, ErrChanged) {
			t.Fatal(err)
		}
	}
	t.Logf("read %d times of 60", read)
}

func TestManyEntriesInOneFolder(t *testing.T) {
	dir := inMemory(t)
	const n = 10000
	name := func(i int) string { return fmt.Sprintf("%s%05d", strings.Repeat("n", i%20), i) }
	for i := range n {
		ok(t, os.WriteFile(filepath.Join(dir, name(i)), []byte{byte(i)}, 0o644))
	}
	age(t)
	s := must(Open(inMemory(t), Options{}))(t)
	src := Source{Path: dir}
	first := digestOf(t, s, src)
	if again := digestOf(t, s, src); first.Files != n || again.Digest != first.Digest {
		t.Errorf("%+v, %+v", first, again)
	}
	if records(t, s) != n {
		t.Errorf("%d records", records(t, s))
	}
	checkMirror(t, s, mirrorOf(t, s, src, first), first)
}

// inMemory makes a folder on a filesystem in memory, for many small files.
func inMemory(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "imports")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { ok(t, os.RemoveAll(dir)) })
	return dir
}
