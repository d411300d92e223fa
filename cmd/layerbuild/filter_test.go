package main

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// filtered is the command `filtered CALL,... COMMAND ...` of scripts: it runs a
// command with a seccomp filter that forbids these system calls, as those of
// containers do. Of clone it forbids that which makes a user namespace.
func filtered() {
	calls := map[string]uint32{
		"unshare": unix.SYS_UNSHARE, "mount": unix.SYS_MOUNT, "fsopen": unix.SYS_FSOPEN,
		"sethostname": unix.SYS_SETHOSTNAME,
	}
	load := func(offset uint32) unix.SockFilter { // of struct seccomp_data
		return unix.SockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: offset}
	}
	forbid := unix.SockFilter{Code: unix.BPF_RET, K: unix.SECCOMP_RET_ERRNO | uint32(unix.EPERM)}
	filter := []unix.SockFilter{load(0)}
	for name := range strings.SplitSeq(os.Args[1], ",") {
		if number, ok := calls[name]; ok {
			filter = append(filter, unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ, K: number, Jf: 1}, forbid)
			continue
		}
		filter = append(filter, unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ, K: unix.SYS_CLONE, Jf: 3},
			load(16), unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JSET, K: unix.CLONE_NEWUSER, Jf: 1}, forbid, load(0))
	}
	filter = append(filter, unix.SockFilter{Code: unix.BPF_RET, K: unix.SECCOMP_RET_ALLOW})
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	runtime.LockOSThread() // exec keeps the filter of this thread
	err := unix.Prctl(unix.PR_SET_SECCOMP, unix.SECCOMP_MODE_FILTER, uintptr(unsafe.Pointer(&program)), 0, 0)
	var path string
	if err == nil {
		path, err = exec.LookPath(os.Args[2])
	}
	if err == nil {
		err = syscall.Exec(path, os.Args[2:], os.Environ())
	}
	fmt.Fprintln(os.Stderr, "filtered:", err)
	os.Exit(125)
}
