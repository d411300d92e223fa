package sandbox

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
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
// The supervisor may have been started before it is known what it will run. It reads
// its orders, makes a mount namespace with a /proc that shows the pid namespace,
// lets the runtime start the step's process, which becomes its own child then, and
// waits for that. So the step has our pipes and no copy of them: what it writes to
// both outputs stays in order.
const supervisor = "layerbuild-sandbox"

// Files that a supervisor has from its start.
const (
	aliveFD  = 3 // a pipe that is open at the other end while the starter lives
	ordersFD = 4 // a pipe with its orders
	faultFD  = 5 // a pipe for what went wrong, if it was not the step
)

// maxFault is how many bytes are said of what went wrong; a pipe takes 65536.
const maxFault = 4096

// orders are what a supervisor is to do.
type orders struct {
	Do       string          // see below
	Runtime  string          // its path
	Keep     []string        // what must stay mounted in the folder that the bundle is in
	Config   json.RawMessage // a specs.Spec, as text: the supervisor need not know its types
	NoCgroup bool            // see cgroupsPath
	Cgroups  []string        // the folders of cgroups, among them that of this process; none without a cgroup
	Files    [][]byte
}

// What a supervisor does with a bundle.
const (
	runStep     = "step"     // run it
	runTerminal = "terminal" // run it in a terminal, for which the runtime stays in between
	createOnly  = "create"   // create the container, and end with it
)

// init is the supervisor. It runs in init so that it works in every program that this
// package is part of, and on the first thread, whose mount namespace it changes.
func init() {
	if len(os.Args) != 2 || os.Args[0] != supervisor {
		return
	}
	b := &bundle{dir: os.Args[1], id: filepath.Base(os.Args[1])}
	status, err := b.supervise()
	if err != nil || status != 0 {
		fault := b.failure()
		if fault == "" && err != nil {
			fault = err.Error()
		}
		_, _ = os.NewFile(faultFD, "fault").WriteString(fault[:min(len(fault), maxFault)]) // if nobody listens, it is in vain
	}
	if err != nil {
		status = 125
	}
	os.Exit(status)
}

// supervise returns the status of the step. An error is not the step's.
func (b *bundle) supervise() (int, error) {
	// From the fork on we are sent a signal when our parent ends; if it has ended
	// before, the other end of this pipe is closed.
	alive := []unix.PollFd{{Fd: aliveFD, Events: unix.POLLIN}}
	if _, err := unix.Poll(alive, 0); err != nil || alive[0].Revents != 0 {
		return 0, errors.New("the build has ended")
	}
	var o orders
	if err := json.NewDecoder(os.NewFile(ordersFD, "orders")).Decode(&o); err != nil {
		return 0, fmt.Errorf("read what to run: %w", err)
	}
	go hastenCgroups(o.Cgroups)
	if err := isolateMounts(filepath.Dir(b.dir), o.Keep); err != nil {
		return 0, err
	}
	b.noCgroup = o.NoCgroup
	if err := b.mountMemory(); err != nil {
		return 0, err
	}
	if err := b.fill(o); err != nil {
		return 0, err
	}
	if err := unix.CloseRange(aliveFD, ^uint(0)>>1, unix.CLOSE_RANGE_CLOEXEC); err != nil && err != unix.ENOSYS {
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
	switch o.Do {
	case runTerminal:
		return b.runtime(o.Runtime, "run", "--bundle", b.dir, b.id)
	case createOnly:
		return 0, b.succeed(o.Runtime, "create", "--bundle", b.dir, b.id)
	}
	// The runtime ends when it has started the step. Only we are left to wait for that
	// then, also if it has ended already.
	if err := b.succeed(o.Runtime, "run", "--detach", "--pid-file", b.pidFile(), "--bundle", b.dir, b.id); err != nil {
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

// hastenCgroups moves this process to the cgroup that it is in. Before the kernel moves one
// it waits for others to see that, for some 10 ms, unless it has just moved another
// (Documentation/admin-guide/cgroup-v2.rst, "favordynmods"). The runtime moves the step's
// process: what it would wait for then goes on while it starts. It does not matter if
// this fails.
func hastenCgroups(dirs []string) {
	own := strconv.Itoa(os.Getpid())
	for _, dir := range dirs {
		path := filepath.Join(dir, "cgroup.procs")
		if procs, err := os.ReadFile(path); err == nil && slices.Contains(strings.Fields(string(procs)), own) {
			_ = os.WriteFile(path, []byte(own), 0)
			return
		}
	}
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

// isolateMounts gives this thread a mount namespace: what happens here is not seen
// outside, /proc shows this pid namespace, and of what is mounted in tmp, other steps'
// rootfs, only what a path in keep is on or above stays: the rest may have to be
// unmounted meanwhile.
func isolateMounts(tmp string, keep []string) error {
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("make a mount namespace: %w", err)
	}
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
