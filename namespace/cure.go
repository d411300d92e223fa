package namespace

import (
	"errors"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// Switches of the kernel that forbid user namespaces, the value that does, and
// what to do about it.
var switches = []struct{ file, forbids, cure string }{
	{"/proc/sys/user/max_user_namespaces", "0", "`sudo sysctl user.max_user_namespaces=10000`"},
	{"/proc/sys/kernel/unprivileged_userns_clone", "0", "`sudo sysctl kernel.unprivileged_userns_clone=1`"},
	{"/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1", "`sudo sysctl kernel.apparmor_restrict_unprivileged_userns=0`, or an AppArmor profile for layerbuild that has `userns,`"},
}

// cure says what to do about an error of making a user namespace.
func cure(err error) string {
	for _, s := range switches {
		if value, err := os.ReadFile(s.file); err == nil && strings.TrimSpace(string(value)) == s.forbids {
			return ": " + strings.TrimPrefix(s.file, "/proc/sys/") + " is " + s.forbids + ": " + s.cure
		}
	}
	switch {
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EUSERS):
		return ": there are too many, or they are nested too deep: `sudo sysctl user.max_user_namespaces=10000`"
	case errors.Is(err, unix.EPERM) && filtered():
		return ": a seccomp filter forbids it, as of a container: start that with `--security-opt seccomp=unconfined`, or with a profile that allows clone, unshare and mount"
	case errors.Is(err, unix.EPERM) && countIDs() == 0:
		return ": this user has no id in the user namespace that it was started in: map one"
	case errors.Is(err, unix.EPERM):
		return ": the kernel forbids it here, as in a chroot: run as root"
	case errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENOSYS):
		return ": the kernel has none (CONFIG_USER_NS): run as root"
	}
	return ""
}

// filtered says whether a seccomp filter decides which system calls this process
// may use.
func filtered() bool {
	status, err := os.ReadFile("/proc/self/status")
	return err == nil && strings.Contains(string(status), "\nSeccomp:\t2\n")
}
