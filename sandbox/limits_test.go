package sandbox

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/moby/sys/mountinfo"
)

func TestLimits(t *testing.T) {
	r, root := find(t), rootfs(t)
	all := Limits{Memory: 64 << 20, PIDs: 8, CPUs: 0.5}
	if err := all.Check(); err != nil {
		t.Skip(err)
	}
	for _, c := range []struct {
		name, script string
		limits       Limits
		status       int
		memory       bool
		says         string
	}{
		{"within all", "true", all, 0, false, ""},
		{"memory", "exec head -c 200m /dev/zero | tail", Limits{Memory: 64 << 20}, 137, true, ""},
		{"memory of a child", "head -c 200m /dev/zero | tail; exit 3", Limits{Memory: 64 << 20}, 3, true, ""},
		{"memory, and another failure", "exit 4", Limits{Memory: 64 << 20}, 4, false, ""},
		{"processes", "for i in 1 2 3 4 5 6 7 8 9; do sleep 5 & done", Limits{PIDs: 8}, 2, false, "can't fork"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var out bytes.Buffer
			err := r.Run(t.Context(), Step{Rootfs: root, Args: sh(c.script), Limits: c.limits, Stdout: &out, Stderr: &out})
			exit := &ExitError{}
			if errors.As(err, &exit) != (c.status != 0) || exit.Status != c.status || exit.OutOfMemory != c.memory || !strings.Contains(out.String(), c.says) {
				t.Errorf("%v, out of memory: %t\n%s", err, exit.OutOfMemory, &out)
			}
			clean(t, r)
		})
	}
}

// How much processor time a step may take is in its cgroup while it runs.
func TestLimitCPUs(t *testing.T) {
	r, root := find(t), rootfs(t)
	limits := Limits{CPUs: 0.5}
	if err := limits.Check(); err != nil {
		t.Skip(err)
	}
	var got string
	s := Step{Rootfs: root, Args: sh("echo started; sleep 0.2"), Limits: limits}
	s.Stdout = writer(func(p []byte) (int, error) {
		for _, dir := range cgroupsOf(t, r) {
			for _, file := range []string{"cpu.cfs_quota_us", "cpu.cfs_period_us", "cpu.max"} {
				text, _ := os.ReadFile(filepath.Join(dir, file))
				got += strings.TrimSpace(string(text)) + " "
			}
		}
		return len(p), nil
	})
	if err := r.Run(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	if strings.Join(strings.Fields(got), " ") != "50000 100000" {
		t.Errorf("got %q", got)
	}
}

// Where a limit would do nothing, that is said.
func TestCanLimit(t *testing.T) {
	dir := t.TempDir()
	for _, sub := range []string{"memory/ours", "both/user.slice/ours", "bare"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	write(t, dir+"/both/user.slice/cgroup.controllers", "cpu memory pids\n", 0o644)
	write(t, dir+"/bare/cgroup.controllers", "\n", 0o644)
	one := func(at, options string) *mountinfo.Info {
		return &mountinfo.Info{Mountpoint: dir + "/" + at, FSType: "cgroup", VFSOptions: options}
	}
	two := func(at string) *mountinfo.Info { return &mountinfo.Info{Mountpoint: dir + "/" + at, FSType: "cgroup2"} }
	for _, c := range []struct {
		name, own string
		mounts    []*mountinfo.Info
		want      string
	}{
		{"version 1", "4:memory:/ours\n0::/\n", []*mountinfo.Info{one("memory", "rw,memory")}, ""},
		{"version 1 in a container", "4:memory:/not/there\n", []*mountinfo.Info{one("memory", "rw,memory")}, ""},
		{"version 1, another controller", "4:memory:/ours\n", []*mountinfo.Info{one("memory", "rw,cpu")}, "no cgroup hierarchy has the controller memory"},
		{"version 2", "0::/user.slice/ours\n", []*mountinfo.Info{two("both")}, ""},
		{"hybrid", "4:memory:/ours\n0::/\n", []*mountinfo.Info{two("bare"), one("memory", "rw,memory")}, ""},
		{"version 2 without controllers", "0::/ours\n", []*mountinfo.Info{two("bare")}, "no cgroup hierarchy has the controller memory"},
		{"no cgroups", "", nil, "no cgroup hierarchy has the controller memory"},
	} {
		got := ""
		if err := canLimit("memory", c.mounts, c.own); err != nil {
			got = err.Error()
		}
		if got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}
