package sandbox

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"

	"github.com/moby/sys/userns"
	"golang.org/x/sys/unix"

	"github.com/layerbuild/layerbuild/program"
)

// A Runtime is an OCI runtime that has started a container on this machine.
type Runtime struct {
	Name    string // e.g. "runc"
	Path    string // absolute
	Version string // e.g. "1.1.5+ds1"; "" of a Known one

	// PassedOver says, one line each, why a runtime that would have been preferred
	// was not taken.
	PassedOver []string

	// More tells, when a step has begun, whether others may follow. Then a supervisor is
	// started for the next one meanwhile. Nil is no.
	More func() bool

	// Space is where steps' root filesystems are mounted; nil is where the process is.
	Space Space

	tmp string

	mu       sync.Mutex
	expected chan *container // see Expect
	leaving  sync.WaitGroup  // containers that have ended and are removed
}

// A Space is a mount namespace that the process, or its other threads, are not in.
type Space interface {
	Do(f func() error) error   // calls f in there
	Inside(path string) string // is what a path of the process's is called in there
}

// do calls f where root filesystems are mounted.
func (r *Runtime) do(f func() error) error {
	if r.Space == nil {
		return f()
	}
	return r.Space.Do(f)
}

// Find returns the runtime of that name or path; with "" the first of crun and
// runc that starts a container here, which it tries: no other way tells whether
// a runtime gets on with the host's cgroups and kernel. That takes about as long
// as a step that does nothing. Containers have their files in tmp.
func Find(ctx context.Context, name, tmp string) (*Runtime, error) {
	var reasons []string
	for _, n := range candidates(name) {
		r, err := try(ctx, n, tmp)
		if err == nil {
			r.PassedOver = reasons
			return r, nil
		}
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		reasons = append(reasons, err.Error())
	}
	why := strings.Join(reasons, "; ")
	return nil, fmt.Errorf("no OCI runtime starts a container here (%s): %s", why, cure(name, why))
}

// cure says what to do when none of the runtimes of a name starts.
func cure(name, why string) string {
	mode, err := unix.PrctlRetInt(unix.PR_GET_SECCOMP, 0, 0, 0, 0)
	filtered := err == nil && mode == 2 // SECCOMP_MODE_FILTER
	switch {
	case userns.RunningInUserNS() && strings.Contains(why, "mount /proc"):
		return "parts of /proc are hidden here, as in a container: start that with `--security-opt unmask=ALL` (podman) or `--security-opt systempaths=unconfined` (docker)"
	case filtered && strings.Contains(strings.ToLower(why), "operation not permitted"):
		return "a seccomp filter forbids it, as of a container: start that with `--security-opt seccomp=unconfined`"
	case name != "":
		return "check --runtime, or leave it out"
	}
	return "install one with `apt-get install crun`"
}

// Stamp names the runtimes that Find would look at with this name, as they are
// installed. As long as it is the same, so is what Find returns to a process of the
// same rights, and Known saves the trial.
func Stamp(name string) string {
	stamp := ""
	for _, n := range candidates(name) {
		path, err := lookPath(n)
		if err != nil {
			stamp += fmt.Sprintf(" no %s", n)
			continue
		}
		if fi, err := os.Stat(path); err == nil {
			stamp += fmt.Sprintf(" %s %d %d", path, fi.Size(), fi.ModTime().UnixNano())
		}
	}
	return stamp
}

// Known returns the runtime at the path of one that Find returned.
func Known(path, tmp string) *Runtime {
	return &Runtime{Name: filepath.Base(path), Path: path, tmp: tmp}
}

func candidates(name string) []string {
	if name != "" {
		return []string{name}
	}
	return []string{"crun", "runc"}
}

func try(ctx context.Context, name, tmp string) (*Runtime, error) {
	path, err := lookPath(name)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	r := &Runtime{Name: filepath.Base(path), Path: path, tmp: tmp}
	out, err := program.Command(ctx, path, "--version").Output()
	if err != nil {
		return nil, fmt.Errorf("%s --version: %w", path, err)
	}
	first, _, _ := strings.Cut(string(out), "\n")
	r.Version = first[strings.LastIndexByte(first, ' ')+1:]
	if err := r.probe(ctx); err != nil {
		return nil, fmt.Errorf("%s %s: %w", r.Name, r.Version, err)
	}
	return r, nil
}

// lookPath finds a runtime also where administrators' programs are.
func lookPath(name string) (string, error) {
	if strings.ContainsRune(name, '/') { // the user's own, which may be relative
		path, err := exec.LookPath(name)
		if err != nil {
			return "", err
		}
		return filepath.Abs(path)
	}
	path, err := program.Find(name, filepath.SplitList(DefaultPath)...)
	if errors.Is(err, exec.ErrNotFound) {
		err = errors.New("not installed")
	}
	return path, err
}

// probe creates a container with the configuration of a step. The container ends
// with the runtime, before it has run anything.
func (r *Runtime) probe(ctx context.Context) (err error) {
	c, err := r.start(nil, nil, nil, false)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.drop()) }()
	place, err := newBundle(r.tmp)
	if err != nil {
		return err
	}
	defer place.remove()
	rootfs := place.dir
	for _, dir := range []string{"proc", "dev", "sys", "mnt"} {
		if err := os.MkdirAll(filepath.Join(rootfs, dir), 0o755); err != nil {
			return err
		}
	}
	if err := os.WriteFile(filepath.Join(rootfs, "true"), nil, 0o755); err != nil {
		return err
	}
	s := Step{Rootfs: rootfs, Args: []string{"/true"}}
	o, err := s.orders(c.bundle, []Mount{{rootfs, "/mnt", true}})
	if err != nil {
		return err
	}
	o.Do, o.Runtime = createOnly, r.Path
	return c.explain(c.run(ctx, o, func() {}), r.Name)
}
