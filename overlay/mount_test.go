package overlay

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

// chainOf makes n snapshots on each other, each with a file of its number.
func chainOf(t *testing.T, s *Store, n int) digest.Digest {
	t.Helper()
	var id digest.Digest
	for i := range n {
		m, err := s.Prepare(t.Context(), id)
		ok(t, err)
		ok(t, os.WriteFile(filepath.Join(m.Upper(), fmt.Sprint(i)), nil, 0o600))
		m.usage = &usage{} // or each Commit mounts the parents to look at them
		snap, err := m.Commit(t.Context(), digest.FromString(fmt.Sprint(i)), Label{})
		ok(t, err)
		ok(t, m.Drop())
		id = snap.ID
	}
	return id
}

func TestLongChain(t *testing.T) {
	s := newStore(t)
	top := chainOf(t, s, 300)
	m, err := s.Prepare(t.Context(), top)
	ok(t, err)
	defer m.Drop()
	root, err := m.Mount(t.Context())
	ok(t, err)
	entries, err := os.ReadDir(root)
	ok(t, err)
	if len(entries) != 300 {
		t.Errorf("%d files are to be seen", len(entries))
	}
	ok(t, m.Unmount())
}

// folders makes n folders, each with a file of its number.
func folders(t *testing.T, n int) []string {
	t.Helper()
	top := t.TempDir()
	var all []string
	for i := range n {
		dir := filepath.Join(top, fmt.Sprintf("%d:,\\", i))
		ok(t, os.Mkdir(dir, 0o755))
		ok(t, os.WriteFile(filepath.Join(dir, fmt.Sprint(i)), nil, 0o600))
		all = append(all, dir)
	}
	return all
}

func TestMountCalls(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	for name, mount := range map[string]func(stack, string) error{"fsconfig": stack.mountFsconfig, "options": stack.mountOptions} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			k := stack{lowers: folders(t, 150)}
			ok(t, mount(k, dir))
			defer unix.Unmount(dir, 0)
			entries, err := os.ReadDir(dir)
			ok(t, err)
			if len(entries) != 150 {
				t.Errorf("%d files are to be seen", len(entries))
			}
			if err := os.Mkdir(filepath.Join(dir, "x"), 0o755); err == nil {
				t.Error("can be written to without an upper folder")
			}
			ok(t, unix.Unmount(dir, 0))

			k.upper, k.work = t.TempDir(), t.TempDir()
			ok(t, mount(k, dir))
			ok(t, os.Remove(filepath.Join(dir, "7")))
			if got := names(t, k.upper); got != "7 -" {
				t.Errorf("upper holds %s", got)
			}
		})
	}
}

func TestChainOverTheLimit(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	dir := t.TempDir()
	k := stack{lowers: folders(t, maxLowers)}
	ok(t, k.mount(dir))
	ok(t, unix.Unmount(dir, 0))

	err := k.mountOptions(dir)
	if err == nil || !strings.Contains(err.Error(), "a chain of 499 layers is more than the 2") {
		t.Errorf("error is %v", err)
	}
	k.lowers = folders(t, 2*maxLowers)
	if err := k.mount(dir); err == nil || !strings.Contains(err.Error(), "a chain of 999 layers is more than the 998") {
		t.Errorf("error is %v", err)
	}
}

// TestDeepChain has more layers than overlayfs takes at once, with
// whiteouts on both sides of the cut.
func TestDeepChain(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	dir := t.TempDir()
	k := stack{lowers: folders(t, 2*maxLowers-1), upper: t.TempDir(), work: t.TempDir()}
	// Folder i holds file i; these hide files of folders below them (higher numbers).
	for at, file := range map[int]string{0: "998", 1: "300", 498: "499", 499: "700", 600: "997"} {
		ok(t, unix.Mknod(filepath.Join(k.lowers[at], file), unix.S_IFCHR, 0))
	}
	ok(t, k.mount(dir))
	defer unix.Unmount(dir, 0)
	entries, err := os.ReadDir(dir)
	ok(t, err)
	if len(entries) != 999-5 {
		t.Errorf("%d files are to be seen, want 994", len(entries))
	}
	ok(t, os.WriteFile(filepath.Join(dir, "998"), []byte("new"), 0o644))
	ok(t, os.Remove(filepath.Join(dir, "996")))
	if got := names(t, k.upper); got != "996 -, 998" {
		t.Errorf("upper holds %s", got)
	}
	ok(t, unix.Unmount(dir, 0))
}

func TestMountErrorsSayWhy(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	dirs := folders(t, 2)
	err := stack{lowers: dirs[:1], upper: dirs[1], work: filepath.Join(dirs[1], "0")}.mount(t.TempDir())
	if err == nil || !strings.Contains(err.Error(), dirs[1]) {
		t.Errorf("error is %v", err)
	}
}

func TestUnmountOfWhatIsUsed(t *testing.T) {
	s := newStore(t)
	snap := commit(t, s, "", "echo x >x")
	m, err := s.Prepare(t.Context(), snap.ID)
	ok(t, err)
	defer m.Drop()
	root, err := m.Mount(t.Context())
	ok(t, err)
	f, err := os.Open(filepath.Join(root, "x"))
	ok(t, err)
	is(t, m.Unmount(), ErrLocked)
	_, err = m.Normalize(t.Context(), epoch)
	if err == nil {
		t.Error("what is mounted can be normalized")
	}
	ok(t, f.Close())
	ok(t, m.Unmount())

	v, err := s.View(t.Context(), snap.ID)
	ok(t, err)
	f, err = os.Open(filepath.Join(v.Root, "x"))
	ok(t, err)
	defer f.Close()
	ok(t, v.Release())
	ok(t, m.Drop())
	leavesNothing(t, s)
}

func TestSupported(t *testing.T) {
	s := newStore(t)
	ok(t, s.Supported())
	leavesNothing(t, s)
	m, err := s.Prepare(t.Context(), "")
	ok(t, err)
	defer m.Drop()
	root, err := m.Mount(t.Context())
	ok(t, err)
	inside, err := Open(root)
	ok(t, err)
	defer inside.Close()
	if err := inside.Supported(); err == nil || strings.Contains(err.Error(), "/proc/self") || !strings.Contains(err.Error(), "itself on overlayfs, as in a container; put --state-dir on") {
		t.Errorf("error is %v", err)
	}
	leavesNothing(t, inside)
	if _, err := Open("/proc"); err == nil {
		t.Error("/proc can hold a store")
	}
}
