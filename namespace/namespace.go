// Package namespace moves the program to where it may mount, and to where it may
// read and remove files of any owner that an image can have.
//
// Root gets a mount namespace of its own, for one of its threads: see Space. A user
// gets a user namespace with one as well, in which it is root: its own id is 0 there,
// and the ids from 1 on are the subordinate ids that /etc/subuid and /etc/subgid give
// it (subuid(5)). A file that is 1:1 inside is 100000:100000 outside, say, and comes
// out as 1:1 where it is packed. Root in a container that was not given CAP_SYS_ADMIN
// gets one too, with the ids it has.
//
// # Lives
//
// A Go program has many threads from the start, and the kernel moves a program
// into a user namespace only while it has one. So a user's program is started anew,
// with the same arguments, and does again what it did before it called Enter:
//
//	first life   calls Enter, and execs itself, as root into its last life already
//	warden       the same process: makes the namespace and a child in it, lets
//	             newuidmap(1) and newgidmap(1) map the ids, passes signals on,
//	             and ends with the status of the child
//	last life    the child: Enter returns nil
//
// Standard input, outputs and terminal are the same throughout. When the warden
// is killed, the kernel kills the last life, and what is mounted ends with that.
package namespace

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// markName is the environment variable in which one life tells the next what it is.
const markName = "LAYERBUILD_NAMESPACE"

// Lives of the program but the first, which has no mark.
const (
	lifeWarden  = "warden"
	lifeWaiting = "waiting" // for the warden to have mapped the ids: the last one's beginning
	lifeLast    = "last"
	lifeFailed  = "failed" // the warden's end: the namespace cannot be made
)

// A mark is the value of markName.
type mark struct {
	Life   string
	PID    int    // of the process that it is meant for, and not for a child that inherits it
	Warden int    `json:",omitempty"` // the parent's
	Ready  int    `json:",omitempty"` // the file descriptor that a waiting one reads from
	Why    string `json:",omitempty"` // what failed; in the last life, why only one id is mapped
}

// current is the life that this process is in. It is decided before main.
var current = takeMark()

func takeMark() (m mark) {
	text, marked := os.LookupEnv(markName)
	if !marked {
		return mark{}
	}
	_ = os.Unsetenv(markName) // fails only for a name that is none
	if json.Unmarshal([]byte(text), &m) != nil {
		return mark{}
	}
	if m.PID != os.Getpid() && (m.Life != lifeWaiting || m.Warden != os.Getppid()) {
		return mark{}
	}
	return m
}

func init() {
	switch current.Life {
	case lifeWarden:
		status, err := ward()
		if err != nil {
			err = restart(mark{Life: lifeFailed, Why: err.Error()})
			fmt.Fprintf(os.Stderr, "error: %s\n", err)
			status = 1
		}
		os.Exit(status)
	case lifeWaiting:
		fmt.Fprintf(os.Stderr, "error: %s\n", current.wait())
		os.Exit(1)
	case lifeLast:
		if current.Warden != 0 && !endWith(current.Warden) {
			os.Exit(1)
		}
	}
}

// Entered says whether Enter has done its work.
func Entered() bool { return InLastLife() || entered.Load() != nil }

// InLastLife says whether the program was started anew by Enter, and has done before
// what it did until then.
func InLastLife() bool { return current.Life == lifeLast }

// Stays says whether Enter does its work without starting the program anew.
func Stays() bool { return InLastLife() || maySetUpMounts() }

// maySetUpMounts tells whether this process has CAP_SYS_ADMIN.
func maySetUpMounts() bool {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData // the version has two
	return unix.Capget(&header, &data[0]) == nil && data[0].Effective&(1<<unix.CAP_SYS_ADMIN) != 0
}

// Ready says whether this process may read and remove files of any owner: it is
// root, or Enter has done its work.
func Ready() bool { return Entered() || os.Geteuid() == 0 }

// OneID says why there is only one user and one group here; it is "" where there
// are more, or Enter has not done its work.
func OneID() string {
	switch {
	case !Entered() || countIDs() != 1:
		return ""
	case current.Why == "":
		return "the user namespace that it was started in has no more"
	}
	return current.Why
}

// Enter gives the program a mount namespace of its own, its Space, so that whatever it
// mounts is gone when it ends, however it ends, and is not seen by others meanwhile;
// and a user namespace, where that takes one. What others mount and unmount it goes on
// seeing.
//
// Unless the program Stays, Enter returns nil only in its last life. Whatever it did
// before is done again, so it is called early, and with nothing printed yet. The error
// says what to do where the kernel or its configuration does not let it.
func Enter() error {
	switch current.Life {
	case lifeLast:
		return nil
	case lifeFailed:
		return errors.New(current.Why)
	}
	err := enterThread()
	if errors.Is(err, errMayNot) {
		return restart(mark{Life: lifeWarden})
	}
	return err
}

// restart begins the next life, in this process. It returns only an error.
func restart(next mark) error {
	next.PID = os.Getpid()
	err := syscall.Exec("/proc/self/exe", os.Args, append(os.Environ(), next.String()))
	return fmt.Errorf("start anew: %w: is /proc mounted?", err)
}

// String is the mark as an environment variable.
func (m mark) String() string {
	text, _ := json.Marshal(m) // has nothing that cannot be said
	return markName + "=" + string(text)
}
