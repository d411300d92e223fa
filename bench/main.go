// Command bench holds layerbuild against floors and peers on this machine: each
// claim of docs/performance.md is a row that it prints. What is compared runs by
// turns in one session, so that a noisy machine disturbs both.
//
//	go run ./bench [-runs N] [-only TEXT] [-size MiB]
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

var (
	runs = flag.Int("runs", 11, "how often each side of a comparison runs")
	only = flag.String("only", "", "run only comparisons whose group has this text in its name")
	size = flag.Int("size", 1024, "how many MiB are packed")
)

func main() {
	flag.Parse()
	do := run
	if flag.NArg() > 0 {
		do = func() error { return helper(flag.Args()) }
	}
	if err := do(); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// groups are the benchmarks, each a function that sets up what it needs below a
// folder and prints rows.
var groups = []struct {
	name string
	run  func(*bench) error
}{
	{"noop", noop},
	{"records", records},
	{"state", state},
	{"imports", importing},
	{"parallel", parallel},
	{"steps", steps},
	{"peers", peers},
	{"packing", packing},
	{"debian", unpacking},
	{"debian in layers", unpackingLayers},
	{"graphs", graphs},
	{"memory", memory},
	{"explain", explaining},
}

func run() (err error) {
	dir, err := os.MkdirTemp("", "layerbuild-bench-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, remove(dir)) }()
	signal.Notify(interrupted, os.Interrupt, syscall.SIGTERM) // so that dir is removed
	b := &bench{dir: dir, binary: filepath.Join(dir, "layerbuild")}
	build := exec.Command("go", "build", "-trimpath", "-o", b.binary, "./cmd/layerbuild")
	build.Env = append(os.Environ(), "CGO_ENABLED=0") // as make builds it
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("go build: %w\n%s", err, out)
	}
	fmt.Printf("%-42s %27s   %27s   %s\n", "", "layerbuild min/median/max", "floor min/median/max", "ratio")
	for _, group := range groups {
		if !strings.Contains(group.name, *only) {
			continue
		}
		if err := group.run(b); err != nil {
			return fmt.Errorf("%s: %w", group.name, err)
		}
	}
	return nil
}

// remove removes a folder, and before that what is mounted below it: peers that fail
// leave their mounts behind.
func remove(dir string) error {
	below, err := mountinfo.GetMounts(mountinfo.PrefixFilter(dir))
	if err != nil {
		return err
	}
	for _, m := range slices.Backward(below) { // those on others first
		if err := unix.Unmount(m.Mountpoint, unix.MNT_DETACH); err != nil {
			return fmt.Errorf("unmounting %s: %w", m.Mountpoint, err)
		}
	}
	return os.RemoveAll(dir)
}

type bench struct {
	dir    string // everything is below it
	binary string
}

// project makes a folder with a stackerfile.
func (b *bench) project(name, stackerfile string) (string, error) {
	dir := filepath.Join(b.dir, name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	return dir, os.WriteFile(filepath.Join(dir, "stacker.yaml"), []byte(stackerfile), 0o644)
}

// layerbuild is a command in a project's folder, with a state of its own there.
func (b *bench) layerbuild(dir string, args ...string) []string {
	return append([]string{"env", "-C", dir, "XDG_CACHE_HOME=" + filepath.Join(b.dir, "state-"+filepath.Base(dir)), b.binary}, args...)
}

// times are how long each of some runs took.
type times []time.Duration

func (t times) median() time.Duration { return t[len(t)/2] }

func (t times) String() string {
	ms := func(d time.Duration) string { return fmt.Sprintf("%.1f", float64(d)/float64(time.Millisecond)) }
	return fmt.Sprintf("%s / %s / %s ms", ms(t[0]), ms(t.median()), ms(t[len(t)-1]))
}

// compare runs two commands by turns and prints a row: ours, the floor, and the
// ratio of their medians.
func compare(name string, ours, floor []string) error {
	return compareSides(name, func() (time.Duration, error) { return timed(ours) }, func() (time.Duration, error) { return timed(floor) })
}

// compareFresh is compare of commands before each of which something is done that
// does not count.
func compareFresh(name string, before func() error, ours, floor []string) error {
	fresh := func(args []string) func() (time.Duration, error) {
		return func() (time.Duration, error) {
			if err := before(); err != nil {
				return 0, err
			}
			return timed(args)
		}
	}
	return compareSides(name, fresh(ours), fresh(floor))
}

// compareSides is compare of whatever takes some time.
func compareSides(name string, ours, floor func() (time.Duration, error)) error {
	var a, z times
	for range *runs {
		took, err := ours()
		if err != nil {
			return err
		}
		least, err := floor()
		if err != nil {
			return err
		}
		a, z = append(a, took), append(z, least)
	}
	slices.Sort(a)
	slices.Sort(z)
	fmt.Printf("%-42s %27s   %27s   %.2f\n", name, a, z, float64(a.median())/float64(z.median()))
	return nil
}

// interrupted has what came of signals. A terminal sends them to the commands that are
// timed, too, which then fail.
var interrupted = make(chan os.Signal, 1)

func timed(args []string) (time.Duration, error) {
	select {
	case s := <-interrupted:
		return 0, fmt.Errorf("%s", s)
	default:
	}
	cmd := exec.Command(args[0], args[1:]...)
	start := time.Now()
	out, err := cmd.CombinedOutput()
	took := time.Since(start)
	if err != nil {
		return 0, errors.Join(fmt.Errorf("%s: %w", strings.Join(args, " "), err), errors.New(string(out)))
	}
	return took, nil
}
