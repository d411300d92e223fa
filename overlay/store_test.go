package overlay

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
)

func TestFromEmptyToCommitted(t *testing.T) {
	s := newStore(t)
	base := commit(t, s, "", "echo one >one; mkdir d; chmod 700 d")
	if base.ID != base.DiffID || base.Parent != "" {
		t.Errorf("a snapshot without a parent is %+v", base)
	}
	top := commit(t, s, base.ID, "echo two >d/two; rm one")
	if want := identity.ChainID([]digest.Digest{base.DiffID, top.DiffID}); top.ID != want {
		t.Errorf("id is %s, not %s", top.ID, want)
	}
	for _, snap := range []Snapshot{base, top} {
		got, err := s.Get(snap.ID)
		ok(t, err)
		if got != snap || !s.Has(snap.ID) {
			t.Errorf("got %+v, not %+v", got, snap)
		}
	}
	if top.Inodes != 4 || top.Size < 4096 || !strings.Contains(top.Description, t.Name()) || time.Since(top.Created) > time.Hour {
		t.Errorf("got %+v", top)
	}
	v, err := s.View(t.Context(), top.ID)
	ok(t, err)
	defer v.Release()
	again, err := s.View(t.Context(), top.ID)
	ok(t, err)
	ok(t, again.Release())
	ok(t, again.Release())
	if got := names(t, v.Root); got != "d/, d/two" {
		t.Errorf("view shows %s", got)
	}
	if err := os.WriteFile(filepath.Join(v.Root, "x"), nil, 0o600); err == nil {
		t.Error("a view can be written to")
	}
	ok(t, v.Release())
	leavesNothing(t, s)
}

// leavesNothing checks that nothing is being made in a store, and that Close leaves no
// mountpoint.
func leavesNothing(t *testing.T, s *Store) {
	t.Helper()
	ok(t, s.Close())
	isEmpty(t, s.dir.Path("tmp"))
}

// isEmpty checks that a folder is empty.
func isEmpty(t *testing.T, dir string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	ok(t, err)
	if len(entries) > 0 {
		t.Errorf("%s holds %v", dir, entries)
	}
}

func TestDifference(t *testing.T) {
	s := newStore(t)
	base := commit(t, s, "", "echo x >x; mkdir d; echo y >d/y")
	top := commit(t, s, base.ID, "rm x; rm -r d; mkdir d")
	dir, release, err := s.Difference(t.Context(), top.ID)
	ok(t, err)
	if got := names(t, dir); got != "d/, d/y -, x -" {
		t.Errorf("it holds %s", got)
	}
	is(t, s.Remove(t.Context(), top.ID), ErrLocked)
	release()
	ok(t, s.Remove(t.Context(), top.ID))
	_, _, err = s.Difference(t.Context(), top.ID)
	is(t, err, ErrNotFound)
}

func TestViewOfNothing(t *testing.T) {
	s := newStore(t)
	v, err := s.View(t.Context(), "")
	ok(t, err)
	isEmpty(t, v.Root)
	ok(t, v.Release())
}

func TestCommitOfWhatIsThere(t *testing.T) {
	s := newStore(t)
	first := commit(t, s, "", "echo x >x")
	m, err := s.Prepare(t.Context(), "")
	ok(t, err)
	again, err := m.Commit(t.Context(), first.DiffID, Label{Description: "another"})
	ok(t, err)
	if again != first {
		t.Errorf("got %+v, not %+v", again, first)
	}
	is(t, s.Remove(t.Context(), first.ID), ErrLocked) // m uses it
	ok(t, m.Drop())
	ok(t, m.Drop())
	leavesNothing(t, s)
	ok(t, s.Remove(t.Context(), first.ID))
	isEmpty(t, s.snapshots)
	leavesNothing(t, s)
}

func TestDropLeavesNothing(t *testing.T) {
	s := newStore(t)
	m, err := s.Prepare(t.Context(), "")
	ok(t, err)
	root, err := m.Mount(t.Context())
	ok(t, err)
	shell(t, root, "echo x >x")
	ok(t, m.Drop())
	leavesNothing(t, s)
	isEmpty(t, s.snapshots)
	_, err = m.Mount(t.Context())
	if err == nil {
		t.Error("a dropped one can be mounted")
	}
}

func TestNotFound(t *testing.T) {
	s := newStore(t)
	for _, id := range []digest.Digest{digest.FromString("none"), "sha256:../../etc", "sha512:" + digest.Digest(strings.Repeat("a", 128)), "x"} {
		_, err := s.Get(id)
		is(t, err, ErrNotFound)
		_, err = s.Prepare(t.Context(), id)
		is(t, err, ErrNotFound)
		_, err = s.View(t.Context(), id)
		is(t, err, ErrNotFound)
		_, err = s.PutAside(id)
		is(t, err, ErrNotFound)
		is(t, s.Remove(t.Context(), id), ErrNotFound)
	}
	leavesNothing(t, s)
}

func TestRemoveSparesWhatIsUsed(t *testing.T) {
	s := newStore(t)
	base := commit(t, s, "", "echo x >x")
	top := commit(t, s, base.ID, "echo y >y")
	is(t, s.Remove(t.Context(), base.ID), ErrLocked)

	v, err := s.View(t.Context(), top.ID)
	ok(t, err)
	is(t, s.Remove(t.Context(), top.ID), ErrLocked)
	ok(t, v.Release())

	m, err := s.Prepare(t.Context(), top.ID)
	ok(t, err)
	is(t, s.Remove(t.Context(), top.ID), ErrLocked)
	ok(t, m.Drop())

	other, _ := start(t, "view", filepath.Dir(s.snapshots), string(top.ID))
	is(t, s.Remove(t.Context(), top.ID), ErrLocked)
	kill(t, other)
	ok(t, s.Remove(t.Context(), top.ID))
	ok(t, s.Remove(t.Context(), base.ID))
	ok(t, s.Sweep(t.Context()))
	isEmpty(t, s.snapshots)
	leavesNothing(t, s)
}

func TestDamage(t *testing.T) {
	for name, script := range map[string]string{
		"no snapshot.json": "rm snapshot.json",
		"empty":            ": >snapshot.json",
		"garbage":          "echo '{' >snapshot.json",
		"another version":  `sed -i 's/"version": 1/"version": 2/' snapshot.json`,
		"another parent":   `sed -i 's/"parent": .*"/"parent": "sha256:` + strings.Repeat("0", 64) + `"/' snapshot.json`,
		"no parent":        `sed -i '/"parent"/d' snapshot.json`,
		"no fs":            "rm -r fs",
		"fs is a file":     "rm -r fs; : >fs",
	} {
		t.Run(name, func(t *testing.T) {
			s := newStore(t)
			base := commit(t, s, "", "echo x >x")
			top := commit(t, s, base.ID, "echo y >y")
			path, err := s.path(top.ID)
			ok(t, err)
			shell(t, path, script)
			if s.Has(top.ID) {
				t.Error("it is there")
			}
			_, err = s.Get(top.ID)
			is(t, err, ErrInvalid)
			_, err = s.View(t.Context(), top.ID)
			is(t, err, ErrInvalid)
			_, err = s.Prepare(t.Context(), top.ID)
			is(t, err, ErrInvalid)
			leavesNothing(t, s)

			// It is no obstacle to the sound one.
			if again := commit(t, s, base.ID, "echo y >y"); again.ID != top.ID || !s.Has(top.ID) {
				t.Error("it cannot be made again")
			}
			aside, err := os.ReadDir(s.dir.Path("corrupt"))
			ok(t, err)
			if len(aside) != 1 || !strings.HasPrefix(aside[0].Name(), top.ID.Encoded()) {
				t.Errorf("put aside: %v", aside)
			}
		})
	}
}

func TestPutAside(t *testing.T) {
	s := newStore(t)
	snap := commit(t, s, "", "echo x >x")
	v, err := s.View(t.Context(), snap.ID)
	ok(t, err)
	defer v.Release()
	path, err := s.PutAside(snap.ID)
	ok(t, err)
	if got := names(t, filepath.Join(path, "fs")); got != "x" || s.Has(snap.ID) {
		t.Errorf("put aside: %s", got)
	}
	_, err = os.ReadFile(filepath.Join(v.Root, "x"))
	ok(t, err)
}

func FuzzSnapshotFile(f *testing.F) {
	id := digest.FromString("x")
	sound, _ := json.Marshal(snapshotFile{Version: 1, Snapshot: Snapshot{ID: id, DiffID: id}})
	f.Add(sound)
	f.Add([]byte(`{"version":1,"chainID":"x"}`))
	f.Add([]byte(`[]`))
	f.Fuzz(func(t *testing.T, text []byte) {
		snap, err := parseSnapshot(text, id)
		if err == nil && chainID(snap.Parent, snap.DiffID) != id {
			t.Errorf("%q is taken for a snapshot", text)
		}
	})
}
