package overlay

import (
	"fmt"
	"os"
	"runtime"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// privateMark is the environment variable that a program has in its second life.
// Its value is the process id, which exec keeps, so that it means nothing to a
// child that inherits it.
const privateMark = "LAYERBUILD_PRIVATE_MOUNTS"

// PrivateMounts moves the program into a mount namespace of its own, so that
// whatever it mounts is gone when it ends, however it ends, and is not seen by
// others meanwhile. What others mount and unmount it goes on seeing.
//
// A Go program cannot move all its threads. So it is started anew, in the same
// process and with the same arguments, and PrivateMounts returns in that second
// life only. What the first life did it does again, so it should be little.
// Without root it does nothing.
func PrivateMounts() error {
	if HavePrivateMounts() {
		return nil
	}
	if os.Geteuid() != 0 {
		return nil
	}
	// exec is called on this thread, and what it starts takes on the namespace
	// of this thread. It is not unlocked: if exec fails, the thread must not
	// run anything else.
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("make a mount namespace: %w: root needs CAP_SYS_ADMIN for it", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, ""); err != nil {
		return fmt.Errorf("keep mounts from others: %w", err)
	}
	if err := os.Setenv(privateMark, strconv.Itoa(os.Getpid())); err != nil {
		return err
	}
	err := syscall.Exec("/proc/self/exe", os.Args, os.Environ())
	return fmt.Errorf("start anew in a mount namespace: %w: is /proc mounted?", err)
}

// HavePrivateMounts tells whether the program is in its second life, and takes
// the mark of that out of the environment: the next call is of no use.
func HavePrivateMounts() bool {
	return os.Getenv(privateMark) == strconv.Itoa(os.Getpid()) && os.Unsetenv(privateMark) == nil
}
