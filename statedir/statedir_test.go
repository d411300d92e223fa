package statedir

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/layerbuild/layerbuild/locks"
)

func newDir(t *testing.T) Dir {
	t.Helper()
	d := Dir(t.TempDir())
	if err := os.Mkdir(d.Path("tmp"), 0o700); err != nil {
		t.Fatal(err)
	}
	return d
}

// born lists what is in tmp.
func (d Dir) born(t *testing.T) []string {
	t.Helper()
	entries, err := os.ReadDir(d.Path("tmp"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func TestWriteLeavesWhatWasThereAfterAnError(t *testing.T) {
	d := newDir(t)
	path := d.Path("folder", "file")
	write := func(text string, err error) error {
		return d.Write(path, 0o640, func(w io.Writer) error {
			fmt.Fprint(w, text)
			return err
		})
	}
	if err := write("whole", nil); err != nil {
		t.Fatal(err)
	}
	if err := write("half", io.ErrUnexpectedEOF); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Error(err)
	}
	if text, err := os.ReadFile(path); string(text) != "whole" {
		t.Errorf("%q, %v", text, err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode() != 0o640 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	if left := d.born(t); len(left) > 0 {
		t.Errorf("left in tmp: %q", left)
	}
}

func TestSweepLeavesTheLiving(t *testing.T) {
	d := newDir(t)
	file, err := d.NewFile(Blobs)
	if err != nil {
		t.Fatal(err)
	}
	folder, err := d.NewFolder(Mirrors, locks.Exclusive)
	if err != nil {
		t.Fatal(err)
	}
	for _, dead := range []string{"blob-dead", "imports-mirror-dead/x", "overlay-dead/fs", "sandbox-dead/x", "other/x"} {
		if err := os.MkdirAll(d.Path("tmp", dead), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for _, kind := range []Kind{Blobs, Mirrors} {
		if err := d.Sweep(kind, RemoveLeft); err != nil {
			t.Error(err)
		}
	}
	living := []string{filepath.Base(file.Name()), filepath.Base(folder.Name())}
	if left := d.born(t); !slices.Equal(left, []string{living[0], living[1], "other", "overlay-dead", "sandbox-dead"}) {
		t.Errorf("left: %q", left)
	}

	user, err := d.Use(t.Context(), locks.Shared)
	if err != nil {
		t.Fatal(err)
	}
	if err := d.SweepUnused(); err != nil || len(d.born(t)) != 5 {
		t.Errorf("while it is in use: %q, %v", d.born(t), err)
	}
	user.Close()
	file.Close()
	folder.Close()
	if err := d.SweepUnused(); err != nil || !slices.Equal(d.born(t), []string{"overlay-dead", "sandbox-dead"}) {
		t.Errorf("when nobody uses it: %q, %v", d.born(t), err)
	}
}

func TestPutAsideNeverLosesWhatIsThere(t *testing.T) {
	d := newDir(t)
	for i, make := range []func(string) error{
		func(path string) error { return os.WriteFile(path, nil, 0o600) },
		func(path string) error { return os.MkdirAll(path+"/x", 0o700) },
		func(path string) error { return os.MkdirAll(path+"/x", 0o700) },
		func(path string) error { return os.WriteFile(path, nil, 0o600) },
		func(path string) error { return os.Symlink("/nowhere", path) },
	} {
		path := d.Path("damaged")
		if err := make(path); err != nil {
			t.Fatal(err)
		}
		to, err := d.PutAside(path, "damaged")
		if err != nil {
			t.Fatalf("%d: %v", i, err)
		}
		if _, err := os.Lstat(to); err != nil {
			t.Error(err)
		}
		if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%d: it is still there: %v", i, err)
		}
	}
	if _, err := d.PutAside(d.Path("gone"), "gone"); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
}

func TestHeldNoticesAnotherFile(t *testing.T) {
	d := newDir(t)
	path := d.Path("file")
	var h Held
	defer h.Close()
	locked := 0
	hold := func() *os.File {
		t.Helper()
		f, err := h.Hold(path, func() (*os.File, error) {
			locked++
			f, err := locks.TryOpen(path, os.O_RDONLY, locks.Shared)
			if errors.Is(err, fs.ErrNotExist) {
				err = nil
			}
			return f, err
		})
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	if hold() != nil || locked != 1 {
		t.Errorf("a file that is not there is held, after %d tries", locked)
	}
	for range 2 {
		if err := os.RemoveAll(path); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		locked = 0
		first, second := hold(), hold()
		if first == nil || second == nil || locked != 1 {
			t.Errorf("locked %d times", locked)
		}
		if _, err := locks.TryOpen(path, os.O_RDONLY, locks.Exclusive); !errors.Is(err, locks.ErrHeld) {
			t.Errorf("others may remove it: %v", err)
		}
	}
	h.Release(path)
	if f, err := locks.TryOpen(path, os.O_RDONLY, locks.Exclusive); err != nil {
		t.Error(err)
	} else {
		f.Close()
	}
}
