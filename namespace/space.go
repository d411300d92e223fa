package namespace

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// A Space is where the program may mount once Enter has returned: the mount namespace
// of the process, or that of one of its threads.
type Space struct{}

// A thread is alone in a mount namespace of its own, which ends with it, and it with the
// process. All other threads stay where they were: the kernel moves only one that shares
// its working directory with no other, which those of a Go program do.
type thread struct {
	work chan func()
	root string // its root folder, as all see it
}

// entered is the thread that mounts; nil if there is none, or the process does itself.
var entered atomic.Pointer[thread]

// enterThread starts the thread that mounts.
var enterThread = sync.OnceValue(func() error {
	t := &thread{work: make(chan func())}
	begun := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: nobody else is to run in there
		err := t.enter()
		begun <- err
		if err == nil {
			t.serve()
		}
	}()
	err := <-begun
	if err == nil {
		entered.Store(t)
	}
	return err
})

// errMayNot says that it takes a user namespace to make a mount namespace.
var errMayNot = errors.New("this process may not make a mount namespace")

// enter gives the calling thread its namespace. What is mounted outside goes on being
// seen in there, and nothing the other way round.
func (t *thread) enter() error {
	switch err := unix.Unshare(unix.CLONE_NEWNS); {
	case errors.Is(err, unix.EPERM):
		return errMayNot
	case err != nil:
		return fmt.Errorf("make a mount namespace: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, ""); err != nil {
		return fmt.Errorf("keep mounts from others: %w%s", err, cure(err))
	}
	self, err := os.Readlink("/proc/thread-self")
	if err != nil {
		return fmt.Errorf("%w: is /proc mounted?", err)
	}
	t.root = "/proc/" + self + "/root"
	return nil
}

func (t *thread) serve() {
	for f := range t.work {
		f()
	}
}

// Do calls f where it may mount and unmount, and where what it starts sees that. Others
// wait meanwhile. Before Enter has returned, that is where the process is.
func (Space) Do(f func() error) error {
	t := entered.Load()
	if t == nil {
		return f()
	}
	done := make(chan error)
	t.work <- func() { done <- f() }
	return <-done
}

// Reach returns the path by which this program and others on this machine reach what is
// at the absolute path in the Space, which may be one that was returned by Reach. To
// resolve its symbolic links, as realpath(3) does, leads out of the Space again.
func (s Space) Reach(path string) string {
	if t := entered.Load(); t != nil {
		return t.root + s.Inside(path)
	}
	return path
}

// Inside undoes Reach in a text or a path: what was started in the Space has to take that
// path, and people know it by that.
func (Space) Inside(text string) string {
	if t := entered.Load(); t != nil {
		return strings.ReplaceAll(text, t.root+"/", "/")
	}
	return text
}
