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
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"github.com/layerbuild/layerbuild/locks"
)

// A bundle is the folder of one container while it lives. It is locked by the process
// that made it. What may be secret is in its folder memory: a file system in memory
// that only the supervisor has mounted there, and that ends with it.
type bundle struct {
	dir  string
	id   string // of the container, the name of dir
	lock *os.File

	noCgroup bool // see cgroupsPath; only the supervisor knows
}

const bundlePrefix = "sandbox-"

func (b *bundle) log() string    { return filepath.Join(b.dir, "log") }
func (b *bundle) memory() string { return filepath.Join(b.dir, "memory") }

// In memory:
func (b *bundle) config() string { return filepath.Join(b.memory(), "config.json") }
func (b *bundle) state() string  { return filepath.Join(b.memory(), "state") } // the runtime's

// pidFile is where the runtime writes the number of the step's process.
func (b *bundle) pidFile() string { return filepath.Join(b.memory(), "pid") }

// file is the content of the step's nth File.
func (b *bundle) file(n int) string { return filepath.Join(b.memory(), "file-"+strconv.Itoa(n)) }

// cgroups is a copy of /proc/self/cgroup of the process that made the bundle.
func (b *bundle) cgroups() string { return filepath.Join(b.dir, "cgroups") }

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
		own, err := os.ReadFile("/proc/self/cgroup")
		if err == nil {
			err = errors.Join(os.WriteFile(b.cgroups(), own, 0o600), os.Mkdir(b.memory(), 0o700))
		}
		if err != nil {
			return nil, errors.Join(err, b.remove())
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

// mountMemory mounts the folder memory. It is not swapped out where the kernel can do
// that (Linux 6.4, and root).
func (b *bundle) mountMemory() error {
	const flags = unix.MS_NOSUID | unix.MS_NODEV
	err := unix.Mount("tmpfs", b.memory(), "tmpfs", flags, "mode=0700,noswap")
	if errors.Is(err, unix.EINVAL) {
		err = unix.Mount("tmpfs", b.memory(), "tmpfs", flags, "mode=0700")
	}
	if err != nil {
		return fmt.Errorf("mount a tmpfs on %s: %w", b.memory(), err)
	}
	return nil
}

// fill writes what a runtime reads into the folder memory.
func (b *bundle) fill(o orders) error {
	for n, content := range o.Files {
		if err := os.WriteFile(b.file(n), content, 0o400); err != nil {
			return err
		}
	}
	return os.WriteFile(b.config(), o.Config, 0o600)
}

// removeCgroups removes the container's cgroups. They are all that is left when its
// processes have ended: the mounts have gone with them, and the runtime's state is in
// the bundle. To ask the runtime for it takes longer, and crun 1.8.1 does not know of a
// container whose start failed early.
func (b *bundle) removeCgroups(ctx context.Context) error {
	dirs, err := b.cgroupDirs()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
	defer cancel()
	for _, dir := range dirs {
		if err := removeCgroup(ctx, dir); err != nil {
			return err
		}
	}
	return nil
}

// cgroupDirs returns where the container's cgroups may be.
func (b *bundle) cgroupDirs() (dirs []string, err error) {
	mounts, err := mountinfo.GetMounts(mountinfo.FSTypeFilter("cgroup", "cgroup2"))
	if err != nil {
		return nil, err
	}
	own, err := os.ReadFile(b.cgroups())
	if err != nil {
		return nil, err
	}
	// A relative CgroupsPath is below the maker's cgroup, beside it, or below the root:
	// that differs between runtimes and hierarchies.
	places := map[string]bool{"/": true}
	for line := range strings.Lines(string(own)) {
		if fields := strings.SplitN(strings.TrimSpace(line), ":", 3); len(fields) == 3 {
			places[fields[2]], places[filepath.Dir(fields[2])] = true, true
		}
	}
	for _, m := range mounts {
		for place := range places {
			dirs = append(dirs, filepath.Join(m.Mountpoint, place, b.id))
		}
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

// logError adds an error of the supervisor to the log.
func (b *bundle) logError(err error) {
	line, _ := json.Marshal(logLine{Level: "error", Msg: err.Error()})
	if f, err := os.OpenFile(b.log(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600); err == nil {
		_, _ = f.Write(append(line, '\n')) // the exit status tells of the failure too
		f.Close()
	}
}

// explain tells the failure of a runtime or of the supervisor from that of the step:
// only the former is in the log. It returns a *ExitError for the latter.
func (b *bundle) explain(err error, name string) error {
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		return err
	}
	if msg := b.failure(); msg != "" {
		return fmt.Errorf("%s: %s", name, msg)
	}
	if status := exit.ExitCode(); status > 0 {
		return newExitError(status)
	}
	return fmt.Errorf("%s: %w", name, exit) // killed
}

// failure is the first error in the log, in one line.
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
	if err := b.removeCgroups(ctx); err != nil && !errors.Is(err, fs.ErrNotExist) {
		b.lock.Close()
		return err
	}
	return b.remove()
}
