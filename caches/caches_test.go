package caches

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/layerbuild/layerbuild/layers"
	"github.com/layerbuild/layerbuild/locks"
)

func store(t testing.TB) *Store {
	state := t.TempDir()
	if err := os.Mkdir(filepath.Join(state, "tmp"), 0o700); err != nil {
		t.Fatal(err)
	}
	return Open(state)
}

func take(t *testing.T, s *Store, sharing string) *Cache {
	t.Helper()
	ctx, cancel := context.WithTimeout(locks.For(t.Context(), "layer"), 100*time.Millisecond)
	defer cancel()
	c, err := s.Take(ctx, "id", sharing)
	if errors.Is(err, context.DeadlineExceeded) {
		return nil
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Release)
	return c
}

// Who wants a cache that another has gets it, waits, or gets a copy.
func TestTake(t *testing.T) {
	const shared, private, locked = layers.SharingShared, layers.SharingPrivate, layers.SharingLocked
	const same, waits, copied = "the same", "waits", "a copy"
	for _, test := range []struct{ first, second, want string }{
		{shared, shared, same},
		{shared, locked, waits},
		{shared, private, copied},
		{locked, shared, waits},
		{locked, locked, waits},
		{locked, private, copied},
		{private, shared, waits},
		{private, locked, waits},
		{private, private, copied},
	} {
		s := store(t)
		first, second := take(t, s, test.first), take(t, s, test.second)
		got := copied
		if second == nil {
			got = waits
		} else if second.Path == first.Path {
			got = same
		}
		if got != test.want {
			t.Errorf("%s, then %s: %s, want %s", test.first, test.second, got, test.want)
		}
		first.Release()
		if third := take(t, s, private); test.want == waits && third.Path != first.Path {
			t.Errorf("%s, then %s: %s was not given back", test.first, test.second, first.Path)
		}
	}
}

func TestWaiting(t *testing.T) {
	s := store(t)
	first := take(t, s, layers.SharingLocked)
	ctx := locks.Watch(t.Context(), func(w locks.Waiting) {
		if want := `waiting for layer "layer", which has had the cache "id" since `; !strings.HasPrefix(w.String(), want) || w.Holder.Since.IsZero() {
			t.Errorf("%s", w)
		}
		first.Release()
	})
	second, err := s.Take(ctx, "id", layers.SharingLocked)
	if err != nil {
		t.Fatal(err)
	}
	second.Release()
}

// Who has a cache may not have been able to sign it.
func TestWaitingForNobody(t *testing.T) {
	s := store(t)
	dir, err := s.open(copyName("id", 0), "id")
	if err != nil {
		t.Fatal(err)
	}
	if err := locks.Try(dir, locks.Exclusive); err != nil {
		t.Fatal(err)
	}
	ctx := locks.Watch(t.Context(), func(w locks.Waiting) {
		if want := `waiting for another process, which has had the cache "id"`; w.String() != want {
			t.Errorf("%s", w)
		}
		dir.Close()
	})
	c, err := s.Take(ctx, "id", layers.SharingLocked)
	if err != nil {
		t.Fatal(err)
	}
	c.Release()
}

func TestListAndRemove(t *testing.T) {
	s := store(t)
	first, second := take(t, s, layers.SharingPrivate), take(t, s, layers.SharingPrivate)
	if err := os.WriteFile(filepath.Join(second.Path, "kept"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	all, err := s.List()
	if err != nil || len(all) != 2 || all[0].ID != "id" || all[1].Copy != 1 || all[1].Used.IsZero() {
		t.Fatalf("%+v, %v", all, err)
	}
	if err := s.Remove(first.Name); !errors.Is(err, locks.ErrHeld) || !s.InUse(first.Name) {
		t.Error(err)
	}
	first.Release()
	if err := s.Remove(first.Name); err != nil || s.InUse(first.Name) {
		t.Error(err)
	}
	if again := take(t, s, layers.SharingLocked); again.Name != first.Name {
		t.Errorf("%s, want %s", again.Name, first.Name)
	}
	if left, _ := os.ReadDir(filepath.Join(s.state, "tmp")); len(left) > 0 {
		t.Errorf("left in tmp: %v", left)
	}
}

// Whatever a file says that claims to be of a cache, it is one or it is damaged.
func FuzzCacheFile(f *testing.F) {
	f.Add("f05f1e0b5dd2d0b2e4b1b1a0c4c8c1e5-0", []byte(`{"id":"x"}`))
	f.Add(copyName("x", 3), []byte(`{"id":"x"}`))
	f.Add("x", []byte("{"))
	f.Add(copyName("", 0), []byte(`{"id":""}`))
	f.Fuzz(func(t *testing.T, name string, text []byte) {
		if name != filepath.Base(name) || name == "." || name == ".." {
			t.Skip()
		}
		s := store(t)
		if os.MkdirAll(filepath.Join(s.path(name), "data"), 0o700) != nil {
			t.Skip()
		}
		if err := os.WriteFile(filepath.Join(s.path(name), "cache.json"), text, 0o600); err != nil {
			t.Fatal(err)
		}
		if c := s.look(name); c.Err == nil && copyName(c.ID, c.Copy) != name {
			t.Errorf("%q is taken for copy %d of %q", name, c.Copy, c.ID)
		}
	})
}
