package namespace

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// passedOn are the signals that end a program or tell it something. What a
// terminal sends it sends to both lives; to have one twice does no harm.
var passedOn = []os.Signal{unix.SIGHUP, unix.SIGINT, unix.SIGQUIT, unix.SIGTERM, unix.SIGUSR1, unix.SIGUSR2}

// ward is the warden: it starts the last life and returns its exit status, 128+n
// if signal n ended it.
func ward() (int, error) {
	runtime.LockOSThread() // the child is to die with the process, not with a thread
	ids, err := ownIDs()
	if err != nil {
		return 0, err
	}
	signals := make(chan os.Signal, 16)
	for _, s := range passedOn {
		if !signal.Ignored(s) { // nohup
			signal.Notify(signals, s)
		}
	}
	ready, done, err := os.Pipe()
	if err != nil {
		return 0, err
	}
	pid, pidfd, err := spawn(ready)
	ready.Close()
	if err != nil {
		return 0, err
	}
	go func() {
		for s := range signals {
			_ = unix.PidfdSendSignal(pidfd, s.(syscall.Signal), nil, 0) // it may have ended
		}
	}()
	if err := ids.apply(pid); err != nil {
		done.Close() // so that the child ends
		_, _ = waitFor(pid)
		return 0, err
	}
	if _, err := done.WriteString("+" + ids.why); err != nil {
		return 0, err
	}
	done.Close()
	return waitFor(pid)
}

// spawn starts the waiting child in its namespaces.
func spawn(ready *os.File) (pid, pidfd int, err error) {
	// Under its own number: one of the first few may be a file of the user's.
	if _, err := unix.FcntlInt(ready.Fd(), unix.F_SETFD, 0); err != nil {
		return 0, 0, err
	}
	waiting := mark{Life: lifeWaiting, Warden: os.Getpid(), Ready: int(ready.Fd())}
	pid, err = syscall.ForkExec("/proc/self/exe", os.Args, &syscall.ProcAttr{
		Env:   append(os.Environ(), waiting.String()),
		Files: []uintptr{0, 1, 2},
		Sys: &syscall.SysProcAttr{
			Cloneflags: unix.CLONE_NEWUSER | unix.CLONE_NEWNS,
			Pdeathsig:  unix.SIGKILL,
			PidFD:      &pidfd,
		},
	})
	if err != nil {
		return 0, 0, fmt.Errorf("make a user namespace: %w%s", err, cure(err))
	}
	return pid, pidfd, nil
}

// wait begins the last life when the ids are mapped. Only a program that starts
// with a mapped id has the capabilities of root. It returns only an error.
func (m mark) wait() error {
	ready := os.NewFile(uintptr(m.Ready), "ready")
	said, err := io.ReadAll(ready)
	if err != nil {
		return err
	}
	ready.Close()
	if len(said) == 0 { // the warden has ended, or says itself what is wrong
		os.Exit(1)
	}
	return restart(mark{Life: lifeLast, Warden: m.Warden, Why: string(said[1:])})
}

// endWith has the kernel kill this process when its parent, the warden, ends. It
// says whether the warden is still there.
func endWith(warden int) bool {
	// The kernel forgets what spawn asked for when a program gains capabilities.
	err := unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0, 0, 0)
	return err == nil && os.Getppid() == warden
}

// waitFor returns the exit status of a child.
func waitFor(pid int) (int, error) {
	for {
		var status unix.WaitStatus
		switch _, err := unix.Wait4(pid, &status, 0, nil); {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return 0, fmt.Errorf("wait: %w", err)
		case status.Signaled():
			return 128 + int(status.Signal()), nil
		default:
			return status.ExitStatus(), nil
		}
	}
}
