package buildcache

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func put(t *testing.T, c *Cache, in Inputs, result any) *Record {
	t.Helper()
	r, err := c.Put(Rootfs, in, result, time.Second, Origin{Layer: "app"})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func inputs(run string) (in Inputs) {
	in.Add(Definition, "run", run)
	return in
}

// A folder that others may read, as a CI may bring it here, is its owner's alone from then on.
func TestPrivate(t *testing.T) {
	state := t.TempDir()
	open(t, state)
	for _, mode := range []os.FileMode{0o700, 0o755, 0o744} {
		if err := os.Chmod(state, mode); err != nil {
			t.Fatal(err)
		}
		open(t, state)
		if info, err := os.Stat(state); err != nil || info.Mode().Perm() != 0o700 {
			t.Errorf("of %v it was made %v, %v", mode, info.Mode(), err)
		}
	}
}

func TestPutAndGet(t *testing.T) {
	c := open(t, t.TempDir())
	made := put(t, c, inputs("x"), "result")
	got, err := c.Get(Rootfs, inputs("x").Key(Rootfs))
	if err != nil || string(got.Result) != `"result"` || got.Key != made.Key || got.Cost != time.Second || got.Origin.Layer != "app" {
		t.Errorf("%+v, %v", got, err)
	}
	for _, key := range []Key{inputs("y").Key(Rootfs), inputs("x").Key(Labels), "", "../../version"} {
		if _, err := c.Get(Rootfs, key); !errors.Is(err, ErrNotFound) {
			t.Errorf("%q: %v", key, err)
		}
	}
}

// TestDamage puts all sorts of things in a record's place: each is a damaged
// record, which is put aside, and is made again.
func TestDamage(t *testing.T) {
	c := open(t, t.TempDir())
	other := put(t, c, inputs("other"), "other")
	in := inputs("x")
	key := in.Key(Rootfs)
	whole, err := os.ReadFile(c.path(recordName(Rootfs, put(t, c, in, "result").Key)))
	if err != nil {
		t.Fatal(err)
	}
	foreign, err := os.ReadFile(c.path(recordName(Rootfs, other.Key)))
	if err != nil {
		t.Fatal(err)
	}
	write := func(content string) func(string) error {
		return func(path string) error { return os.WriteFile(path, []byte(content), 0o600) }
	}
	for what, place := range map[string]func(path string) error{
		"empty":            write(""),
		"cut":              write(string(whole[:len(whole)/2])),
		"a flipped bit":    write(strings.Replace(string(whole), "result", "sesult", 1)),
		"zeros":            write(strings.Repeat("\x00", len(whole))),
		"other JSON":       write("[]"),
		"null":             write("null"),
		"no record in it":  write(`{"sha256":"e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"}`),
		"another's record": write(string(foreign)),
		"a folder":         func(path string) error { return os.MkdirAll(filepath.Join(path, "with", "content"), 0o700) },
		"a fifo":           func(path string) error { return unix.Mkfifo(path, 0o600) },
		"a symlink":        func(path string) error { return os.Symlink("/dev/zero", path) },
		"a device":         func(path string) error { return unix.Mknod(path, unix.S_IFCHR|0o600, int(unix.Mkdev(1, 5))) },
		"something huge":   func(path string) error { return errors.Join(write("")(path), os.Truncate(path, 1<<40)) },
	} {
		t.Run(what, func(t *testing.T) {
			path := c.path(recordName(Rootfs, key))
			for range 2 { // also where something was put aside before
				if err := errors.Join(os.RemoveAll(path), place(path)); err != nil {
					t.Fatal(err)
				}
				for range 2 { // until it is done again
					if _, err := c.Get(Rootfs, key); !errors.Is(err, ErrCorrupt) {
						t.Fatalf("error is %v", err)
					}
				}
				if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
					t.Errorf("it is still there: %v", err)
				}
			}
			put(t, c, in, "again")
			if r, err := c.Get(Rootfs, key); err != nil || string(r.Result) != `"again"` {
				t.Errorf("%+v, %v", r, err)
			}
		})
	}
}

// TestNewer opens a state folder of a newer layerbuild.
func TestNewer(t *testing.T) {
	dir := t.TempDir()
	newer := StateVersion + 1
	if err := os.WriteFile(filepath.Join(dir, "version"), fmt.Appendln(nil, newer), 0o600); err != nil {
		t.Fatal(err)
	}
	old := time.Unix(1e9, 0)
	if err := os.Chtimes(dir, old, old); err != nil {
		t.Fatal(err)
	}
	_, err := Open(t.Context(), dir)
	if err == nil || !strings.Contains(err.Error(), fmt.Sprintf("newer layerbuild (version %d, this one knows %d): upgrade", newer, StateVersion)) {
		t.Errorf("error is %v", err)
	}
	if _, err := Open(t.Context(), dir); err == nil {
		t.Error("the second time it is opened")
	}
	if err := Destroy(t.Context(), dir); err == nil {
		t.Error("it was destroyed")
	}
	info, err := os.Stat(dir)
	if names := files(t, dir); err != nil || !info.ModTime().Equal(old) || len(names) != 1 {
		t.Errorf("it was touched: %v, %v", names, err)
	}
}

// files returns the content of all files below a folder.
func files(t *testing.T, dir string) map[string]string {
	t.Helper()
	all := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		content, err := os.ReadFile(path)
		rel, _ := filepath.Rel(dir, path)
		all[rel] = string(content)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}
