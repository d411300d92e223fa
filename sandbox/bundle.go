package sandbox

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"github.com/layerbuild/layerbuild/locks"
	"github.com/layerbuild/layerbuild/statedir"
)

// A bundle is the folder of one container while it lives. It is locked by the process
// that made it. What is in it only the supervisor sees, which has mounted a file system in
// memory there: that ends with it, and nothing of what may be secret is on a disk.
type bundle struct {
	dir  string
	id   string // of the container, the name of dir
	lock *os.File

	noCgroup bool // see cgroupsPath; only the supervisor knows
}

const bundlePrefix = string(statedir.Steps)

func (b *bundle) config() string { return filepath.Join(b.dir, "config.json") }
func (b *bundle) log() string    { return filepath.Join(b.dir, "log") }
func (b *bundle) state() string  { return filepath.Join(b.dir, "state") } // the runtime's

// pidFile is where the runtime writes the number of the step's process.
func (b *bundle) pidFile() string { return filepath.Join(b.dir, "pid") }

// file is the content of the step's nth File.
func (b *bundle) file(n int) string { return filepath.Join(b.dir, "file-"+strconv.Itoa(n)) }

// newBundle makes a folder in tmp that no one can guess the name of.
func newBundle(tmp string) (*bundle, error) {
	tmp, err := filepath.EvalSymlinks(tmp)
	if err == nil {
		tmp, err = filepath.Abs(tmp)
	}
	if err != nil {
		return nil, err
	}
	for {
		id := bundlePrefix + strings.ToLower(rand.Text())
		b := &bundle{dir: filepath.Join(tmp, id), id: id}
		if err := os.Mkdir(b.dir, 0o700); err != nil {
			return nil, err
		}
		switch err := b.acquire(); {
		case errors.Is(err, fs.ErrNotExist), errors.Is(err, locks.ErrHeld):
			continue // swept before it was locked
		case err != nil:
			return nil, err
		}
		return b, nil
	}
}

// acquire locks b. The error is locks.ErrHeld when another process holds it,
// fs.ErrNotExist when it has gone.
func (b *bundle) acquire() (err error) {
	b.lock, err = locks.TryOpen(b.dir, os.O_RDONLY, locks.Exclusive)
	return err
}

func (b *bundle) remove() error {
	defer b.lock.Close()
	return os.RemoveAll(b.dir)
}

// mountMemory mounts the memory. It is not swapped out where the kernel can do that
// (Linux 6.4, and root).
func (b *bundle) mountMemory() error {
	const flags = unix.MS_NOSUID | unix.MS_NODEV
	err := unix.Mount("tmpfs", b.dir, "tmpfs", flags, "mode=0700,noswap")
	if errors.Is(err, unix.EINVAL) {
		err = unix.Mount("tmpfs", b.dir, "tmpfs", flags, "mode=0700")
	}
	if err != nil {
		return fmt.Errorf("mount a tmpfs on %s: %w", b.dir, err)
	}
	return nil
}

// fill writes what a runtime reads.
func (b *bundle) fill(o orders) error {
	for n, content := range o.Files {
		if err := os.WriteFile(b.file(n), content, 0o400); err != nil {
			return err
		}
		if err := os.Chtimes(b.file(n), time.Time{}, time.Unix(0, 0)); err != nil { // a step sees it
			return err
		}
	}
	return os.WriteFile(b.config(), o.Config, 0o600)
}

// removeCgroups removes the container's cgroups in these folders. They are all that is
// left when its processes have ended: the mounts and the runtime's state have gone with
// them. To ask the runtime for it takes longer, and crun 1.8.1 does not know of a container
// whose start failed early.
func (b *bundle) removeCgroups(in []string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	for _, dir := range in {
		if err := removeCgroup(ctx, filepath.Join(dir, b.id)); err != nil {
			return err
		}
	}
	return nil
}

// cgroupMounts returns where the hierarchies of cgroups are mounted.
func cgroupMounts() ([]*mountinfo.Info, error) {
	return mountinfo.GetMounts(mountinfo.FSTypeFilter("cgroup", "cgroup2"))
}

// cgroupParents returns the folders that cgroups of this process's containers are in. A
// relative CgroupsPath is below the process's own cgroup, beside it, or below the root:
// that differs between runtimes and hierarchies.
var cgroupParents = sync.OnceValues(func() (dirs []string, err error) {
	mounts, err := cgroupMounts()
	if err != nil {
		return nil, err
	}
	own, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return nil, err
	}
	places := map[string]bool{"/": true}
	for line := range strings.Lines(string(own)) {
		if fields := strings.SplitN(strings.TrimSpace(line), ":", 3); len(fields) == 3 {
			places[fields[2]], places[filepath.Dir(fields[2])] = true, true
		}
	}
	for _, m := range mounts {
		for place := range places {
			dir := filepath.Join(m.Mountpoint, place)
			if _, err := os.Lstat(dir); err == nil {
				dirs = append(dirs, dir)
			}
		}
	}
	return dirs, nil
})

// strayCgroups returns the folders that cgroups of a dead process's container are in.
func (b *bundle) strayCgroups() (dirs []string, err error) {
	mounts, err := cgroupMounts()
	if err != nil {
		return nil, err
	}
	for _, m := range mounts {
		_ = filepath.WalkDir(m.Mountpoint, func(path string, entry fs.DirEntry, err error) error {
			switch {
			case err != nil: // it is gone by now, or others' alone
				return fs.SkipDir
			case entry.Name() != b.id:
				return nil
			}
			dirs = append(dirs, filepath.Dir(path))
			return fs.SkipDir
		})
	}
	return dirs, nil
}

// removeCgroup waits until the kernel has taken the last process out of the cgroup.
func removeCgroup(ctx context.Context, dir string) error {
	for {
		switch err := unix.Rmdir(dir); err {
		case nil, unix.ENOENT, unix.EROFS:
			return nil
		case unix.EBUSY:
		default:
			return fmt.Errorf("remove cgroup %s: %w", dir, err)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("remove cgroup %s: %w", dir, unix.EBUSY)
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// awaitEnd waits until the supervisor and the runtime have ended: after the death of the
// process that had b locked, the kernel takes a moment to kill them, in which they may
// make a cgroup yet. They have b's name in their arguments.
func (b *bundle) awaitEnd(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
	defer cancel()
	for b.lives() {
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s: its supervisor does not end", b.dir)
		case <-time.After(5 * time.Millisecond):
		}
	}
	return nil
}

func (b *bundle) lives() bool {
	processes, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	return slices.ContainsFunc(processes, func(path string) bool {
		args, _ := os.ReadFile(path)
		return bytes.Contains(args, []byte(b.id))
	})
}

// logLine is a line of a runtime's log in JSON.
type logLine struct {
	Level string `json:"level"`
	Msg   string `json:"msg"`
}

// failure is the first error in the runtime's log, in one line.
func (b *bundle) failure() string {
	data, err := os.ReadFile(b.log())
	if err != nil {
		return ""
	}
	var msg string
	for line := range bytes.Lines(data) {
		var l logLine
		if json.Unmarshal(line, &l) == nil && (l.Level == "error" || l.Level == "fatal") {
			msg = l.Msg
			break
		}
	}
	for _, prefix := range []string{"runc run failed: ", "runc create failed: ", "unable to start container process: "} {
		msg = strings.TrimPrefix(msg, prefix)
	}
	return strings.Join(strings.Fields(msg), " ")
}

// Sweep removes what is left in tmp of steps whose process was killed. It leaves
// alone those whose process lives. It goes on after an error.
func Sweep(ctx context.Context, tmp string) error {
	dirs, err := filepath.Glob(filepath.Join(tmp, bundlePrefix+"*"))
	if err != nil {
		return err
	}
	var errs []error
	for _, dir := range dirs {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		b := &bundle{dir: dir, id: filepath.Base(dir)}
		switch err := b.acquire(); {
		case errors.Is(err, locks.ErrHeld), errors.Is(err, fs.ErrNotExist):
		case err != nil:
			errs = append(errs, err)
		default:
			errs = append(errs, b.sweep(ctx))
		}
	}
	return errors.Join(errs...)
}

// sweep removes b, unless its cgroups cannot be removed: only b tells of them.
func (b *bundle) sweep(ctx context.Context) error {
	if err := b.awaitEnd(ctx); err != nil {
		b.lock.Close()
		return err
	}
	left, err := b.strayCgroups()
	if err == nil {
		err = b.removeCgroups(left)
	}
	if err != nil {
		b.lock.Close()
		return err
	}
	return b.remove()
}
