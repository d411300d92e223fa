package oci

import (
	"errors"
	"os"
	"testing"

	"github.com/layerbuild/layerbuild/locks"
)

// TestInUse has blobs that one Store holds, and another removes.
func TestInUse(t *testing.T) {
	state := t.TempDir()
	open := func() *Store {
		s, err := OpenStore(state)
		must(t, err)
		return s
	}
	maker, remover := open(), open()
	made, err := maker.PutBytes(t.Context(), "text/plain", []byte("made"))
	must(t, err)
	if err := remover.Remove(made.Digest); !errors.Is(err, locks.ErrHeld) || !remover.InUse(made.Digest) {
		t.Error("its maker lives:", err)
	}
	must(t, maker.Close())
	if remover.InUse(made.Digest) {
		t.Error("nobody uses it")
	}
	if !maker.Has(made) {
		t.Fatal("it is there")
	}
	if err := remover.Remove(made.Digest); !errors.Is(err, locks.ErrHeld) {
		t.Error("it was found:", err)
	}
	must(t, maker.Close())
	must(t, remover.Remove(made.Digest))
	must(t, remover.Remove(made.Digest))
	if maker.Has(made) {
		t.Error("it is gone")
	}
}

// TestCopyIsChecked does not copy a damaged blob into a layout, and puts it aside.
func TestCopyIsChecked(t *testing.T) {
	state := t.TempDir()
	writer, err := OpenStore(state)
	must(t, err)
	d, err := writer.PutBytes(t.Context(), "text/plain", []byte("content"))
	must(t, err)
	must(t, os.Chmod(writer.Path(d.Digest), 0o600))
	must(t, os.WriteFile(writer.Path(d.Digest), []byte("CONTENT"), 0o600))
	s, err := OpenStore(state)
	must(t, err)
	if err := s.Check(t.Context(), d.Digest); !errors.Is(err, ErrCorrupt) {
		t.Error("check:", err)
	}
	to, err := os.CreateTemp(t.TempDir(), "")
	must(t, err)
	defer to.Close()
	if err := copyBlob(t.Context(), to, s, d); !errors.Is(err, ErrCorrupt) {
		t.Error("copied:", err)
	}
	if s.Has(d) {
		t.Error("it was not put aside")
	}
	if blobs, err := s.Blobs(t.Context()); err != nil || len(blobs) != 0 {
		t.Error(blobs, err)
	}
}
