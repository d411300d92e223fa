package sandbox

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/moby/sys/mountinfo"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Limits are what a step may take of the machine, enforced by cgroups of either
// version. 0 is no limit but those that hold for ourselves.
type Limits struct {
	Memory int64   // bytes that are not swapped out
	PIDs   int64   // processes and threads at a time
	CPUs   float64 // processor time for time, such as 1.5
}

// controllers are the cgroup controllers that the limits need, by the limit's name.
func (l Limits) controllers() map[string]string {
	needed := map[string]string{}
	if l.Memory > 0 {
		needed["memory"] = "memory"
	}
	if l.PIDs > 0 {
		needed["number of processes"] = "pids"
	}
	if l.CPUs > 0 {
		needed["processor time"] = "cpu"
	}
	return needed
}

// Check fails when something of l cannot be enforced for steps of this process.
func (l Limits) Check() error {
	needed := l.controllers()
	if len(needed) == 0 {
		return nil
	}
	mounts, err := cgroupMounts()
	if err != nil {
		return err
	}
	own, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return err
	}
	var errs []error
	for name, controller := range needed {
		if err := canLimit(controller, mounts, string(own)); err != nil {
			errs = append(errs, fmt.Errorf("the %s of a run cannot be limited here: %w", name, err))
		}
	}
	slices.SortFunc(errs, func(a, b error) int { return cmp.Compare(a.Error(), b.Error()) })
	return errors.Join(errs...)
}

// canLimit tells whether a cgroup with a controller can be made where runtimes make
// them: below our own cgroup in a hierarchy of version 1, beside it in version 2
// (cgroups(7), "no internal processes").
func canLimit(controller string, mounts []*mountinfo.Info, own string) error {
	for _, m := range mounts {
		dir := m.Mountpoint
		switch place := cgroupOf(own, controller); {
		case m.FSType == "cgroup2":
			beside := filepath.Join(dir, filepath.Dir(cgroupOf(own, "")))
			there, err := os.ReadFile(filepath.Join(beside, "cgroup.controllers"))
			if err != nil || !slices.Contains(strings.Fields(string(there)), controller) {
				continue
			}
			dir = beside
		case !slices.Contains(strings.Split(m.VFSOptions, ","), controller):
			continue
		default:
			if _, err := os.Stat(filepath.Join(dir, place)); err == nil { // not in a container without a cgroup namespace
				dir = filepath.Join(dir, place)
			}
		}
		if err := unix.Access(dir, unix.W_OK); err != nil {
			return fmt.Errorf("no cgroup can be made in %s: %w: run as root, or have the cgroup delegated (systemd's Delegate=yes)", dir, err)
		}
		return nil
	}
	return fmt.Errorf("no cgroup hierarchy has the controller %s", controller)
}

// cgroupOf finds a process's cgroup in its /proc/PID/cgroup: that with a controller, or
// with "" that of version 2.
func cgroupOf(text, controller string) string {
	for line := range strings.Lines(text) {
		if fields := strings.SplitN(strings.TrimSpace(line), ":", 3); len(fields) == 3 && slices.Contains(strings.Split(fields[1], ","), controller) {
			return fields[2]
		}
	}
	return "/"
}

// limit puts l into a container's resources.
func (l Limits) limit(r *specs.LinuxResources) {
	if l.Memory > 0 {
		r.Memory = &specs.LinuxMemory{Limit: &l.Memory}
	}
	if l.PIDs > 0 {
		r.Pids = &specs.LinuxPids{Limit: l.PIDs}
	}
	if l.CPUs > 0 {
		period := uint64(100_000) // microseconds, the kernel's default
		quota := int64(l.CPUs * float64(period))
		r.CPU = &specs.LinuxCPU{Period: &period, Quota: &quota}
	}
}

// outOfMemory tells whether the kernel has killed a process of the container since it
// had no memory left.
func (b *bundle) outOfMemory() bool {
	dirs, _ := cgroupParents() // without them no limit could be set
	for _, dir := range dirs {
		for _, file := range []string{"memory.events", "memory.oom_control"} { // of versions 2 and 1
			text, _ := os.ReadFile(filepath.Join(dir, b.id, file))
			for line := range strings.Lines(string(text)) {
				if count, ok := strings.CutPrefix(line, "oom_kill "); ok && strings.TrimSpace(count) != "0" {
					return true
				}
			}
		}
	}
	return false
}
