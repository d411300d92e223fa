package overlay

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/moby/sys/mountinfo"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

// helper is set in the processes that tests start of themselves: its value
// names a function of helpers.
const helper = "OVERLAY_TEST_HELPER"

func TestMain(m *testing.M) {
	if name := os.Getenv(helper); name != "" {
		if err := helpers[name](os.Args[1:]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	// Other packages' tests may use this one at the same time.
	dir, err := os.MkdirTemp("", "overlay-test-")
	if err != nil {
		panic(err)
	}
	os.Setenv("TMPDIR", dir)
	code := m.Run()
	os.Remove(dir)
	if left := ourMounts(); len(left) > 0 {
		fmt.Fprintln(os.Stderr, "left mounted:", left)
		code = 1
	}
	os.Exit(code)
}

// ourMounts returns what is mounted by these tests.
func ourMounts() []string {
	mounts, err := mountinfo.GetMounts(mountinfo.PrefixFilter(os.Getenv("TMPDIR")))
	if err != nil {
		return []string{err.Error()}
	}
	var at []string
	for _, m := range mounts {
		at = append(at, m.Mountpoint)
	}
	return at
}

// epoch is after the mtimes that the tests set, and before now.
var epoch = time.Unix(1_000_000_000, 0)

func newStore(t *testing.T) *Store {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	s, err := Open(t.TempDir())
	ok(t, err)
	t.Cleanup(func() { ok(t, s.Close()) })
	return s
}

func ok(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func is(t *testing.T, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Fatalf("error is %v, not %v", err, want)
	}
}

// shell runs a script in the folder dir.
func shell(t *testing.T, dir, script string) string {
	t.Helper()
	cmd := exec.Command("/bin/sh", "-euc", "umask 022\n"+script)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s\n%s%v", script, out, err)
	}
	return string(out)
}

// change runs a script in a difference on parent and normalizes it.
func change(t *testing.T, s *Store, parent digest.Digest, script string, points ...Mountpoint) (*Mutable, Diff) {
	t.Helper()
	m, err := s.Prepare(t.Context(), parent)
	ok(t, err)
	t.Cleanup(func() { m.Drop() })
	root, err := m.Mount(t.Context(), points...)
	ok(t, err)
	shell(t, root, script)
	ok(t, m.Unmount())
	diff, err := m.Normalize(t.Context(), epoch)
	ok(t, err)
	return m, diff
}

// commit makes a snapshot of what a script does on parent.
func commit(t *testing.T, s *Store, parent digest.Digest, script string) Snapshot {
	t.Helper()
	m, _ := change(t, s, parent, script)
	snap, err := m.Commit(t.Context(), digest.FromString(string(parent)+script), Label{Description: "made by " + t.Name()})
	ok(t, err)
	ok(t, m.Drop())
	return snap
}

// list describes everything below dir, one line each, sorted.
func list(t *testing.T, dir string) []string {
	t.Helper()
	var lines []string
	inodes := map[uint64]string{}
	ok(t, filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return err
		}
		rel, _ := filepath.Rel(dir, path)
		line := fmt.Sprintf("%s %o %d:%d", rel, st.Mode, st.Uid, st.Gid)
		if !d.IsDir() {
			line += fmt.Sprintf(" %d.%09d", st.Mtim.Sec, st.Mtim.Nsec)
		}
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFREG:
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			line += fmt.Sprintf(" %d %s", len(data), digest.FromBytes(data).Encoded()[:8])
			if first, linked := inodes[st.Ino]; linked && st.Nlink > 1 {
				line += " = " + first
			}
			inodes[st.Ino] = rel
		case unix.S_IFLNK:
			to, err := os.Readlink(path)
			if err != nil {
				return err
			}
			line += " -> " + to
		case unix.S_IFCHR, unix.S_IFBLK:
			line += fmt.Sprintf(" %d,%d", unix.Major(st.Rdev), unix.Minor(st.Rdev))
		}
		names, err := listXattrs(path)
		if err != nil {
			return err
		}
		slices.Sort(names)
		for _, name := range names {
			value, err := getXattr(path, name)
			if err != nil {
				return err
			}
			line += fmt.Sprintf(" %s=%q", name, value)
		}
		lines = append(lines, line)
		return nil
	}))
	slices.Sort(lines)
	return lines
}

// names lists what is below dir: `name` of a file, `name/` of a folder, `name/!`
// of an opaque one, `name -` of a whiteout, `name *` of a folder or file with
// more of overlayfs's own attributes.
func names(t *testing.T, dir string) string {
	t.Helper()
	var all []string
	ok(t, filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(dir, path)
		if rel == "." {
			return nil
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return err
		}
		if d.IsDir() {
			rel += "/"
		}
		if st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev == 0 {
			rel += " -"
		}
		attrs, err := listXattrs(path)
		for _, a := range attrs {
			switch {
			case a == opaque:
				rel += "!"
			case isPrivate(a):
				rel += " *"
			}
		}
		all = append(all, rel)
		return err
	}))
	return strings.Join(all, ", ")
}

func equalLines(t *testing.T, what string, got, want []string) {
	t.Helper()
	for _, line := range got {
		if !slices.Contains(want, line) {
			t.Errorf("%s: extra:   %s", what, line)
		}
	}
	for _, line := range want {
		if !slices.Contains(got, line) {
			t.Errorf("%s: missing: %s", what, line)
		}
	}
}

// start starts this test program as a helper and returns once it has said
// "ready". Its standard input is open until the test ends.
func start(t *testing.T, name string, args ...string) (cmd *exec.Cmd, said string) {
	t.Helper()
	cmd = exec.Command("/proc/self/exe", args...)
	cmd.Env = append(os.Environ(), helper+"="+name)
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	ok(t, err)
	stdout, err := cmd.StdoutPipe()
	ok(t, err)
	ok(t, cmd.Start())
	t.Cleanup(func() {
		stdin.Close()
		cmd.Wait()
	})
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		t.Fatalf("helper %s: %v", name, err)
	}
	return cmd, strings.TrimSpace(line)
}

// kill ends a helper at once.
func kill(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	ok(t, cmd.Process.Kill())
	cmd.Wait()
}

var helpers = map[string]func(args []string) error{
	"mount":  helpMount,
	"view":   helpView,
	"commit": helpCommit,
	"find":   helpFind,
	"loop":   helpLoop,
}

// helpMount STATE PARENT mounts a Mutable, writes a file, and waits.
func helpMount(args []string) error {
	s, err := Open(args[0])
	if err != nil {
		return err
	}
	defer s.Close()
	m, err := s.Prepare(context.Background(), digest.Digest(args[1]))
	if err != nil {
		return err
	}
	root, err := m.Mount(context.Background())
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(root, "file"), []byte("x"), 0o600); err != nil {
		return err
	}
	fmt.Println(root)
	return waitForEnd()
}

// helpView STATE ID views a snapshot, and waits.
func helpView(args []string) error {
	s, err := Open(args[0])
	if err != nil {
		return err
	}
	defer s.Close()
	v, err := s.View(context.Background(), digest.Digest(args[1]))
	if err != nil {
		return err
	}
	fmt.Println(v.Root)
	return errors.Join(waitForEnd(), v.Release())
}

// helpCommit STATE makes one and the same snapshot as all others of its kind.
func helpCommit(args []string) error {
	ctx := context.Background()
	s, err := Open(args[0])
	if err != nil {
		return err
	}
	defer s.Close()
	for i := range 5 {
		m, err := s.Prepare(ctx, "")
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(m.Upper(), "file"), []byte("x"), 0o600); err != nil {
			return err
		}
		snap, err := m.Commit(ctx, digest.FromString(fmt.Sprint(i)), Label{})
		if err != nil {
			return err
		}
		v, err := s.View(ctx, snap.ID)
		if err != nil {
			return err
		}
		if _, err := os.Stat(filepath.Join(v.Root, "file")); err != nil {
			return err
		}
		if err := errors.Join(v.Release(), m.Drop(), s.Sweep(ctx)); err != nil {
			return err
		}
		if err := s.Remove(ctx, snap.ID); err != nil && !errors.Is(err, ErrLocked) && !errors.Is(err, ErrNotFound) {
			return err
		}
	}
	fmt.Println("done")
	return nil
}

// helpFind STATE NAME mounts what was kept, and waits.
func helpFind(args []string) error {
	s, err := Open(args[0])
	if err != nil {
		return err
	}
	defer s.Close()
	m, err := s.Find(context.Background(), args[1])
	if err != nil {
		return err
	}
	root, err := m.Mount(context.Background())
	if err != nil {
		return err
	}
	fmt.Println(root)
	return waitForEnd()
}

// helpLoop STATE goes through the whole life of a snapshot, again and again.
func helpLoop(args []string) error {
	ctx := context.Background()
	s, err := Open(args[0])
	if err != nil {
		return err
	}
	defer s.Close()
	fmt.Println("begun")
	for i := 0; ; i++ {
		if err := s.Sweep(ctx); err != nil {
			return err
		}
		id, err := liveOnce(ctx, s, fmt.Sprint(i%5))
		if err != nil {
			return err
		}
		if i%7 == 0 {
			if err := s.Remove(ctx, id); err != nil && !errors.Is(err, ErrLocked) {
				return err
			}
		}
	}
}

// liveOnce makes a layer of two snapshots, and looks at it.
func liveOnce(ctx context.Context, s *Store, name string) (id digest.Digest, err error) {
	for range 2 {
		m, err := s.Prepare(ctx, id)
		if err != nil {
			return "", err
		}
		defer m.Drop()
		root, err := m.Mount(ctx, Mountpoint{Path: "/proc"})
		if err != nil {
			return "", err
		}
		if err := os.WriteFile(filepath.Join(root, name+id.String()), []byte("content"), 0o600); err != nil {
			return "", err
		}
		if err := m.Unmount(); err != nil {
			return "", err
		}
		if _, err := m.Normalize(ctx, epoch); err != nil {
			return "", err
		}
		snap, err := m.Commit(ctx, digest.FromString(name), Label{})
		if err != nil {
			return "", err
		}
		id = snap.ID
	}
	v, err := s.View(ctx, id)
	if err != nil {
		return "", err
	}
	return id, v.Release()
}

// waitForEnd waits until the test closes standard input.
func waitForEnd() error {
	var b [1]byte
	os.Stdin.Read(b[:])
	return nil
}
