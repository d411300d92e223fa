package overlay

import (
	"errors"
	"path/filepath"
	"testing"

	"github.com/opencontainers/go-digest"
)

// TestHold keeps a snapshot, and what it stands on, until the store is closed.
func TestHold(t *testing.T) {
	s := newStore(t)
	low := commit(t, s, "", "echo low > low").ID
	high := commit(t, s, low, "echo high > high").ID
	other, err := Open(filepath.Dir(s.tmp))
	if err != nil {
		t.Fatal(err)
	}
	if err := other.Hold(t.Context(), high); err != nil {
		t.Fatal(err)
	}
	l, err := s.List(t.Context(), nil)
	if err != nil || l.Snapshots[low].Children != 1 || l.Snapshots[high].Children != 0 {
		t.Fatalf("%+v %v", l, err)
	}
	if !s.InUse(high) || s.InUse(low) {
		t.Error("in use is", s.InUse(high), s.InUse(low))
	}
	for _, id := range []digest.Digest{high, low} {
		if err := s.RemoveListed(t.Context(), l, id); !errors.Is(err, ErrLocked) {
			t.Error("held:", err)
		}
	}
	if err := other.Close(); err != nil {
		t.Fatal(err)
	}
	for _, id := range []digest.Digest{high, low} {
		if err := s.RemoveListed(t.Context(), l, id); err != nil {
			t.Error("released:", err)
		}
	}
	if len(l.Snapshots) != 0 {
		t.Error("still listed:", l.Snapshots)
	}
}

// TestRemoveListed sees what came up after the listing.
func TestRemoveListed(t *testing.T) {
	s := newStore(t)
	low := commit(t, s, "", "echo low > low").ID
	l, err := s.List(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	high := commit(t, s, low, "echo high > high").ID
	if err := s.RemoveListed(t.Context(), l, low); !errors.Is(err, ErrLocked) {
		t.Error("something stands on it:", err)
	}
	if err := s.Remove(t.Context(), high); err != nil {
		t.Fatal(err)
	}
}
