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

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// A runtime runs as the first process of a pid namespace of its own, and is sent
// SIGKILL by the kernel when we end. When the first process of a pid namespace
// ends, the kernel kills all others in it and in those nested in it, the step's
// among them, and reports the end only when they are gone. So killing one
// process, or being killed, ends everything, whatever state the runtime is in.
//
// The runtime must see its own processes in /proc, which needs a mount namespace
// and a new /proc before the runtime starts. This program does it itself, started
// again under the name supervisor, before any of its other work begins.
const supervisor = "layerbuild-sandbox"

// supervised returns the command that runs the runtime at path on b, with args
// after the options that say where b is. Of what is mounted in the folder that b is
// in, other steps' rootfs, it keeps only what a path in keep is on or above: the
// rest may have to be unmounted while the step runs.
func supervised(ctx context.Context, b *bundle, keep []string, path string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "/proc/self/exe")
	cmd.Args = append([]string{supervisor, b.log(), filepath.Dir(b.dir), strconv.Itoa(len(keep))}, keep...)
	cmd.Args = append(cmd.Args, path, "--root", b.state(), "--log", b.log(), "--log-format", "json")
	cmd.Args = append(cmd.Args, args...)
	// Nothing of ours: a runtime passes on sockets it is told of in LISTEN_FDS and
	// NOTIFY_SOCKET.
	cmd.Env = []string{"PATH=" + DefaultPath}
	cmd.Dir = "/"
	cmd.SysProcAttr = &unix.SysProcAttr{
		Cloneflags: unix.CLONE_NEWPID | unix.CLONE_NEWNS,
		Pdeathsig:  unix.SIGKILL,
		Setsid:     true, // no terminal, and no signals of ours from one
	}
	return cmd
}

// init turns the process that supervised has started into the runtime. It runs in
// init so that it works in every program that this package is part of, and on the
// process's first thread, the only one whose PR_SET_PDEATHSIG survives.
func init() {
	if len(os.Args) < 5 || os.Args[0] != supervisor {
		return
	}
	err := supervise(os.Args[2:])
	line, _ := json.Marshal(logLine{Level: "error", Msg: err.Error()})
	os.WriteFile(os.Args[1], append(line, '\n'), 0o600)
	os.Exit(125)
}

// supervise returns only when it fails.
func supervise(args []string) error {
	n, err := strconv.Atoi(args[1])
	if err != nil || n < 0 || len(args) < n+3 {
		return errors.New("bad arguments")
	}
	tmp, keep, argv := args[0], args[2:n+2], args[n+2:]
	// After the fork the death of our parent kills us, before it went unseen.
	alive := []unix.PollFd{{Fd: 3, Events: unix.POLLIN}}
	if err := unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0, 0, 0); err != nil {
		return err
	}
	if _, err := unix.Poll(alive, 0); err != nil || alive[0].Revents != 0 {
		return errors.New("the build has ended")
	}
	if err := isolateMounts(tmp, keep); err != nil {
		return err
	}
	if err := unix.CloseRange(3, ^uint(0)>>1, unix.CLOSE_RANGE_CLOEXEC); err != nil && err != unix.ENOSYS {
		return fmt.Errorf("close_range: %w", err)
	}
	// What nohup or a background job ignores would stay ignored; what is caught is
	// reset by exec.
	signal.Notify(make(chan os.Signal, 1), unix.SIGHUP, unix.SIGINT)
	unix.Umask(0o022)
	return fmt.Errorf("exec %s: %w", argv[0], unix.Exec(argv[0], argv, os.Environ()))
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
