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
	"testing"
	"time"
)

// TestSpeed prints what imports cost beside what git, find, sha256sum and cp
// need for the same tree. It runs if LAYERBUILD_SPEED names a number of files,
// e.g. 100000; machines with other work to do give no numbers to believe in, so
// it fails only at ratios that no noise explains.
func TestSpeed(t *testing.T) {
	n, err := strconv.Atoi(os.Getenv("LAYERBUILD_SPEED"))
	if err != nil {
		t.Skip("LAYERBUILD_SPEED is not set to a number of files")
	}
	dir := t.TempDir()
	src := Source{Path: filepath.Join(dir, "tree")}
	speedTree(t, src.Path, n)
	state := filepath.Join(dir, "state")
	sh := func(format string, a ...any) func() {
		script := fmt.Sprintf(format, a...)
		return func() {
			if out, err := exec.Command("sh", "-c", script).CombinedOutput(); err != nil {
				t.Fatalf("%s: %v: %s", script, err, out)
			}
		}
	}
	digest := func() {
		// A store of its own, as a process has.
		digestOf(t, must(Open(state, Options{}))(t), src)
	}
	mirror := func() {
		s := must(Open(state, Options{}))(t)
		ok(t, must(s.Mirror(context.Background(), src, digestOf(t, s, src)))(t).Release())
	}
	sums := best(2, sh("find %s -type f -print0 | xargs -0 -P2 -n500 sha256sum > /dev/null", src.Path))
	first := best(2, func() { os.RemoveAll(state); digest() })
	find := best(5, sh("find %s -printf '%%s %%T@' > /dev/null", src.Path))
	sh("cd %s && git init -q && git add -A && git -c user.name=n -c user.email=e commit -qm c && mv .git ../git", src.Path)()
	git := best(5, sh("git --git-dir=%s/git --work-tree=%s status --porcelain", dir, src.Path))
	noop := best(5, digest)
	cp := best(2, sh("rm -rf %s/cp; sync; cp -a %s %s/cp", dir, src.Path, dir))
	made := best(2, func() { os.RemoveAll(filepath.Join(state, "mirrors")); mirror() })
	edited := best(3, func() {
		ok(t, os.WriteFile(filepath.Join(src.Path, "d0/s0/f0"), []byte(time.Now().String()), 0o644))
		mirror()
	})
	var mem runtime.MemStats
	runtime.ReadMemStats(&mem)

	row := func(name string, took time.Duration, against string, limit time.Duration) {
		t.Logf("%-28s %8.3fs  %5.2f× %s (%.3fs)", name, took.Seconds(), took.Seconds()/limit.Seconds(), against, limit.Seconds())
	}
	t.Logf("%d files of 4 KiB, %d processors", n, runtime.GOMAXPROCS(0))
	row("first digest", first, "find | xargs -P2 sha256sum", sums)
	row("digest again", noop, "git status", git)
	row("digest again", noop, "find -printf", find)
	row("first mirror, with digest", made, "cp -a", cp)
	row("one file edited, mirrored", edited-noop, "the limit over digest again", 300*time.Millisecond)
	t.Logf("memory from the system: %d MiB", mem.Sys>>20)
	if first > 3*sums || noop > 3*git || made > 3*cp {
		t.Error("too slow")
	}
}

// best returns the shortest of n runs.
func best(n int, run func()) time.Duration {
	shortest := time.Duration(1<<63 - 1)
	for range n {
		start := time.Now()
		run()
		shortest = min(shortest, time.Since(start))
	}
	return shortest
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
