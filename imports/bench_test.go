package imports

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestSpeed prints what imports cost beside what git, find, sha256sum and cp
// need for the same tree, each a process of its own. It runs if LAYERBUILD_SPEED
// is a number of files, e.g. 100000. It fails only at ratios that no noise
// explains; the processor time tells more than the clock on a busy machine.
func TestSpeed(t *testing.T) {
	n, err := strconv.Atoi(os.Getenv("LAYERBUILD_SPEED"))
	if err != nil {
		t.Skip("LAYERBUILD_SPEED is not set to a number of files")
	}
	dir := t.TempDir()
	tree, state := filepath.Join(dir, "tree"), filepath.Join(dir, "state")
	speedTree(t, tree, n)
	run := func(times int, prepare func(), argv ...string) cost {
		best := cost{wall: time.Hour}
		for range times {
			if prepare != nil {
				prepare()
			}
			if c := measure(t, argv...); c.wall < best.wall {
				best = c
			}
		}
		return best
	}
	sh := func(times int, prepare func(), format string, a ...any) cost {
		return run(times, prepare, "sh", "-c", fmt.Sprintf(format, a...))
	}
	ours := func(times int, prepare func(), what string) cost {
		return run(times, prepare, "env", "LAYERBUILD_SPEED_OF="+what, "LAYERBUILD_SPEED_IN="+dir, os.Args[0], "-test.run=^TestSpeedOfOne$")
	}
	sync := func() { measure(t, "sync") }
	fresh := func() { ok(t, os.RemoveAll(state)); sync() }
	report := func(name string, c cost, against string, other cost) {
		t.Logf("%-22s %7.3fs (%6.3fs cpu, %3d MiB)   %5.2f× (%.2f× cpu) %s %.3fs (%.3fs cpu)", name, c.wall.Seconds(), c.cpu.Seconds(), c.memory>>20,
			c.wall.Seconds()/other.wall.Seconds(), c.cpu.Seconds()/other.cpu.Seconds(), against, other.wall.Seconds(), other.cpu.Seconds())
	}
	t.Logf("%d files of 4 KiB, %d processors", n, runtime.GOMAXPROCS(0))

	sums := sh(2, sync, "find %s -type f -print0 | xargs -0 -P2 -n500 sha256sum > /dev/null", tree)
	first := ours(2, fresh, "digest")
	report("first digest", first, "find | xargs -P2 sha256sum", sums)

	sh(1, nil, "cd %s && git init -q && git add -A && mv .git ../git", tree)
	git := sh(5, nil, "git --git-dir=%s/git --work-tree=%s status --porcelain > /dev/null", dir, tree)
	again := ours(5, nil, "digest")
	report("digest again", again, "git status", git)
	report("digest again", again, "find -printf", sh(5, nil, "find %s -printf '%%s %%T@' > /dev/null", tree))

	// Nothing is removed before: ext4 then searches long for inodes to use.
	cp := sh(1, sync, "cp -a %s %s/cp", tree, dir)
	made := ours(1, sync, "mirror")
	report("first mirror + digest", made, "cp -a", cp)

	edit := func() {
		ok(t, os.WriteFile(filepath.Join(tree, "d0/s0/f0"), []byte(time.Now().String()), 0o644))
		sync()
	}
	edited := ours(3, edit, "mirror")
	report("one edited, mirrored", edited, "digest again + 0.3s =", cost{wall: again.wall + 300*time.Millisecond, cpu: again.cpu + 300*time.Millisecond})
	if first.wall > 3*sums.wall || again.wall > 3*git.wall || made.wall > 3*cp.wall {
		t.Error("too slow")
	}
	if again.memory > 100<<20 {
		t.Error("too much memory")
	}
}

// TestSpeedOfOne does one thing that TestSpeed measures.
func TestSpeedOfOne(t *testing.T) {
	dir := os.Getenv("LAYERBUILD_SPEED_IN")
	if dir == "" {
		t.Skip("TestSpeed runs this")
	}
	s := must(Open(filepath.Join(dir, "state"), Options{}))(t)
	src := Source{Path: filepath.Join(dir, "tree")}
	tree := digestOf(t, s, src)
	if os.Getenv("LAYERBUILD_SPEED_OF") == "mirror" {
		ok(t, must(s.Mirror(context.Background(), src, tree))(t).Release())
	}
}

// A cost is what a process took.
type cost struct {
	wall, cpu time.Duration
	memory    int64 // bytes, at most
}

func measure(t *testing.T, argv ...string) cost {
	t.Helper()
	cmd := exec.Command(argv[0], argv[1:]...)
	start := time.Now()
	out, err := cmd.CombinedOutput()
	wall := time.Since(start)
	if err != nil {
		t.Fatalf("%q: %v: %s", argv, err, out)
	}
	use := cmd.ProcessState.SysUsage().(*syscall.Rusage)
	return cost{wall, cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime(), use.Maxrss << 10}
}

// speedTree makes n files of 4 KiB, 50 in a folder.
func speedTree(t *testing.T, dir string, n int) {
	t.Helper()
	for i := range n {
		d := filepath.Join(dir, fmt.Sprintf("d%d/s%d", i/1000, i/50%20))
		if i%50 == 0 {
			ok(t, os.MkdirAll(d, 0o755))
		}
		content := strings.Repeat(fmt.Sprintf("%07d\n", i), 512)
		ok(t, os.WriteFile(filepath.Join(d, fmt.Sprintf("f%d", i)), []byte(content), 0o644))
	}
}

func BenchmarkDigestAgain(b *testing.B) {
	dir := b.TempDir()
	for i := range 2000 {
		write(b, dir, map[string]string{fmt.Sprintf("%d/%d", i/100, i): "content"})
	}
	age(b)
	s := open(b, Options{})
	digestOf(b, s, Source{Path: dir})
	for b.Loop() {
		digestOf(b, s, Source{Path: dir})
	}
}

func BenchmarkFirstDigest(b *testing.B) {
	dir := b.TempDir()
	for i := range 2000 {
		write(b, dir, map[string]string{fmt.Sprintf("%d/%d", i/100, i): strings.Repeat("x", 4096)})
	}
	s := open(b, Options{NoStatIndex: true})
	for b.Loop() {
		digestOf(b, s, Source{Path: dir})
	}
}
