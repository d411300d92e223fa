// Package sandbox runs one step of a build in a real OCI runtime.
//
// A step sees its rootfs, the mounts that were asked for, a /proc, /dev and /sys
// of a container, and the environment it was given. It sees no process, no
// environment variable, no file descriptor, no terminal and no keyring of the
// host. Its capabilities, seccomp filter, masked and read-only paths are the
// defaults of the container engines; no_new_privs is set.
//
// Whatever ends first, the step does not outlive the process that runs it: not
// when its context is cancelled, not when that process is killed with SIGKILL.
// See supervise.go for how.
package sandbox

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"unicode/utf8"

	"golang.org/x/term"

	"github.com/layerbuild/layerbuild/inroot"
)

// What a step gets when its Env or Hostname does not say otherwise. They are the
// same on every machine.
const (
	DefaultPath     = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	DefaultHome     = "/root"
	DefaultHostname = "layerbuild"
)

// Networks of a Step.
const (
	NetworkHost = "host" // the host's network, with the host's resolv.conf
	NetworkNone = "none" // a network of its own that has a loopback and nothing else
)

// A Mount shows a file or folder of the host in a step, with private propagation.
type Mount struct {
	Source   string // absolute, a file or a folder; symbolic links are followed
	Dest     string // absolute, in the rootfs
	ReadOnly bool   // with all that is mounted below Source (Linux 5.12)
}

// A File is a regular file that a step can read, and nobody else: root's, of mode
// 0400, in memory, and gone when the step ends, however it ends.
type File struct {
	Dest    string // absolute, in the rootfs
	Content []byte
}

// A Step is one command to run in a rootfs as root, in the folder Cwd.
type Step struct {
	Rootfs   string   // absolute, as this process reaches it; every one of Mountpoints must exist in it
	Args     []string // the command; Args[0] is an absolute path in the rootfs or at a Mount
	Env      []string // K=V; only PATH, HOME and, with a Terminal, TERM are added when missing
	Cwd      string   // "/" when empty
	Hostname string   // DefaultHostname when empty
	Network  string   // NetworkHost when empty
	Limits   Limits   // they must pass Check
	Mounts   []Mount  // in this order
	Files    []File   // over the Mounts
	Tmpfs    []string // folders that are empty, in memory, and gone when the step ends
	User     User     // root when zero

	// Stdin is /dev/null when nil. Stdout and Stderr get the output as it comes, each
	// from one goroutine; it is dropped when nil. If they are one writer, the order is
	// that of the step.
	Stdin          *os.File
	Stdout, Stderr io.Writer

	// Terminal gives the step a terminal of its own, joined to Stdin, Stdout and
	// Stderr. Stdin must be a terminal then, and may not be one otherwise.
	Terminal bool
}

// A User is whom a step runs as, by the ids of the rootfs.
type User struct {
	UID, GID uint32
	Groups   []uint32
}

// An ExitError says that a step ran and did not succeed.
type ExitError struct {
	Status int // 1 to 255

	// Signal is what ended the command, by the convention of shells and runtimes that
	// a status of 128+n means signal n; 0 for other statuses.
	Signal syscall.Signal

	OutOfMemory bool // a process of the step was killed since Limits.Memory was used up
}

func (e *ExitError) Error() string {
	if e.Signal == 0 {
		return fmt.Sprintf("exit status %d", e.Status)
	}
	return fmt.Sprintf("exit status %d (%v)", e.Status, e.Signal)
}

func newExitError(status int) *ExitError {
	e := &ExitError{Status: status}
	if status > 128 && status <= 128+64 {
		e.Signal = syscall.Signal(status - 128)
	}
	return e
}

// A Mountpoint is a place in a rootfs that something is mounted on.
type Mountpoint struct {
	Path string // absolute, in the rootfs
	Dir  bool   // a folder; otherwise a file
}

// Mountpoints lists the places that must exist in the rootfs of s before it runs:
// a runtime would make those that are missing, and they would become content of
// the image. Those below another mount are not listed.
func (s Step) Mountpoints() ([]Mountpoint, error) {
	points := []Mountpoint{{"/proc", true}, {"/dev", true}, {"/sys", true}}
	mounts, err := s.mounts()
	if err != nil {
		return nil, err
	}
	for i, m := range mounts {
		if under(m.Dest, mounts[:i]) {
			continue
		}
		fi, err := os.Stat(m.Source)
		if err != nil {
			return nil, fmt.Errorf("mount %s: %w", m.Dest, err)
		}
		points = append(points, Mountpoint{m.Dest, fi.IsDir()})
	}
	for _, dir := range s.Tmpfs {
		if !under(dir, mounts) {
			points = append(points, Mountpoint{dir, true})
		}
	}
	for _, f := range s.Files {
		if !under(f.Dest, mounts) {
			points = append(points, Mountpoint{f.Dest, false})
		}
	}
	return points, nil
}

func under(path string, mounts []Mount) bool {
	for _, m := range mounts {
		if within(path, m.Dest) {
			return true
		}
	}
	return false
}

// within tells whether path is dir or below it. Both are clean.
func within(path, dir string) bool {
	return dir == "/" || path == dir || strings.HasPrefix(path, dir+"/")
}

// mounts is s.Mounts, cleaned, after those that every step has.
func (s Step) mounts() ([]Mount, error) {
	var mounts []Mount
	if s.Network != NetworkNone {
		const resolvConf = "/etc/resolv.conf"
		switch source, err := filepath.EvalSymlinks(resolvConf); {
		case err == nil:
			mounts = append(mounts, Mount{source, resolvConf, true})
		case !errors.Is(err, fs.ErrNotExist):
			return nil, err
		}
	}
	for _, m := range s.Mounts {
		source, err := filepath.EvalSymlinks(m.Source)
		if err != nil {
			return nil, fmt.Errorf("mount %s: %w", m.Dest, err)
		}
		mounts = append(mounts, Mount{source, filepath.Clean(m.Dest), m.ReadOnly})
	}
	return mounts, nil
}

// Run runs s to its end.
//
// It returns a *ExitError when the command ran and did not succeed, the context's
// cause when that was cancelled, and another error when the command could not be
// started. When it returns, no process and no mount of the step is left; its cgroup and its
// folder may be until Close has returned.
func (r *Runtime) Run(ctx context.Context, s Step) error {
	if err := s.check(); err != nil {
		return err
	}
	mounts, err := s.mounts()
	if err != nil {
		return err
	}
	if err := s.checkCommand(mounts, s.Args[0], 0); err != nil {
		return err
	}
	if s.Terminal {
		// The runtime makes the terminal raw and may be killed before it restores it.
		state, err := term.GetState(int(s.Stdin.Fd()))
		if err != nil {
			return err
		}
		defer term.Restore(int(s.Stdin.Fd()), state)
	}
	c, err := r.container(s)
	if err != nil {
		return err
	}
	defer r.leaving.Go(func() { _ = c.drop() }) // or Sweep does it
	return r.run(ctx, s, c, mounts)
}

// check finds mistakes of the caller.
func (s Step) check() error {
	if len(s.Args) == 0 {
		return errors.New("no command to run")
	}
	if s.Network != "" && s.Network != NetworkHost && s.Network != NetworkNone {
		return fmt.Errorf("network %q: want host or none", s.Network)
	}
	paths := []string{s.Args[0], s.Rootfs}
	for _, m := range s.Mounts {
		paths = append(paths, m.Source, m.Dest)
	}
	for _, f := range s.Files {
		paths = append(paths, f.Dest)
	}
	paths = append(paths, s.Tmpfs...)
	for _, p := range paths {
		if !filepath.IsAbs(p) {
			return fmt.Errorf("path %q is not absolute", p)
		}
	}
	for _, e := range s.Env {
		if name, _, ok := strings.Cut(e, "="); !ok || name == "" {
			return fmt.Errorf("environment variable %q: want NAME=VALUE", e)
		}
	}
	// The runtime's configuration is JSON: other bytes would be replaced in silence.
	for _, text := range append(append(paths, s.Args...), s.Env...) {
		if !utf8.ValidString(text) || strings.ContainsRune(text, 0) {
			return fmt.Errorf("%q is not valid UTF-8 text: a runtime cannot be given it", text)
		}
	}
	if terminal := s.Stdin != nil && term.IsTerminal(int(s.Stdin.Fd())); terminal != s.Terminal {
		return errors.New("a step's standard input must be a terminal if it has one, and must not otherwise")
	}
	points, err := s.Mountpoints()
	if err != nil {
		return err
	}
	for _, p := range points {
		if err := p.check(s.Rootfs); err != nil {
			return err
		}
	}
	return nil
}

func (p Mountpoint) check(rootfs string) error {
	place, err := inroot.Open(rootfs, p.Path)
	if err != nil {
		return fmt.Errorf("rootfs has no %s to mount on: %w", p.Path, err)
	}
	defer place.Close()
	fi, err := place.Stat()
	if err != nil {
		return err
	}
	if fi.IsDir() != p.Dir {
		return fmt.Errorf("cannot mount on %s of the rootfs: one is a folder, the other a file", p.Path)
	}
	return nil
}

// inside returns the path that the runtime has to take to a root filesystem.
func (r *Runtime) inside(rootfs string) (string, error) {
	if r.Space != nil {
		if inside := r.Space.Inside(rootfs); inside != rootfs {
			return inside, nil
		}
	}
	return filepath.EvalSymlinks(rootfs)
}

// run runs s in c.
func (r *Runtime) run(ctx context.Context, s Step, c *container, mounts []Mount) (err error) {
	if s.Rootfs, err = r.inside(s.Rootfs); err != nil {
		return err
	}
	o, err := s.orders(c.bundle, mounts)
	if err != nil {
		return err
	}
	o.Runtime = r.Path
	next := func() {
		if s.Stdin == nil && r.More != nil && r.More() {
			r.Expect()
		}
	}
	err = c.explain(c.run(ctx, o, next), r.Name)
	var exit *ExitError
	switch {
	case ctx.Err() != nil:
		err = context.Cause(ctx)
	case s.Limits.Memory > 0 && errors.As(err, &exit):
		exit.OutOfMemory = c.outOfMemory()
	}
	return err
}
