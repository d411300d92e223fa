package overlay

import (
	"errors"
	"testing"

	"github.com/opencontainers/go-digest"
)

// TestHold keeps a snapshot, and what it stands on, until the store is closed.
func TestHold(t *testing.T) {
	s := newStore(t)
	low := commit(t, s, "", "echo low > low").ID
	high := commit(t, s, low, "echo high > high").ID
	other, err := Open(s.Dir())
	if err != nil {
		t.Fatal(err)
	}
	if err := other.Hold(t.Context(), high); err != nil {
		t.Fatal(err)
	}
	l, err := s.List(t.Context(), Listing{})
	if err != nil || l.Find(low).Children != 1 || l.Find(high).Children != 0 {
		t.Fatalf("%+v %v", l, err)
	}
	defer l.Close()
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
	if l.Find(low) != nil || l.Find(high) != nil {
		t.Error("still listed:", l)
	}
}

// TestRemoveListed sees what came up after the listing.
func TestRemoveListed(t *testing.T) {
	s := newStore(t)
	low := commit(t, s, "", "echo low > low").ID
	l, err := s.List(t.Context(), Listing{})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	high := commit(t, s, low, "echo high > high").ID
	if err := s.RemoveListed(t.Context(), l, low); !errors.Is(err, ErrLocked) {
		t.Error("something stands on it:", err)
	}
	if err := s.Remove(t.Context(), high); err != nil {
		t.Fatal(err)
	}
}

// TestArrivals sees what comes up between one removal and the next, also in a
// folder that came up itself, and also when nothing can be watched.
func TestArrivals(t *testing.T) {
	for _, blind := range []bool{false, true} {
		s := newStore(t)
		base := commit(t, s, "", "echo base > base").ID
		kept := commit(t, s, base, "echo kept > kept").ID
		other := commit(t, s, "", "echo other > other").ID
		l, err := s.List(t.Context(), Listing{})
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		ok(t, s.RemoveListed(t.Context(), l, other))
		l.came.unknown = blind
		m, _ := change(t, s, kept, "echo failed > failed")
		ok(t, m.Keep("failed", ""))
		if err := s.RemoveListed(t.Context(), l, kept); !errors.Is(err, ErrLocked) {
			t.Errorf("a kept layer stands on it: %v", err)
		}
		high := commit(t, s, base, "echo high > high").ID
		ok(t, s.RemoveKept("failed"))
		l.DropKept("failed")
		for _, row := range []struct {
			id     digest.Digest
			locked bool
		}{{kept, false}, {base, true}, {high, false}, {base, false}} {
			if err := s.RemoveListed(t.Context(), l, row.id); errors.Is(err, ErrLocked) != row.locked || !row.locked && err != nil {
				t.Errorf("%s: %v", row.id, err)
			}
		}
	}
}
