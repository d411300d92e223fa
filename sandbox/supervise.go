package sandbox

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
	"unsafe"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// A step runs in a pid namespace that is in another one. The first process of the
// outer one is this program, started again under the name supervisor before any of
// its other work begins. The kernel sends it SIGKILL when we end; and when the first
// process of a pid namespace ends, the kernel kills all others in it and in those
// nested in it, and reports the end only when they are gone. So killing one process,
// or being killed, ends everything, whatever state the runtime is in.
//
// The supervisor makes a mount namespace with a /proc that shows the pid namespace,
// lets the runtime start the step's process, which becomes its own child then, and
// waits for that. So the step has our pipes and no copy of them: what it writes to
// both outputs stays in order.
const supervisor = "layerbuild-sandbox"

// What a supervisor does with a bundle.
const (
	runStep     = "step"     // run it
	runTerminal = "terminal" // run it in a terminal, for which the runtime stays in between
	createOnly  = "create"   // create the container, and end with it
)

// supervised returns the command that does what on b with the runtime at path. Of
// what is mounted in the folder that b is in, other steps' rootfs, it keeps only what
// a path in keep is on or above: the rest may have to be unmounted meanwhile.
func supervised(ctx context.Context, b *bundle, what, path string, keep ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "/proc/self/exe")
	cmd.Args = append([]string{supervisor, b.dir, what, path}, keep...)
	// Nothing of ours: a runtime passes on sockets it is told of in LISTEN_FDS and
	// NOTIFY_SOCKET.
	cmd.Env = []string{"PATH=" + DefaultPath}
	cmd.Dir = "/"
	cmd.SysProcAttr = &unix.SysProcAttr{
		Cloneflags: unix.CLONE_NEWPID | unix.CLONE_NEWNS,
		Pdeathsig:  unix.SIGKILL,
		Setsid:     what != runTerminal, // no terminal, and no signals of ours from one
	}
	return cmd
}

// init is the supervisor. It runs in init so that it works in every program that this
// package is part of.
func init() {
	if len(os.Args) < 4 || os.Args[0] != supervisor {
		return
	}
	b := &bundle{dir: os.Args[1], id: filepath.Base(os.Args[1])}
	status, err := b.supervise(os.Args[2], os.Args[3], os.Args[4:])
	if err != nil {
		status = 125
		b.logError(err)
	}
	os.Exit(status)
}

// supervise returns the status of the step. An error is not the step's.
func (b *bundle) supervise(what, path string, keep []string) (int, error) {
	// From the fork on we are sent a signal when our parent ends; if it has ended
	// before, the other end of this pipe is closed.
	alive := []unix.PollFd{{Fd: 3, Events: unix.POLLIN}}
	if _, err := unix.Poll(alive, 0); err != nil || alive[0].Revents != 0 {
		return 0, errors.New("the build has ended")
	}
	if err := isolateMounts(filepath.Dir(b.dir), keep); err != nil {
		return 0, err
	}
	var in contents
	if err := json.NewDecoder(os.NewFile(4, "contents")).Decode(&in); err != nil {
		return 0, fmt.Errorf("read the step's configuration: %w", err)
	}
	b.noCgroup = in.NoCgroup
	if err := b.mountMemory(); err != nil {
		return 0, err
	}
	if err := b.fill(in); err != nil {
		return 0, err
	}
	if err := unix.CloseRange(3, ^uint(0)>>1, unix.CLOSE_RANGE_CLOEXEC); err != nil && err != unix.ENOSYS {
		return 0, fmt.Errorf("close_range: %w", err)
	}
	// What nohup or a background job ignores would stay ignored; what is caught is
	// reset by exec.
	signal.Notify(make(chan os.Signal, 1), unix.SIGHUP, unix.SIGINT)
	// What make runs ignores the C library's own signals, which Go leaves alone.
	for _, number := range []uintptr{32, 33} {
		var byDefault [4]uintptr // struct sigaction of rt_sigaction(2)
		_, _, _ = unix.RawSyscall6(unix.SYS_RT_SIGACTION, number, uintptr(unsafe.Pointer(&byDefault)), 0, 8, 0, 0)
	}
	unix.Umask(0o022)
	if what == runTerminal {
		return b.runtime(path, "run", "--bundle", b.memory(), b.id)
	}
	if what == createOnly {
		return 0, b.succeed(path, "create", "--bundle", b.memory(), b.id)
	}
	// The runtime ends when it has started the step. Only we are left to wait for that
	// then, also if it has ended already.
	if err := b.succeed(path, "run", "--detach", "--pid-file", b.pidFile(), "--bundle", b.memory(), b.id); err != nil {
		return 0, err
	}
	text, err := os.ReadFile(b.pidFile())
	if err != nil {
		return 0, err
	}
	pid, err := strconv.Atoi(string(text))
	if err != nil {
		return 0, err
	}
	return waitFor(pid)
}

// runtime runs the runtime at path to its end and returns its status.
func (b *bundle) runtime(path string, args ...string) (int, error) {
	argv := []string{path, "--root", b.state(), "--log", b.log(), "--log-format", "json"}
	if b.noCgroup && filepath.Base(path) == "crun" {
		argv = append(argv, "--cgroup-manager", "disabled")
	}
	argv = append(argv, args...)
	pid, err := syscall.ForkExec(path, argv, &syscall.ProcAttr{Env: os.Environ(), Files: []uintptr{0, 1, 2}})
	if err != nil {
		return 0, fmt.Errorf("exec %s: %w", path, err)
	}
	return waitFor(pid)
}

func (b *bundle) succeed(path string, args ...string) error {
	status, err := b.runtime(path, args...)
	if err == nil && status != 0 {
		err = fmt.Errorf("%s: exit status %d", args[0], status)
	}
	return err
}

// waitFor returns the exit status of a child, 128+n for signal n.
func waitFor(pid int) (int, error) {
	for {
		var status unix.WaitStatus
		switch _, err := unix.Wait4(pid, &status, 0, nil); {
		case err == unix.EINTR:
		case err != nil:
			return 0, fmt.Errorf("wait: %w", err)
		case status.Signaled():
			return 128 + int(status.Signal()), nil
		default:
			return status.ExitStatus(), nil
		}
	}
}

// isolateMounts makes this mount namespace ours: what happens here is not seen
// outside, /proc shows this pid namespace, and of tmp only keep stays mounted.
func isolateMounts(tmp string, keep []string) error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	mounts, err := mountinfo.GetMounts(mountinfo.PrefixFilter(tmp))
	if err != nil {
		return err
	}
	for _, m := range slices.Backward(mounts) {
		if m.Mountpoint == tmp || needed(m.Mountpoint, keep) {
			continue
		}
		// One that is covered by another mount goes with it.
		if err := unix.Unmount(m.Mountpoint, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil && err != unix.EINVAL && err != unix.ENOENT {
			return fmt.Errorf("unmount %s: %w", m.Mountpoint, err)
		}
	}
	if err := unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return fmt.Errorf("mount /proc: %w", err)
	}
	return nil
}

func needed(mountpoint string, keep []string) bool {
	return slices.ContainsFunc(keep, func(k string) bool { return within(k, mountpoint) || within(mountpoint, k) })
}
