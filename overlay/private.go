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

// havePrivate is decided when the program starts.
var havePrivate = takeMark()

// takeMark says whether this is the second life, and removes the mark.
func takeMark() bool {
	pid, marked := os.LookupEnv(privateMark)
	if marked {
		_ = os.Unsetenv(privateMark) // fails only for a name that is none
	}
	return marked && pid == strconv.Itoa(os.Getpid())
}

// HavePrivateMounts says whether PrivateMounts has done its work.
func HavePrivateMounts() bool { return havePrivate }

// PrivateMounts moves the program into a mount namespace of its own, so that
// whatever it mounts is gone when it ends, however it ends, and is not seen by
// others meanwhile. What others mount and unmount it goes on seeing.
//
// A Go program cannot move all its threads. So it is started anew, in the same
// process and with the same arguments; only in that second life PrivateMounts
// returns nil. Whatever the program did before is done again, so it is called
// early. It needs root.
func PrivateMounts() error {
	if havePrivate {
		return nil
	}
	// exec is called on this thread, and what it starts takes on the namespace
	// of this thread. It is not unlocked: if exec fails, the thread must not
	// run anything else.
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("make a mount namespace: %w: that takes root with CAP_SYS_ADMIN", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, ""); err != nil {
		return fmt.Errorf("keep mounts from others: %w", err)
	}
	mark := privateMark + "=" + strconv.Itoa(os.Getpid())
	err := syscall.Exec("/proc/self/exe", os.Args, append(os.Environ(), mark))
	return fmt.Errorf("start anew in a mount namespace: %w: is /proc mounted?", err)
}
