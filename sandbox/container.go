package sandbox

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"sync"

	"golang.org/x/sys/unix"
)

// A container is a supervisor that waits for its orders, or has them, and its bundle.
type container struct {
	*bundle
	process *os.Process
	orders  *os.File
	faults  *os.File
	output  *laterWriter // of the one that was expected
	ended   chan struct{}
	err     error // of exec.Cmd.Wait, once it has ended
}

// Expect has a supervisor started while there is other work to do: the next step that
// has no standard input and one writer for its output need not wait for that. One
// waits at most, until Close.
func (r *Runtime) Expect() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.expected != nil {
		return
	}
	expected := make(chan *container, 1)
	r.expected = expected
	go func() {
		out := newLaterWriter()
		c, err := r.start(nil, out, out, false)
		if err != nil {
			c = nil // a step's own start says why
		} else {
			c.output = out
		}
		expected <- c
		_, _ = seccompProfile() // a part of its orders
	}()
}

// Close ends the supervisor that no step came for, and waits until nothing is left of the
// steps that have ended. Others may be running.
func (r *Runtime) Close() error {
	defer r.leaving.Wait()
	if c := r.takeExpected(); c != nil {
		return c.drop()
	}
	return nil
}

// container returns one for s.
func (r *Runtime) container(s Step) (*container, error) {
	switch {
	case s.Terminal:
		return r.start(s.Stdin, s.Stdout, s.Stderr, true)
	case s.Stdin != nil || !same(s.Stdout, s.Stderr):
		return r.start(s.Stdin, piped(s.Stdout), piped(s.Stderr), false)
	}
	out := piped(s.Stdout)
	c := r.takeExpected()
	if c == nil {
		return r.start(nil, out, out, false)
	}
	c.output.becomes(out)
	return c, nil
}

func (r *Runtime) takeExpected() *container {
	r.mu.Lock()
	expected := r.expected
	r.expected = nil
	r.mu.Unlock()
	if expected == nil {
		return nil
	}
	c := <-expected
	if c == nil {
		return nil
	}
	select {
	case <-c.ended: // somebody killed it
		_ = c.drop()
		return nil
	default:
		return c
	}
}

// same tells whether two writers are one; those that cannot be compared are not.
func same(a, b io.Writer) (is bool) {
	defer func() { _ = recover() }()
	return a == b
}

// piped hides that a writer is a file, perhaps a terminal, which a step would be
// given itself.
func piped(w io.Writer) io.Writer {
	if w == nil {
		w = io.Discard
	}
	return struct{ io.Writer }{w}
}

// start starts a supervisor with these standard files.
func (r *Runtime) start(in *os.File, out, errs io.Writer, terminal bool) (*container, error) {
	b, err := newBundle(r.tmp)
	if err != nil {
		return nil, err
	}
	cmd := exec.Command("/proc/self/exe")
	cmd.Args = []string{supervisor, b.dir}
	// Nothing of ours: a runtime passes on sockets it is told of in LISTEN_FDS and
	// NOTIFY_SOCKET.
	cmd.Env = []string{"PATH=" + DefaultPath}
	cmd.Dir = "/"
	if in != nil {
		cmd.Stdin = in
	}
	cmd.Stdout, cmd.Stderr = out, errs
	cmd.SysProcAttr = &unix.SysProcAttr{
		Cloneflags: unix.CLONE_NEWPID,
		Pdeathsig:  unix.SIGKILL,
		Setsid:     !terminal, // no terminal, and no signals of ours from one
	}
	c := &container{bundle: b, ended: make(chan struct{})}
	if err := c.begin(cmd, r.do); err != nil {
		return nil, errors.Join(err, b.remove())
	}
	return c, nil
}

// begin starts cmd where do calls it, and waits for its end meanwhile.
func (c *container) begin(cmd *exec.Cmd, do func(func() error) error) error {
	// The child looks at the pipe once, see supervise: an end that is closed means
	// that this process is no more.
	alive, lifeline, err := os.Pipe()
	if err != nil {
		return err
	}
	read, write, err := os.Pipe()
	if err != nil {
		return errors.Join(err, alive.Close(), lifeline.Close())
	}
	faults, fault, err := os.Pipe()
	if err != nil {
		return errors.Join(err, alive.Close(), lifeline.Close(), read.Close(), write.Close())
	}
	cmd.ExtraFiles = []*os.File{aliveFD - 3: alive, ordersFD - 3: read, faultFD - 3: fault}
	started := make(chan error)
	go func() {
		// PR_SET_PDEATHSIG acts when the thread that started the process ends.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		defer lifeline.Close()
		err := do(cmd.Start)
		alive.Close()
		read.Close()
		fault.Close()
		started <- err
		if err == nil {
			c.err = cmd.Wait()
			close(c.ended)
		}
	}()
	if err := <-started; err != nil {
		return errors.Join(err, write.Close(), faults.Close())
	}
	c.process, c.orders, c.faults = cmd.Process, write, faults
	return nil
}

// run gives c its orders, and returns when it and all that it started have ended, to
// which it is forced when ctx is cancelled. Meanwhile is called when c has its orders.
func (c *container) run(ctx context.Context, o orders, meanwhile func()) error {
	defer context.AfterFunc(ctx, func() { _ = c.process.Kill() })()
	fault := json.NewEncoder(c.orders).Encode(o)
	meanwhile()
	<-c.ended
	if c.err != nil {
		return c.err // of which the fault, if there is one, is a consequence
	}
	return fault
}

// explain tells the failure of a runtime or of the supervisor from that of the step: only
// the former is told by the supervisor. It returns a *ExitError for the latter.
func (c *container) explain(err error, name string) error {
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		return err
	}
	if fault, err := io.ReadAll(c.faults); err == nil && len(fault) > 0 {
		return fmt.Errorf("%s: %s", name, fault)
	}
	if status := exit.ExitCode(); status > 0 {
		return newExitError(status)
	}
	return fmt.Errorf("%s: %w", name, exit) // killed
}

// drop ends c, if it has not ended, and leaves nothing of it. If its cgroups cannot be
// removed, its folder stays for Sweep.
func (c *container) drop() error {
	if c.output != nil {
		c.output.becomes(io.Discard)
	}
	_ = c.process.Kill() // it may have ended
	<-c.ended
	c.orders.Close()
	c.faults.Close()
	dirs, err := cgroupParents()
	if err == nil {
		err = c.removeCgroups(dirs)
	}
	if err != nil {
		c.lock.Close()
		return err
	}
	return c.remove()
}

// A laterWriter writes to another writer, which is known later.
type laterWriter struct {
	w     io.Writer
	known chan struct{}
	once  sync.Once
}

func newLaterWriter() *laterWriter { return &laterWriter{known: make(chan struct{})} }

// becomes says where what is written goes, and has gone so far, unless it was said.
func (o *laterWriter) becomes(w io.Writer) {
	o.once.Do(func() {
		o.w = w
		close(o.known)
	})
}

func (o *laterWriter) Write(p []byte) (int, error) {
	<-o.known
	return o.w.Write(p)
}
