package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"log"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/registry"
	ispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"
)

// Sizes of the tests of this file. What CI runs takes some minutes in all.
var (
	kills     = flag.Int("kills", 200, "how many builds TestKill kills")
	injected  = flag.Int("injected", 40, "how many system calls TestInject kills or fails in turn; 0 is each of a build")
	flips     = flag.Int("flips", 80, "how many damages TestFlip does; 0 is each way of damage to each file")
	powerCuts = flag.Int("power-cuts", 15, "from how many instants of a build TestPowerCut goes on")
	race      = flag.Duration("race-for", 5*time.Second, "how long TestRace runs")
	part      = flag.String("part", "1/1", "K/N: of TestKill, TestInject and TestFlip only the Kth of N parts")
)

// ours returns a number for what the Kth of N parts chooses at random, and says
// which of all cases are in it.
func ours(t *testing.T) (seed uint64, has func(n int) bool) {
	t.Helper()
	var k, of int
	if _, err := fmt.Sscanf(*part, "%d/%d", &k, &of); err != nil || k < 1 || k > of {
		t.Fatalf("-part %s is not K/N", *part)
	}
	return uint64(k), func(n int) bool { return n%of == k-1 }
}

// A project is a stackerfile in a folder of its own with a state of its own: a
// base, a layer that only others read, one that reads it, and a second image.
type project struct {
	t       testing.TB
	dir     string
	bundles map[string]bool // the names of containers that killed builds had
}

const projectFile = `
tools:
  from: {type: oci, url: '%s:latest'}
  build_only: true
  imports: [word]
  run: cat /stacker/imports/word > /tool
web:
  from: {type: scratch}
  imports:
  - {path: 'stacker://tools/tool', dest: /tool}
  - {path: word, dest: /word}
  cmd: /tool
more:
  from: {type: built, tag: web}
  imports:
  - {path: 'stacker://tools/bin/busybox', dest: /bin/sh}
  run: echo more > /more
  generate_labels: echo value > /oci-labels/label
`

func newProject(t testing.TB) *project {
	t.Helper()
	p := &project{t: t, dir: t.TempDir(), bundles: map[string]bool{}}
	// In memory, so that it does not wait for what others have to sync.
	mustRun(t, exec.Command("mount", "-t", "tmpfs", "-o", "mode=0755", "tmpfs", p.dir))
	t.Cleanup(func() { unix.Unmount(p.dir, unix.MNT_DETACH) })
	p.write("stacker.yaml", fmt.Sprintf(projectFile, busyboxBase(t)))
	p.write("word", "one\n")
	return p
}

func (p *project) path(elem ...string) string {
	return filepath.Join(append([]string{p.dir}, elem...)...)
}
func (p *project) state() string { return p.path("state") }

func (p *project) write(name, text string) {
	p.t.Helper()
	if err := os.WriteFile(p.path(name), []byte(text), 0o644); err != nil {
		p.t.Fatal(err)
	}
}

// command is TestMain's layerbuild with these arguments.
func (p *project) command(args ...string) *exec.Cmd {
	cmd := exec.Command("layerbuild", append([]string{"--state-dir", p.state(), "--oci-dir", p.path("oci")}, args...)...)
	cmd.Dir = p.dir
	cmd.Env = append(os.Environ(), "XDG_CONFIG_HOME="+p.path("config"))
	return cmd
}

// must runs layerbuild, which must do well.
func (p *project) must(args ...string) string {
	p.t.Helper()
	out, err := p.command(args...).CombinedOutput()
	if err != nil {
		p.t.Fatalf("layerbuild %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// images returns the digests of the images that the layout has, by tag, after
// checking all their blobs.
func (p *project) images() map[string]string {
	p.t.Helper()
	var index ispec.Index
	if err := readJSON(p.path("oci", ispec.ImageIndexFile), &index); err != nil {
		p.t.Fatal(err)
	}
	images := map[string]string{}
	for _, d := range index.Manifests {
		tag := d.Annotations[ispec.AnnotationRefName]
		image, err := readImage(p.path("oci"), tag)
		if err != nil {
			p.t.Fatal(err)
		}
		images[tag] = image.digest.String()
	}
	return images
}

// items counts the items of the state folder by their types, without those that
// any number of builds may leave.
func (p *project) items() map[string]int {
	p.t.Helper()
	var usage struct{ Items []struct{ Type string } }
	if err := json.Unmarshal([]byte(p.must("du", "--format", "json")), &usage); err != nil {
		p.t.Fatal(err)
	}
	count := map[string]int{}
	for _, i := range usage.Items {
		count[i.Type]++
	}
	return count
}

// reset removes what builds made.
func (p *project) reset() {
	p.t.Helper()
	for _, dir := range []string{p.state(), p.path("oci")} {
		if err := os.RemoveAll(dir); err != nil {
			p.t.Fatal(err)
		}
	}
}

// A reference is what a build that nobody disturbs makes.
type reference struct {
	images map[string]string
	items  map[string]int
	took   time.Duration
}

func (p *project) reference() reference {
	p.t.Helper()
	p.must("build")
	p.reset()
	start := time.Now()
	p.must("build")
	took := time.Since(start)
	return reference{p.images(), p.items(), took}
}

// recover builds after whatever happened, and compares with what should be.
func (p *project) recover(want reference, what string) {
	p.t.Helper()
	out, err := p.command("build").CombinedOutput()
	if err != nil {
		p.t.Fatalf("%s: the next build: %v\n%s", what, err, out)
	}
	if got := p.images(); !maps.Equal(got, want.images) {
		p.t.Fatalf("%s: the next build made other images: %v, not %v\n%s", what, got, want.images, out)
	}
	if left := append(leftovers(p.state()), p.cgroups()...); len(left) > 0 {
		p.t.Fatalf("%s: left behind:\n%s", what, strings.Join(left, "\n"))
	}
	tmp, err := os.ReadDir(filepath.Join(p.state(), "tmp"))
	if err != nil || len(tmp) > 0 {
		p.t.Fatalf("%s: tmp holds %v: %v", what, tmp, err)
	}
}

// noteBundles notes the containers that a killed build has left.
func (p *project) noteBundles() {
	for _, dir := range must(filepath.Glob(p.path("state/tmp/sandbox-*")))(p.t) {
		p.bundles[filepath.Base(dir)] = true
	}
}

// cgroups returns those of killed builds.
func (p *project) cgroups() (left []string) {
	_ = filepath.WalkDir("/sys/fs/cgroup", func(path string, e fs.DirEntry, err error) error {
		if err == nil && p.bundles[e.Name()] {
			left = append(left, "cgroup "+path)
		}
		return nil // others come and go
	})
	return left
}

// sound checks that nothing is damaged or has grown.
func (p *project) sound(want reference, what string) {
	p.t.Helper()
	p.must("fsck")
	if got := p.items(); !maps.Equal(got, want.items) {
		p.t.Fatalf("%s: the state folder holds %v, not %v", what, got, want.items)
	}
}

// TestKill kills builds at random instants with SIGKILL, some in a row, and now and
// then a prune of what they left.
func TestKill(t *testing.T) {
	t.Parallel()
	p := newProject(t)
	want := p.reference()
	seed, _ := ours(t)
	r := rand.New(rand.NewPCG(seed, 2))
	for n := 0; n < *kills; {
		p.reset()
		for range 5 {
			if !p.kill(time.Duration(r.Int64N(int64(want.took))), "build") {
				break // all is built
			}
			n++
			if r.IntN(4) == 0 && p.kill(time.Duration(r.IntN(20))*time.Millisecond, "prune", "--all", "--force") {
				n++
			}
		}
		what := fmt.Sprintf("after %d kills", n)
		p.recover(want, what)
		p.sound(want, what)
	}
}

// kill kills a command after some time; false if it was faster.
func (p *project) kill(after time.Duration, args ...string) bool {
	p.t.Helper()
	cmd := p.command(args...)
	if err := cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
	timer := time.AfterFunc(after, func() { cmd.Process.Kill() })
	defer timer.Stop()
	err := cmd.Wait()
	p.noteBundles()
	var exit *exec.ExitError
	if err != nil && (!errors.As(err, &exit) || exit.ExitCode() != -1) {
		p.t.Fatal(err)
	}
	return err != nil
}

// The system calls that change what is on disk, but for write: the Go runtime
// needs that for itself. TestDiskFull has those fail.
var writing = []string{
	"mkdir,mkdirat", "rename,renameat,renameat2", "fsync,fdatasync", "syncfs", "link,linkat", "unlink,unlinkat", "symlink,symlinkat",
	"fchmod,fchmodat,chmod", "fchown,fchownat,chown,lchown", "ftruncate", "copy_file_range", "setxattr,lsetxattr,fsetxattr", "utimensat", "mknodat", "mount",
}

// TestInject kills a build at each call of those, or lets it fail, in turn.
func TestInject(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("strace"); err != nil {
		t.Fatal("strace is needed: run `make setup`")
	}
	p := newProject(t)
	want := p.reference()
	type point struct {
		calls, how string
		n          int
	}
	var points []point
	_, has := ours(t)
	for i, total := range p.count(writing) {
		calls, errs := writing[i], []string{"error=ENOSPC", "error=EIO", "error=EDQUOT"}
		for n := 1; n <= total; n++ {
			if !has(i + n) {
				continue
			}
			points = append(points, point{calls, "signal=KILL", n}, point{calls, errs[(i+n)%len(errs)], n})
		}
	}
	t.Logf("%d system calls to disturb, %d ways", len(points)/2, len(points))
	if *injected > 0 {
		r := rand.New(rand.NewPCG(3, 4))
		r.Shuffle(len(points), func(a, b int) { points[a], points[b] = points[b], points[a] })
		points = points[:min(*injected, len(points))]
	}
	for _, at := range points {
		what := fmt.Sprintf("%s of call %d of %s", at.how, at.n, at.calls)
		p.reset()
		out, err := p.strace("inject="+at.calls+":"+at.how+":when="+strconv.Itoa(at.n), at.calls).CombinedOutput()
		p.noteBundles()
		p.clear(what, out, err, at.how != "signal=KILL")
		p.recover(want, what)
		p.sound(want, what)
	}
}

// clear fails for a failure that says nothing, or too much.
func (p *project) clear(what string, out []byte, err error, mustSay bool) {
	p.t.Helper()
	if bytes.Contains(out, []byte("goroutine ")) || bytes.Contains(out, []byte("panic:")) {
		p.t.Fatalf("%s: it panics:\n%s", what, out)
	}
	if err != nil && mustSay && !bytes.Contains(out, []byte("error: ")) {
		p.t.Fatalf("%s: it fails and does not say why: %v\n%s", what, err, out)
	}
}

// strace runs a build under strace.
func (p *project) strace(expression, calls string) *exec.Cmd {
	build := p.command("build")
	cmd := exec.Command("strace", append([]string{"-f", "-qqq", "--seccomp-bpf", "-o", p.path("trace"), "-e", "trace=" + calls, "-e", expression}, build.Args...)...)
	cmd.Dir, cmd.Env = build.Dir, build.Env
	return cmd
}

// count returns how many calls of each of these sets one thread of a build makes at
// most: strace counts each thread's by itself.
func (p *project) count(sets []string) []int {
	p.t.Helper()
	p.reset()
	if out, err := p.strace("signal=none", strings.Join(sets, ",")).CombinedOutput(); err != nil {
		p.t.Fatalf("strace: %v\n%s", err, out)
	}
	trace, err := os.ReadFile(p.path("trace"))
	if err != nil {
		p.t.Fatal(err)
	}
	set := map[string]int{}
	for i, calls := range sets {
		for call := range strings.SplitSeq(calls, ",") {
			set[call] = i
		}
	}
	most := make([]int, len(sets))
	threads := map[string][]int{}
	for line := range strings.Lines(string(trace)) {
		thread, event, _ := strings.Cut(line, " ")
		call, _, begun := strings.Cut(strings.TrimLeft(event, " "), "(")
		if i, ok := set[call]; ok && begun {
			if threads[thread] == nil {
				threads[thread] = make([]int, len(sets))
			}
			threads[thread][i]++
			most[i] = max(most[i], threads[thread][i])
		}
	}
	return most
}

// TestFlip damages each file of a state folder in turn, in several ways. The next
// build makes the same image, with or without a layer to build, and whatever it
// cannot see is found by fsck.
func TestFlip(t *testing.T) {
	t.Parallel()
	p := newProject(t)
	want := p.reference()
	kept := p.path("kept")
	mustRun(t, exec.Command("cp", "-a", p.state(), kept))
	type damage struct{ file, how string }
	var damages []damage
	_, has := ours(t)
	for i, file := range regularFiles(t, kept) {
		if !has(i) {
			continue
		}
		for _, how := range []string{"flip", "cut", "empty", "remove"} {
			damages = append(damages, damage{file, how})
		}
	}
	t.Logf("%d ways of damage", len(damages))
	if *flips > 0 {
		r := rand.New(rand.NewPCG(5, 6))
		r.Shuffle(len(damages), func(a, b int) { damages[a], damages[b] = damages[b], damages[a] })
		damages = damages[:min(*flips, len(damages))]
	}
	for _, d := range damages {
		what := d.how + " " + d.file
		p.reset()
		mustRun(t, exec.Command("cp", "-a", kept, p.state()))
		if !p.damage(d.file, d.how) {
			continue
		}
		content := strings.HasPrefix(d.file, "snapshots/") && strings.Contains(d.file, "/fs/") // a copy's mirrors are made again unseen
		if content && d.how != "remove" {
			out, err := p.command("fsck", "--read-data").CombinedOutput()
			if p.clear(what, out, err, false); err == nil && !strings.Contains(d.file, "/latest/") && !strings.HasSuffix(d.file, "/boot") {
				t.Errorf("%s: fsck --read-data does not see it:\n%s", what, out)
			}
		}
		out, err := p.command("build").CombinedOutput()
		p.clear(what, out, err, true)
		if err != nil && d.file == "version" && bytes.Contains(out, []byte("newer layerbuild")) {
			continue // that is what it says now
		}
		if err != nil {
			t.Errorf("%s: %v\n%s", what, err, out)
			continue
		}
		p.recover(want, what)
	}
}

// regularFiles returns the files below a folder, each once whatever its names.
func regularFiles(t *testing.T, dir string) (files []string) {
	t.Helper()
	seen := map[uint64]bool{}
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil || seen[st.Ino] {
			return err
		}
		seen[st.Ino] = true
		files = append(files, path[len(dir)+1:])
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// damage damages a file; false if it cannot be, since it is empty.
func (p *project) damage(file, how string) bool {
	p.t.Helper()
	path := filepath.Join(p.state(), file)
	data, err := os.ReadFile(path)
	if err != nil {
		p.t.Fatal(err)
	}
	if len(data) == 0 && how != "remove" {
		return false
	}
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err == nil {
		defer f.Close()
		switch middle := int64(len(data) / 2); how {
		case "flip":
			_, err = f.WriteAt([]byte{data[middle] ^ 1}, middle)
		case "cut":
			err = f.Truncate(middle)
		case "empty":
			err = f.Truncate(0)
		case "remove":
			err = os.Remove(path)
		}
	}
	if err != nil {
		p.t.Fatal(err)
	}
	return true
}

// TestDiskFull has a disk with less and less room, in bytes or inodes.
func TestDiskFull(t *testing.T) {
	t.Parallel()
	p := newProject(t)
	want := p.reference()
	p.reset()
	for _, disk := range []struct {
		name, says string
		options    []string
		fill       func(t *testing.T, dir string, part int)
	}{
		{"bytes", "is full: ", nil, func(t *testing.T, dir string, part int) {
			free := int(room(t, dir).Bavail) * int(room(t, dir).Bsize)
			mustRun(t, exec.Command("fallocate", "-l", strconv.Itoa(free-(part+1)*1_000_000), filepath.Join(dir, "ballast")))
		}},
		{"inodes", "has no inodes left: ", []string{"-N", "160"}, func(t *testing.T, dir string, part int) {
			for i := range int(room(t, dir).Ffree) - 8 - 12*part {
				if err := os.WriteFile(filepath.Join(dir, fmt.Sprint("ballast", i)), nil, 0o600); err != nil {
					t.Fatal(err)
				}
			}
		}},
	} {
		t.Run(disk.name, func(t *testing.T) {
			q := *p
			p := &q
			p.t = t
			said := false
			for part := range 8 {
				dir := p.mountDisk(t, p.state(), disk.options...)
				disk.fill(t, dir, part)
				out, err := p.command("build").CombinedOutput()
				what := fmt.Sprintf("a disk with %d parts free", part)
				p.clear(what, out, err, true)
				if err != nil && !bytes.Contains(out, []byte(disk.says)) {
					t.Errorf("%s: it says nothing of what is full:\n%s", what, out)
				}
				said = said || err != nil
				if _, err := os.Stat(filepath.Join(dir, "layout")); err == nil && part%2 == 0 {
					p.must("prune", "--all", "--force") // that is how room is made
				}
				for _, ballast := range must(filepath.Glob(filepath.Join(dir, "ballast*")))(t) {
					os.Remove(ballast)
				}
				p.recover(want, what)
				p.sound(want, what)
				mustRun(t, exec.Command("umount", dir))
			}
			if !said {
				t.Error("the disk was never full")
			}
		})
	}
}

// room says what is left of a disk: other versions of mkfs leave other amounts.
func room(t *testing.T, dir string) (left unix.Statfs_t) {
	t.Helper()
	if err := unix.Statfs(dir, &left); err != nil {
		t.Fatal(err)
	}
	return left
}

// mountDisk mounts a new disk of 20 MB on a folder, such as that where the state is to
// be, and returns the folder.
func (p *project) mountDisk(t *testing.T, dir string, options ...string) string {
	t.Helper()
	image := p.path("disk")
	os.Remove(image)
	p.makeDisk(t, image, options...)
	p.mountFile(t, image, dir)
	return dir
}

// makeDisk makes an ext4 of 20 MB.
func (p *project) makeDisk(t *testing.T, image string, options ...string) {
	t.Helper()
	mustRun(t, exec.Command("truncate", "-s", "20M", image))
	mustRun(t, exec.Command("mkfs.ext4", append([]string{"-q", "-m", "0"}, append(options, image)...)...))
}

// mountFile mounts a disk on a folder, such as that where the state is to be.
func (p *project) mountFile(t *testing.T, image, dir string) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	mustRun(t, exec.Command("mount", "-o", "loop", image, dir))
	t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
}

func must[T any](v T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// TestRootsOnAnotherDisk has root filesystems on a disk of their own, which is too
// small for one of them.
func TestRootsOnAnotherDisk(t *testing.T) {
	t.Parallel()
	p := newProject(t)
	disk := p.mountDisk(t, p.path("mounted"))
	roots := filepath.Join(disk, "roots")
	p.must("--roots-dir", roots, "build")
	if snapshots := must(os.ReadDir(filepath.Join(roots, "snapshots")))(t); len(snapshots) == 0 {
		t.Error("no snapshot is there")
	}
	p.must("build", "--fail-on-miss")
	p.must("fsck")
	p.write("big.yaml", fmt.Sprintf("big:\n  from: {type: oci, url: %q}\n  run: head -c 30000000 /dev/urandom >/big\n", busyboxBase(t)+":latest"))
	out, err := p.command("build", "-f", "big.yaml").CombinedOutput()
	if err == nil || !bytes.Contains(out, []byte("the filesystem of "+roots+" is full")) {
		t.Errorf("on a full disk: %v\n%s", err, out)
	}
	p.must("clean", "--all")
	if _, err := os.Stat(roots); !os.IsNotExist(err) {
		t.Errorf("after clean --all: %v", err)
	}
}

// TestPublishToFullDisk publishes to a layout on a disk that is too small: nothing is
// half there, and with room it goes on.
func TestPublishToFullDisk(t *testing.T) {
	t.Parallel()
	p := newProject(t)
	disk := p.mountDisk(t, p.path("mounted"))
	p.write("stacker.yaml", fmt.Sprintf("small:\n  from: {type: oci, url: %q}\nbig:\n  from: {type: built, tag: small}\n  run: head -c 30000000 /dev/urandom >/big\n", busyboxBase(t)+":latest"))
	p.must("build")
	layout := filepath.Join(disk, "oci")
	publish := []string{"publish", "--url", "oci:" + layout, "--tag", "1"}
	p.must(append(publish, "--image", "small")...)
	before := must(os.ReadFile(filepath.Join(layout, "index.json")))(t)
	out, err := p.command(publish...).CombinedOutput()
	if err == nil || !bytes.Contains(out, []byte("publishing big: ")) || !bytes.Contains(out, []byte("no space left on device")) {
		t.Errorf("on a full disk: %v\n%s", err, out)
	}
	if after := must(os.ReadFile(filepath.Join(layout, "index.json")))(t); !bytes.Equal(before, after) {
		t.Errorf("the index was\n%s\nand is\n%s", before, after)
	}
	if out := must(exec.Command("skopeo", "inspect", "oci:"+layout+":small_1").CombinedOutput())(t); !bytes.Contains(out, []byte("Digest")) {
		t.Errorf("what was there cannot be read:\n%s", out)
	}
}

// TestPowerCut takes what a disk holds at many instants of a build, as a power cut
// would leave it: the state folder is on an ext4 in a file on btrfs, which copies
// the file at an instant. A disk that reorders what it has not been told to flush
// is not seen; that takes device-mapper's log-writes, which few kernels have.
func TestPowerCut(t *testing.T) {
	t.Parallel()
	p := newProject(t)
	want := p.reference()
	p.reset()
	disks := p.mountBtrfs(t)
	disk := filepath.Join(disks, "disk")
	p.makeDisk(t, disk)
	p.mountFile(t, disk, p.state())

	build := p.command("build")
	if err := build.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- build.Wait() }()
	var cuts []string
	for done := false; !done; {
		select {
		case err := <-ended:
			if done = true; err != nil {
				t.Fatal(err)
			}
		default:
		}
		cuts = append(cuts, filepath.Join(disks, fmt.Sprint("cut", len(cuts))))
		mustRun(t, exec.Command("cp", "--reflink=always", disk, cuts[len(cuts)-1]))
	}
	mustRun(t, exec.Command("umount", p.state()))
	t.Logf("%d cuts", len(cuts))
	step := max(1, len(cuts) / *powerCuts)
	for n := 0; n < len(cuts); n += step {
		what := fmt.Sprintf("cut %d of %d", n+1, len(cuts))
		if err := os.RemoveAll(p.path("oci")); err != nil {
			t.Fatal(err)
		}
		p.mountFile(t, cuts[n], p.state())
		p.reboot(t)
		p.recover(want, what)
		p.must("fsck", "--read-data")
		mustRun(t, exec.Command("umount", p.state()))
		if err := os.Remove(cuts[n]); err != nil { // there is no room for many that have grown
			t.Fatal(err)
		}
	}
}

// reboot makes the mirrors in the state folder those of another boot, as they are
// after a power cut.
func (p *project) reboot(t *testing.T) {
	t.Helper()
	for _, boot := range must(filepath.Glob(filepath.Join(p.state(), "mirrors/*/boot")))(t) {
		if err := os.WriteFile(boot, []byte("another"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// mountBtrfs mounts a new btrfs.
func (p *project) mountBtrfs(t *testing.T) string {
	t.Helper()
	if text, err := os.ReadFile("/proc/filesystems"); err != nil || !bytes.Contains(text, []byte("\tbtrfs\n")) {
		t.Skip("the kernel has no btrfs")
	}
	image, dir := p.path("btrfs.image"), p.path("disks")
	mustRun(t, exec.Command("truncate", "-s", "400M", image))
	mustRun(t, exec.Command("mkfs.btrfs", "-q", image))
	mustRun(t, exec.Command("mkdir", dir))
	mustRun(t, exec.Command("mount", "-o", "loop", image, dir))
	t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
	return dir
}

// TestQuota has a state folder whose quota is used up.
func TestQuota(t *testing.T) {
	t.Parallel()
	p := newProject(t)
	disk := p.mountBtrfs(t)
	limited := filepath.Join(disk, "limited")
	mustRun(t, exec.Command("btrfs", "quota", "enable", disk))
	mustRun(t, exec.Command("btrfs", "subvolume", "create", limited))
	if err := os.Symlink(limited, p.state()); err != nil {
		t.Fatal(err)
	}
	p.must("build")
	before := p.images()
	mustRun(t, exec.Command("btrfs", "filesystem", "sync", disk))
	mustRun(t, exec.Command("btrfs", "qgroup", "limit", "1M", limited)) // less than is there
	p.write("word", "two\n")
	out, err := p.command("build").CombinedOutput()
	p.clear("without quota", out, err, true)
	if err == nil || !bytes.Contains(out, []byte("the disk quota on the filesystem of ")) {
		t.Errorf("%v\n%s", err, out)
	}
	p.write("word", "one\n")
	if out := p.must("build"); !strings.Contains(out, "3/3 layers cached") || !maps.Equal(p.images(), before) {
		t.Errorf("what was there is not found:\n%s", out)
	}
	mustRun(t, exec.Command("btrfs", "quota", "disable", disk))
	p.write("word", "two\n")
	p.must("build")
	p.must("fsck", "--read-data")
}

// TestReadOnly has state folders that cannot be written.
func TestReadOnly(t *testing.T) {
	t.Parallel()
	p := newProject(t)
	dir := p.mountDisk(t, p.state())
	p.must("build")
	mustRun(t, exec.Command("mount", "-o", "remount,ro", dir))
	p.write("word", "two\n")
	out, err := p.command("build").CombinedOutput()
	if err == nil || !bytes.Contains(out, []byte("read-only file system")) {
		t.Errorf("%v\n%s", err, out)
	}
	mustRun(t, exec.Command("mount", "-o", "remount,rw", dir))
	p.must("build")
	mustRun(t, exec.Command("umount", dir))
}

// TestTogether builds one stackerfile in 8 processes at once with an empty cache:
// each step runs once, in all.
func TestTogether(t *testing.T) {
	t.Parallel()
	p := newProject(t)
	want := p.reference()
	p.reset()
	built := map[string]int{}
	var mu sync.Mutex
	var group sync.WaitGroup
	for range 8 {
		group.Go(func() {
			out, err := p.command("build").CombinedOutput()
			if err != nil {
				t.Errorf("%v\n%s", err, out)
			}
			mu.Lock()
			defer mu.Unlock()
			for _, layer := range []string{"tools", "web", "more"} {
				built[layer] += strings.Count(string(out), "filesystem "+layer+" built")
			}
		})
	}
	group.Wait()
	if !maps.Equal(built, map[string]int{"tools": 1, "web": 1, "more": 1}) {
		t.Errorf("layers were built more than once: %v", built)
	}
	p.recover(want, "8 builds of one stackerfile")
	p.sound(want, "8 builds of one stackerfile")
}

// TestShareBase builds 8 stackerfiles at once with an empty cache. What they share, a
// base in a registry and a layer, is fetched, unpacked and run once, in all.
func TestShareBase(t *testing.T) {
	t.Parallel()
	p := newProject(t)
	var mu sync.Mutex
	fetched := map[string]int{}
	images := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, blob, ok := strings.Cut(r.URL.Path, "/blobs/sha256:"); ok && r.Method == http.MethodGet {
			mu.Lock()
			fetched[blob]++
			mu.Unlock()
		}
		images.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	host := strings.TrimPrefix(server.URL, "http://")
	mustRun(t, exec.Command("skopeo", "copy", "-q", "--dest-tls-verify=false", "oci:"+busyboxBase(t)+":latest", "docker://"+host+"/base:latest"))
	for i := range 8 {
		p.write(fmt.Sprintf("%d.yaml", i), fmt.Sprintf(`
common:
  from: {type: docker, url: 'docker://%s/base:latest', insecure: true}
  build_only: true
  run: echo common > /common
app%d:
  from: {type: built, tag: common}
  run: cat /common > /app && echo %d >> /app
`, host, i, i))
	}
	build := func(i int) string {
		cmd := p.command("build", "-f", fmt.Sprintf("%d.yaml", i), "--trace", p.path(fmt.Sprintf("%d.trace", i)))
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Errorf("%d.yaml: %v\n%s", i, err, out)
		}
		return string(out)
	}
	var outputs [8]string
	var group sync.WaitGroup
	for i := range outputs {
		group.Go(func() { outputs[i] = build(i) })
	}
	group.Wait()
	together := p.images()
	if n := strings.Count(strings.Join(outputs[:], ""), "filesystem common built"); n != 1 {
		t.Errorf("what they share was run %d times", n)
	}
	unpacked := 0
	for i := range outputs {
		trace, err := os.ReadFile(p.path(fmt.Sprintf("%d.trace", i)))
		if err != nil {
			t.Fatal(err)
		}
		unpacked += strings.Count(string(trace), "unpacking ")
	}
	if unpacked != 1 {
		t.Errorf("the base was unpacked %d times", unpacked)
	}
	if len(fetched) != 2 { // its config and its layer
		t.Errorf("fetched: %v", fetched)
	}
	for blob, n := range fetched {
		if n != 1 {
			t.Errorf("%s was fetched %d times", blob, n)
		}
	}
	p.must("fsck", "--read-data")

	p.reset()
	for i := range outputs {
		build(i)
	}
	if alone := p.images(); !maps.Equal(alone, together) || len(alone) != 8 {
		t.Errorf("one after the other they give %v, not %v", alone, together)
	}
}

// TestRace lets processes build, prune, look and clean at the same time.
func TestRace(t *testing.T) {
	t.Parallel()
	p := newProject(t)
	words := map[string]reference{}
	for _, word := range []string{"one\n", "two\n", "three\n"} {
		p.write("word", word)
		p.reset()
		p.must("build")
		words[word] = reference{images: p.images()}
	}
	end := time.Now().Add(*race)
	var group sync.WaitGroup
	for n := range 5 {
		group.Go(func() { raceBuilds(t, p, n, words, end) })
	}
	for _, args := range [][]string{
		{"prune", "--all", "--force"},
		{"du", "--verbose"},
		{"verify"},
		{"prune", "--force", "--keep-storage", "3MB"},
	} {
		group.Go(func() {
			for time.Now().Before(end) {
				if out, err := p.command(args...).CombinedOutput(); err != nil {
					t.Errorf("layerbuild %s: %v\n%s", strings.Join(args, " "), err, out)
				}
				time.Sleep(20 * time.Millisecond)
			}
		})
	}
	group.Wait()
	p.write("word", "one\n")
	p.recover(words["one\n"], "the race")
	p.must("fsck", "--read-data")
}

// raceBuilds builds in a checkout and a layout of its own, with the state of all.
func raceBuilds(t *testing.T, p *project, n int, words map[string]reference, end time.Time) {
	q := &project{t: t, dir: filepath.Join(p.dir, fmt.Sprint("checkout", n))}
	if err := errors.Join(os.Mkdir(q.dir, 0o755), os.Symlink(p.state(), q.state())); err != nil {
		t.Error(err)
		return
	}
	stackerfile, err := os.ReadFile(p.path("stacker.yaml"))
	if err != nil {
		t.Error(err)
		return
	}
	if err := os.WriteFile(q.path("stacker.yaml"), stackerfile, 0o644); err != nil {
		t.Error(err)
	}
	r := rand.New(rand.NewPCG(uint64(n), 7))
	all := slices.Sorted(maps.Keys(words))
	for time.Now().Before(end) && !t.Failed() {
		word := all[r.IntN(len(all))]
		if err := os.WriteFile(q.path("word"), []byte(word), 0o644); err != nil {
			t.Error(err)
		}
		if out, err := q.command("build").CombinedOutput(); err != nil {
			t.Errorf("build: %v\n%s", err, out)
			return
		}
		if got := q.images(); !maps.Equal(got, words[word].images) {
			t.Errorf("with %q: %v, not %v", word, got, words[word].images)
		}
		if r.IntN(3) == 0 {
			q.must("clean")
		}
	}
}
