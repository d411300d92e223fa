package overlay

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
)

func TestKeepAndFind(t *testing.T) {
	s := newStore(t)
	base := commit(t, s, "", "echo x >x")
	m, err := s.Prepare(t.Context(), base.ID)
	ok(t, err)
	root, err := m.Mount(t.Context(), Mountpoint{Path: "/proc"}, Mountpoint{Path: "/etc/resolv.conf", File: true})
	ok(t, err)
	shell(t, root, "rm x; echo failed >y")
	ok(t, m.Keep("web", "layer web"))
	leavesNothing(t, s)
	ok(t, m.Drop())
	ok(t, s.Sweep(t.Context()))
	is(t, s.Remove(t.Context(), base.ID), ErrLocked) // it stands below the kept one

	for i := range 2 { // again and again
		m, err = s.Find(t.Context(), "web")
		ok(t, err)
		_, err = s.Find(t.Context(), "web")
		is(t, err, ErrLocked)
		root, err = m.Mount(t.Context())
		ok(t, err)
		if got := strings.Fields(shell(t, root, "ls")); !slices.Equal(got, []string{"y"}) {
			t.Errorf("%d: it holds %v", i, got)
		}
		ok(t, m.Keep("web", "layer web"))
	}

	m, err = s.Find(t.Context(), "web")
	ok(t, err)
	_, err = m.Normalize(t.Context(), epoch)
	ok(t, err)
	if got := names(t, m.Upper()); got != "x -, y" {
		t.Errorf("mountpoints are left: %s", got)
	}
	snap, err := m.Commit(t.Context(), digest.FromString("x"), Label{})
	ok(t, err)
	ok(t, m.Drop())
	if !s.Has(snap.ID) {
		t.Error("what was kept cannot be committed")
	}
	entries, err := os.ReadDir(filepath.Join(s.snapshots, snap.ID.Encoded()))
	ok(t, err)
	if len(entries) != 2 {
		t.Errorf("the snapshot holds %v", entries)
	}
	_, err = s.Find(t.Context(), "web")
	is(t, err, ErrNotFound)
	isEmpty(t, s.failed)
}

func TestKeepReplacesTheOlder(t *testing.T) {
	s := newStore(t)
	for _, name := range []string{"one", "two"} {
		m, err := s.Prepare(t.Context(), "")
		ok(t, err)
		ok(t, os.WriteFile(filepath.Join(m.Upper(), name), nil, 0o600))
		ok(t, m.Keep("web", name))
	}
	m, err := s.Find(t.Context(), "web")
	ok(t, err)
	if got := names(t, m.Upper()); got != "two" {
		t.Errorf("it holds %s", got)
	}
	other, err := s.Prepare(t.Context(), "")
	ok(t, err)
	is(t, other.Keep("web", ""), ErrLocked)
	ok(t, other.Drop())
	ok(t, m.Drop())
	isEmpty(t, s.failed)
	leavesNothing(t, s)
}

// What somebody works on when he is killed is still kept.
func TestFoundByOneWhoDies(t *testing.T) {
	s := newStore(t)
	m, err := s.Prepare(t.Context(), "")
	ok(t, err)
	ok(t, os.WriteFile(filepath.Join(m.Upper(), "x"), nil, 0o600))
	ok(t, m.Keep("web", ""))
	for _, next := range []string{"sweep", "find", "keep"} {
		process, root := start(t, "find", filepath.Dir(s.snapshots), "web")
		ok(t, s.Sweep(t.Context()))
		if !slices.Contains(ourMounts(), root) {
			t.Fatal("the mount of a living process is gone")
		}
		kill(t, process)
		switch next {
		case "find":
			m, err := s.Find(t.Context(), "web")
			ok(t, err)
			ok(t, m.Keep("web", ""))
		case "keep":
			m, err := s.Prepare(t.Context(), "")
			ok(t, err)
			ok(t, m.Keep("web", ""))
		}
		ok(t, s.Sweep(t.Context()))
		ok(t, s.Close())
		if left := ourMounts(); len(left) > 0 {
			t.Errorf("%s: left mounted: %v", next, left)
		}
	}
	leavesNothing(t, s)
}

func TestFindWhatIsDamaged(t *testing.T) {
	s := newStore(t)
	for _, name := range []string{"none", "", ".", "..", "../snapshots", "a/b"} {
		_, err := s.Find(t.Context(), name)
		is(t, err, ErrNotFound)
	}
	base := commit(t, s, "", "echo x >x")
	for script, want := range map[string]error{
		"rm web/mutable.json":            ErrInvalid,
		"echo garbage >web/mutable.json": ErrInvalid,
		"rm -r web/fs":                   ErrInvalid,
		"rm -r ../snapshots/*":           ErrNotFound,
	} {
		m, err := s.Prepare(t.Context(), base.ID)
		ok(t, err)
		ok(t, m.Keep("web", ""))
		shell(t, s.failed, script)
		_, err = s.Find(t.Context(), "web")
		is(t, err, want)
		commit(t, s, "", "echo x >x")
	}
}
