package sandbox

import (
	"bufio"
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
	"strings"
	"time"

	"github.com/moby/sys/mountinfo"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// A bundle is the folder of one container while it lives: the configuration, the
// runtime's state and its log. It is locked by the process that made it.
type bundle struct {
	dir     string
	id      string // of the container, the name of dir
	runtime string // path of the runtime that it was made for
	lock    *os.File
}

const bundlePrefix = "sandbox-"

func (b *bundle) state() string { return filepath.Join(b.dir, "state") }
func (b *bundle) log() string   { return filepath.Join(b.dir, "log") }

// newBundle makes a folder in tmp that no one can guess the name of.
func newBundle(tmp, runtime string) (*bundle, error) {
	tmp, err := filepath.Abs(tmp)
	if err != nil {
		return nil, err
	}
	for {
		id := bundlePrefix + strings.ToLower(rand.Text())
		b := &bundle{dir: filepath.Join(tmp, id), id: id, runtime: runtime}
		if err := os.Mkdir(b.dir, 0o700); err != nil {
			return nil, err
		}
		switch err := b.acquire(); {
		case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.EWOULDBLOCK):
			continue // swept before it was locked
		case err != nil:
			return nil, err
		}
		// For Sweep.
		if err := os.Symlink(runtime, filepath.Join(b.dir, "runtime")); err != nil {
			return nil, errors.Join(err, b.remove())
		}
		return b, nil
	}
}

// acquire locks b. The error is EWOULDBLOCK when another process holds it,
// fs.ErrNotExist when it has gone.
func (b *bundle) acquire() error {
	f, err := os.Open(b.dir)
	if err != nil {
		return err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		return err
	}
	if _, err := os.Lstat(b.dir); err != nil {
		f.Close()
		return err
	}
	b.lock = f
	return nil
}

func (b *bundle) remove() error {
	defer b.lock.Close()
	return os.RemoveAll(b.dir)
}

func (b *bundle) writeConfig(config *specs.Spec) error {
	data, err := json.Marshal(config)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(b.dir, "config.json"), data, 0o600)
}

// delete removes what the runtime has not removed itself, because it was killed or
// failed: its state and the cgroups. No process of the container is left then. The
// runtime runs in a pid namespace of its own, where no number in its state is that
// of a process of the host.
func (b *bundle) delete(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	var err error
	if _, gone := os.Stat(filepath.Join(b.state(), b.id)); gone == nil {
		os.Remove(b.log()) // with the errors of an earlier command
		name := filepath.Base(b.runtime)
		if err = b.explain(wait(supervised(ctx, b, nil, b.runtime, "delete", "--force", b.id)), name); err != nil {
			err = fmt.Errorf("remove what %s left of container %s: %v", name, b.id, err)
		}
	}
	return errors.Join(err, b.removeCgroups())
}

// removeCgroups removes the container's cgroups in every hierarchy. crun 1.8.1
// leaves some when it fails before it has written its state.
func (b *bundle) removeCgroups() error {
	mounts, err := mountinfo.GetMounts(mountinfo.FSTypeFilter("cgroup", "cgroup2"))
	if err != nil {
		return err
	}
	own, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return err
	}
	// A relative CgroupsPath is below our own cgroup, beside it, or below the root: that
	// differs between runtimes and hierarchies.
	places := map[string]bool{"/": true}
	for line := range strings.Lines(string(own)) {
		if fields := strings.SplitN(strings.TrimSpace(line), ":", 3); len(fields) == 3 {
			places[fields[2]], places[filepath.Dir(fields[2])] = true, true
		}
	}
	var errs []error
	for _, m := range mounts {
		for place := range places {
			err := unix.Rmdir(filepath.Join(m.Mountpoint, place, b.id))
			if err != nil && err != unix.ENOENT && err != unix.EROFS {
				errs = append(errs, fmt.Errorf("remove a cgroup of container %s: %w", b.id, err))
			}
		}
	}
	return errors.Join(errs...)
}

// logLine is a line of a runtime's log in JSON.
type logLine struct {
	Level string `json:"level"`
	Msg   string `json:"msg"`
}

// explain tells the failure of a runtime from that of the command that it ran:
// only the former is in its log. It returns a *ExitError for the latter.
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
	return fmt.Errorf("%s: %v", name, exit) // killed
}

// failure is the last error in the runtime's log, in one line.
func (b *bundle) failure() string {
	data, err := os.ReadFile(b.log())
	if err != nil {
		return ""
	}
	var msg string
	for s := bufio.NewScanner(bytes.NewReader(data)); s.Scan(); {
		var l logLine
		if json.Unmarshal(s.Bytes(), &l) == nil && (l.Level == "error" || l.Level == "fatal") {
			msg = l.Msg
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
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		b := &bundle{dir: dir, id: filepath.Base(dir)}
		if err := b.acquire(); errors.Is(err, unix.EWOULDBLOCK) || errors.Is(err, fs.ErrNotExist) {
			continue
		} else if err != nil {
			errs = append(errs, err)
			continue
		}
		if b.runtime, err = os.Readlink(filepath.Join(dir, "runtime")); err == nil {
			errs = append(errs, b.delete(ctx))
		}
		errs = append(errs, b.remove())
	}
	return errors.Join(errs...)
}
