package sandbox

import (
	"cmp"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/moby/profiles/seccomp"
	"github.com/moby/sys/mountinfo"
	"github.com/moby/sys/user"
	"github.com/moby/sys/userns"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// specVersion is one that old runtimes take too: Debian's crun 1.8.1 refuses 1.3.0.
const specVersion = "1.0.2"

// orders are what a supervisor needs to know to run s, whose container b is of.
func (s Step) orders(b *bundle, mounts []Mount) (o orders, err error) {
	o.Do, o.Keep = runStep, []string{s.Rootfs}
	if s.Terminal {
		o.Do = runTerminal
	}
	for _, m := range mounts {
		o.Keep = append(o.Keep, m.Source)
	}
	for _, f := range s.Files {
		o.Files = append(o.Files, f.Content)
	}
	config, err := s.config(b, mounts)
	if err != nil {
		return o, err
	}
	if o.NoCgroup = config.Linux.CgroupsPath == ""; !o.NoCgroup {
		o.Cgroups, _ = cgroupParents()
	}
	o.Config, err = json.Marshal(config)
	return o, err
}

func (s Step) config(b *bundle, mounts []Mount) (*specs.Spec, error) {
	limits, err := rlimits()
	if err != nil {
		return nil, err
	}
	kernel, hidden, err := kernelMounts(s.Network)
	if err != nil {
		return nil, err
	}
	umask := uint32(0o022)
	spec := &specs.Spec{
		Version:  specVersion,
		Root:     &specs.Root{Path: s.Rootfs},
		Hostname: cmp.Or(s.Hostname, DefaultHostname),
		Process: &specs.Process{
			Terminal:        s.Terminal,
			User:            specs.User{Umask: &umask, UID: s.User.UID, GID: s.User.GID, AdditionalGids: s.User.Groups},
			Args:            s.Args,
			Env:             s.environment(),
			Cwd:             cmp.Or(s.Cwd, "/"),
			Capabilities:    capabilities(),
			Rlimits:         limits,
			NoNewPrivileges: true,
		},
		Mounts: kernel,
		Linux: &specs.Linux{
			// Relative, so that the limits on our own cgroup hold for the step.
			CgroupsPath:   s.cgroupsPath(b.id),
			Resources:     &specs.LinuxResources{Devices: []specs.LinuxDeviceCgroup{{Allow: false, Access: "rwm"}}},
			Namespaces:    namespaces(s.Network),
			MaskedPaths:   append(maskedPaths(), hidden...),
			ReadonlyPaths: []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"},
		},
	}
	s.Limits.limit(spec.Linux.Resources)
	for _, m := range mounts {
		bind, err := m.spec()
		if err != nil {
			return nil, err
		}
		spec.Mounts = append(spec.Mounts, bind)
	}
	for _, dir := range s.Tmpfs {
		spec.Mounts = append(spec.Mounts, specs.Mount{Destination: dir, Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "nodev", "mode=1777"}})
	}
	for n, f := range s.Files {
		spec.Mounts = append(spec.Mounts, specs.Mount{
			Destination: f.Dest, Type: "bind", Source: b.file(n), Options: []string{"bind", "rprivate", "ro"},
		})
	}
	spec.Linux.Seccomp, err = seccompProfile()
	return spec, err
}

// seccompProfile is that of the container engines, for the capabilities of steps.
var seccompProfile = sync.OnceValues(func() (*specs.LinuxSeccomp, error) {
	profile, err := seccomp.GetDefaultProfile(&specs.Spec{Process: &specs.Process{Capabilities: capabilities()}})
	if err != nil {
		return nil, fmt.Errorf("seccomp profile: %w", err)
	}
	return profile, nil
})

// cgroupsPath is that of a container. In a user namespace there is none, unless it is
// needed for limits: we may have no right to make a cgroup, which a runtime takes only
// where it is not told a name. The limits on our own hold there too.
func (s Step) cgroupsPath(id string) string {
	if userns.RunningInUserNS() && s.Limits == (Limits{}) {
		return ""
	}
	return id
}

// environment is s.Env with what a runtime or a shell would otherwise make up, each
// its own.
func (s Step) environment() []string {
	defaults := []string{"PATH=" + DefaultPath, "HOME=" + DefaultHome}
	if s.Terminal {
		defaults = append(defaults, "TERM=xterm")
	}
	env := slices.Clone(s.Env)
	for _, d := range defaults {
		name := d[:strings.IndexByte(d, '=')+1]
		if !slices.ContainsFunc(env, func(e string) bool { return strings.HasPrefix(e, name) }) {
			env = append(env, d)
		}
	}
	return env
}

// capabilities are those that docker and podman give.
func capabilities() *specs.LinuxCapabilities {
	caps := []string{
		"CAP_AUDIT_WRITE", "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_MKNOD",
		"CAP_NET_BIND_SERVICE", "CAP_NET_RAW", "CAP_SETFCAP", "CAP_SETGID", "CAP_SETPCAP", "CAP_SETUID", "CAP_SYS_CHROOT",
	}
	return &specs.LinuxCapabilities{Bounding: caps, Effective: caps, Permitted: caps}
}

// rlimits sets those limits that builds notice: old programs loop over all
// possible descriptors, and a core file would become content of the image. A
// limit above our own may be refused.
func rlimits() ([]specs.POSIXRlimit, error) {
	var own unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &own); err != nil {
		return nil, err
	}
	return []specs.POSIXRlimit{
		{Type: "RLIMIT_NOFILE", Soft: min(own.Max, 1<<10), Hard: min(own.Max, 1<<20)},
		{Type: "RLIMIT_CORE", Soft: 0, Hard: 0},
	}, nil
}

func namespaces(network string) []specs.LinuxNamespace {
	ns := []specs.LinuxNamespace{
		{Type: specs.MountNamespace}, {Type: specs.PIDNamespace}, {Type: specs.IPCNamespace}, {Type: specs.UTSNamespace},
	}
	if _, err := os.Stat("/proc/self/ns/cgroup"); err == nil {
		ns = append(ns, specs.LinuxNamespace{Type: specs.CgroupNamespace})
	}
	if network == NetworkNone {
		ns = append(ns, specs.LinuxNamespace{Type: specs.NetworkNamespace})
	}
	return ns
}

// kernelMounts are the file systems that every container has, as docker mounts them.
// hidden are paths of theirs to be masked.
func kernelMounts(network string) (mounts []specs.Mount, hidden []string, err error) {
	mounts = []specs.Mount{
		{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
		{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"}},
		{Destination: "/dev/shm", Type: "tmpfs", Source: "shm", Options: []string{"nosuid", "noexec", "nodev", "mode=1777", "size=65536k"}},
		{Destination: "/dev/mqueue", Type: "mqueue", Source: "mqueue", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "noexec", "nodev", "ro"}},
	}
	if !userns.RunningInUserNS() {
		return mounts, nil, nil
	}
	for i, m := range mounts {
		switch {
		case m.Type == "devpts" && !mapped(ttyGroup):
			m.Options = slices.DeleteFunc(m.Options, func(o string) bool { return o == "gid="+strconv.Itoa(ttyGroup) })
			mounts[i] = m
		case m.Type == "sysfs" && network != NetworkNone:
			// It belongs to the network, which is not ours. The host's stands in for it,
			// without what else is mounted in there: that is bound to it, and can be
			// hidden but not left out.
			mounts[i] = specs.Mount{Destination: "/sys", Type: "bind", Source: "/sys", Options: []string{"rbind", "rprivate", "nosuid", "noexec", "nodev", "ro", "rro"}}
			if hidden, err = mountedIn("/sys"); err != nil {
				return nil, nil, err
			}
		}
	}
	return mounts, hidden, nil
}

// ttyGroup is the group of terminals, tty, on all distributions.
const ttyGroup = 5

// mapped tells whether a group is one in this user namespace.
func mapped(gid int64) bool {
	maps, err := user.ParseIDMapFile("/proc/self/gid_map")
	return err == nil && slices.ContainsFunc(maps, func(m user.IDMap) bool { return m.ID <= gid && gid < m.ID+m.Count })
}

// mountedIn lists the folders below dir, the highest, that something is mounted on.
func mountedIn(dir string) (points []string, err error) {
	mounts, err := mountinfo.GetMounts(mountinfo.PrefixFilter(dir))
	if err != nil {
		return nil, err
	}
	for _, m := range mounts {
		if m.Mountpoint != dir && !slices.ContainsFunc(points, func(p string) bool { return within(m.Mountpoint, p) }) {
			points = append(points, m.Mountpoint)
		}
	}
	return points, nil
}

func maskedPaths() []string {
	return []string{
		"/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/sched_debug",
		"/proc/scsi", "/proc/timer_list", "/proc/timer_stats", "/sys/devices/virtual/powercap", "/sys/firmware",
	}
}

// lockedOptions are those of the mount that a path is on which may not be taken
// away in a user namespace, as a runtime would that changes others.
func lockedOptions(path string) (options []string) {
	var st unix.Statfs_t
	if !userns.RunningInUserNS() || unix.Statfs(path, &st) != nil {
		return nil
	}
	for _, o := range []struct {
		flag int64
		name string
	}{
		{unix.ST_NOSUID, "nosuid"}, {unix.ST_NODEV, "nodev"}, {unix.ST_NOEXEC, "noexec"},
		{unix.ST_NOATIME, "noatime"}, {unix.ST_NODIRATIME, "nodiratime"}, {unix.ST_RELATIME, "relatime"},
	} {
		if st.Flags&o.flag != 0 {
			options = append(options, o.name)
		}
	}
	return options
}

func (m Mount) spec() (specs.Mount, error) {
	fi, err := os.Stat(m.Source)
	if err != nil {
		return specs.Mount{}, fmt.Errorf("mount %s: %w", m.Dest, err)
	}
	options := append([]string{"rbind", "rprivate"}, lockedOptions(m.Source)...)
	if m.ReadOnly {
		options = append(options, "ro")
	}
	if m.ReadOnly && fi.IsDir() {
		// ro alone leaves what is mounted below writable. crun 1.8.1 fails on rro for a file.
		options = append(options, "rro")
	}
	return specs.Mount{Destination: m.Dest, Type: "bind", Source: m.Source, Options: options}, nil
}
