package overlay

import (
	"bytes"
	"errors"
	"flag"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

var kills = flag.Int("kills", 20, "how often TestKilledAtAnyMoment kills a process")

func TestSweepClearsAfterTheDead(t *testing.T) {
	s := newStore(t)
	base := commit(t, s, "", "echo x >x")
	dead, root := start(t, "mount", filepath.Dir(s.snapshots), string(base.ID))
	another, living := start(t, "mount", filepath.Dir(s.snapshots), string(base.ID))
	viewer, view := start(t, "view", filepath.Dir(s.snapshots), string(base.ID))
	ok(t, s.Sweep(t.Context()))
	for _, path := range []string{root, living, view} {
		if !slices.Contains(ourMounts(), path) {
			t.Fatalf("%s of a living process is gone", path)
		}
	}
	kill(t, dead)
	kill(t, viewer)
	ok(t, s.Sweep(t.Context()))
	if left := ourMounts(); slices.Contains(left, root) || slices.Contains(left, view) || !slices.Contains(left, living) {
		t.Errorf("after the sweep there is %v, it should be %s", left, living)
	}
	if _, err := os.Stat(filepath.Join(living, "file")); err != nil {
		t.Error(err)
	}
	ok(t, s.Close())
	entries, err := os.ReadDir(s.dir.Path("tmp"))
	ok(t, err)
	if len(entries) != 2 { // the difference and the mountpoints
		t.Errorf("left in tmp: %v", entries)
	}
	if !s.Has(base.ID) {
		t.Error("the base is gone")
	}
	kill(t, another)
	ok(t, s.Sweep(t.Context()))
	leavesNothing(t, s)
}

// A process that is killed at any moment leaves a store that the next one uses
// as it is: no half snapshot, and nothing that Sweep does not take away.
func TestKilledAtAnyMoment(t *testing.T) {
	s := newStore(t)
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	for range *kills {
		process, _ := start(t, "loop", filepath.Dir(s.snapshots))
		time.Sleep(time.Duration(random.IntN(30_000)) * time.Microsecond)
		kill(t, process)
		entries, err := os.ReadDir(s.snapshots)
		ok(t, err)
		for _, e := range entries {
			id := digest.NewDigestFromEncoded(digest.SHA256, e.Name())
			v, err := s.View(t.Context(), id)
			ok(t, err)
			files, err := os.ReadDir(v.Root)
			ok(t, err)
			for _, f := range files {
				text, err := os.ReadFile(filepath.Join(v.Root, f.Name()))
				ok(t, err)
				if string(text) != "content" {
					t.Errorf("%s holds %q", f.Name(), text)
				}
			}
			ok(t, v.Release())
		}
		ok(t, s.Sweep(t.Context()))
		leavesNothing(t, s)
		if left := ourMounts(); len(left) > 0 {
			t.Fatalf("left mounted: %v", left)
		}
	}
	_, err := liveOnce(t.Context(), s, "x")
	ok(t, err)
}

func TestProcessesTogether(t *testing.T) {
	s := newStore(t)
	var all []*exec.Cmd
	for range 4 {
		cmd := exec.Command("/proc/self/exe", filepath.Dir(s.snapshots))
		cmd.Env = append(os.Environ(), helper+"=commit")
		cmd.Stderr = new(bytes.Buffer)
		ok(t, cmd.Start())
		all = append(all, cmd)
	}
	for _, cmd := range all {
		if err := cmd.Wait(); err != nil {
			t.Errorf("%v: %s", err, cmd.Stderr)
		}
	}
	leavesNothing(t, s)
	if _, err := os.Stat(s.dir.Path("corrupt")); err == nil {
		t.Error("something was taken for damaged")
	}
}

func TestRemoveWhileOthersPrepare(t *testing.T) {
	s := newStore(t)
	id := digest.FromString("x")
	done := make(chan error)
	go func() {
		for range 50 {
			if err := s.Remove(t.Context(), id); err != nil && !isOne(err, ErrLocked, ErrNotFound) {
				done <- err
				return
			}
		}
		done <- nil
	}()
	for range 50 {
		m, err := s.Prepare(t.Context(), "")
		ok(t, err)
		_, err = m.Commit(t.Context(), id, Label{})
		ok(t, err)
		child, err := s.Prepare(t.Context(), id) // m still holds it
		ok(t, err)
		ok(t, m.Drop())
		ok(t, child.Drop())
	}
	ok(t, <-done)
}

func isOne(err error, of ...error) bool {
	return slices.ContainsFunc(of, func(e error) bool { return errors.Is(err, e) })
}

// A full disk fails what is being made, and nothing else.
func TestDiskFull(t *testing.T) {
	state := t.TempDir()
	if err := unix.Mount("tmpfs", state, "tmpfs", 0, "size=1m"); err != nil {
		t.Skip("needs root")
	}
	defer unix.Unmount(state, unix.MNT_DETACH)
	s, err := Open(state)
	ok(t, err)
	defer s.Close()
	ok(t, s.Supported())
	base := commit(t, s, "", "echo x >x")
	m, err := s.Prepare(t.Context(), base.ID)
	ok(t, err)
	root, err := m.Mount(t.Context())
	ok(t, err)
	is(t, os.WriteFile(filepath.Join(root, "large"), make([]byte, 2<<20), 0o600), unix.ENOSPC)
	ok(t, m.Unmount())
	_, err = m.Commit(t.Context(), digest.FromString("x"), Label{})
	is(t, err, unix.ENOSPC)
	ok(t, m.Drop())
	leavesNothing(t, s)
	if next := commit(t, s, base.ID, "echo y >y"); !s.Has(base.ID) || !s.Has(next.ID) {
		t.Error("what there was is damaged")
	}
}
