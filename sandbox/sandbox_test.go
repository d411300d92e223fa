package sandbox

import (
	"bufio"
	"bytes"
	"context"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// TestMain is also the process that a test kills, see TestKilledCaller, and the
// step of TestSystemCalls.
func TestMain(m *testing.M) {
	if os.Getenv("SANDBOX_TEST_CALLS") != "" {
		systemCalls()
	}
	if rootfs := os.Getenv("SANDBOX_TEST_ROOTFS"); rootfs != "" {
		r, err := Find(context.Background(), "", os.Getenv("SANDBOX_TEST_TMP"))
		if err == nil {
			s := Step{Rootfs: rootfs, Args: sh("sleep 1000 & echo started; wait"), Stdout: os.Stdout, Stderr: os.Stderr}
			err = r.Run(context.Background(), s)
		}
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

func sh(script string) []string { return []string{"/bin/sh", "-c", script} }

func needRoot(t testing.TB) {
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
}

func find(t testing.TB) *Runtime {
	needRoot(t)
	r, err := Find(t.Context(), "", t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// rootfs makes a root filesystem with busybox, and mountpoints for what is asked.
func rootfs(t testing.TB, points ...string) string {
	root := t.TempDir()
	for _, dir := range append([]string{"/bin", "/proc", "/dev", "/sys", "/etc", "/tmp"}, points...) {
		if err := os.MkdirAll(root+dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	busybox, err := os.ReadFile("/bin/busybox")
	if err != nil {
		t.Fatalf("%v: apt-get install busybox-static", err)
	}
	write(t, root+"/bin/busybox", string(busybox), 0o755)
	write(t, root+"/etc/resolv.conf", "", 0o644)
	out, err := exec.Command("/bin/busybox", "--list").Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, applet := range strings.Fields(string(out)) {
		if applet == "busybox" {
			continue
		}
		if err := os.Symlink("busybox", root+"/bin/"+applet); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func write(t testing.TB, path, text string, mode fs.FileMode) {
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
}

// output runs s, which must succeed, and returns what it wrote to stdout.
func output(t *testing.T, r *Runtime, s Step) string {
	t.Helper()
	var out, errs bytes.Buffer
	s.Stdout, s.Stderr = &out, &errs
	if err := r.Run(t.Context(), s); err != nil {
		t.Fatalf("%v\n%s%s", err, &out, &errs)
	}
	clean(t, r)
	return out.String()
}

// clean checks that no file and no process of a container is left.
func clean(t *testing.T, r *Runtime) {
	t.Helper()
	r.leaving.Wait()
	left, _ := filepath.Glob(filepath.Join(r.tmp, "*"))
	if len(left) > 0 {
		t.Errorf("left in tmp: %v", left)
	}
	for _, p := range processes(t, r.tmp) {
		t.Errorf("left: process %s", p)
	}
}

// processes lists those whose command line names tmp.
func processes(t *testing.T, tmp string) []string {
	t.Helper()
	var found []string
	files, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, f := range files {
		if data, _ := os.ReadFile(f); bytes.Contains(data, []byte(tmp)) {
			found = append(found, filepath.Base(filepath.Dir(f)))
		}
	}
	return found
}

func TestFind(t *testing.T) {
	r := find(t)
	t.Logf("%s %s at %s; passed over: %q", r.Name, r.Version, r.Path, r.PassedOver)
	if !filepath.IsAbs(r.Path) || r.Version == "" {
		t.Errorf("%+v", r)
	}
	clean(t, r)
	for _, name := range []string{r.Name, r.Path} {
		if again, err := Find(t.Context(), name, r.tmp); err != nil || again.Path != r.Path {
			t.Errorf("Find(%q) = %+v, %v", name, again, err)
		}
	}
}

func TestFindFails(t *testing.T) {
	needRoot(t)
	broken := filepath.Join(t.TempDir(), "broken")
	write(t, broken, "#!/bin/sh\n[ \"$1\" = --version ] && echo broken version 7 && exit\n"+
		`while [ "$1" != --log ]; do shift; done; printf '%s\n' '{"level":"error","msg":"no  luck\ntoday"}' >$2; exit 1`, 0o755)
	for name, want := range map[string]string{
		"no-such-runtime": "no OCI runtime starts a container here (no-such-runtime: not installed)",
		broken:            "broken 7: broken: no luck today",
		"/etc/passwd":     "/etc/passwd: ",
	} {
		tmp := t.TempDir()
		_, err := Find(t.Context(), name, tmp)
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("Find(%q): %v\nwant %q", name, err, want)
		}
		if left, _ := os.ReadDir(tmp); len(left) > 0 {
			t.Errorf("left: %v", left)
		}
	}
}

func TestEnvironment(t *testing.T) {
	t.Setenv("SECRET_OF_THE_HOST", "x")
	t.Setenv("LISTEN_FDS", "2")
	t.Setenv("NOTIFY_SOCKET", "/run/x")
	r, root := find(t), rootfs(t)
	for _, c := range []struct{ env, want []string }{
		{nil, []string{"PATH=" + DefaultPath, "HOME=/root"}},
		{[]string{"A=b c\nd", "PATH=/bin", "E="}, []string{"A=b c\nd", "PATH=/bin", "E=", "HOME=/root"}},
	} {
		got := output(t, r, Step{Rootfs: root, Env: c.env, Args: []string{"/bin/cat", "/proc/self/environ"}})
		vars := strings.Split(strings.TrimSuffix(got, "\x00"), "\x00")
		slices.Sort(vars)
		slices.Sort(c.want)
		if !slices.Equal(vars, c.want) {
			t.Errorf("got %q\nwant %q", vars, c.want)
		}
	}
}

// What a step sees of itself and of the host.
func TestView(t *testing.T) {
	r, root := find(t), rootfs(t, "/work")
	fd, err := unix.Open("/etc/hostname", unix.O_RDONLY, 0) // inherited by what we start
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	status := `/bin/sed -n 's/^%s:[[:space:]]*//p' /proc/self/status`
	for _, c := range []struct {
		name, script, want string
		step               Step
	}{
		{"pid 1", "echo $$ /proc/[0-9]*", "1 /proc/1\n", Step{}},
		{"capabilities", fmt.Sprintf(status, "CapEff"), "00000000a80425fb\n", Step{}},
		{"bounding set", fmt.Sprintf(status, "CapBnd"), "00000000a80425fb\n", Step{}},
		{"inheritable set", fmt.Sprintf(status, "CapInh"), "0000000000000000\n", Step{}},
		{"seccomp", fmt.Sprintf(status, "Seccomp"), "2\n", Step{}},
		{"no new privileges", fmt.Sprintf(status, "NoNewPrivs"), "1\n", Step{}},
		{"ignored signals", "exec " + fmt.Sprintf(status, "SigIgn"), "0000000000000000\n", Step{}},
		{"user", "id -u; id -g; id -G; umask", "0\n0\n0\n0022\n", Step{}},
		{"folder", "pwd", "/\n", Step{}},
		{"given folder", "pwd", "/work\n", Step{Cwd: "/work"}},
		{"host name", "hostname", "layerbuild\n", Step{}},
		{"given host name", "hostname", "stacker\n", Step{Hostname: "stacker"}},
		{"descriptors", "exec ls /proc/self/fd", "0\n1\n2\n3\n", Step{}}, // 3 is ls reading the folder
		{"stdin", "cat; readlink /proc/self/fd/0", "/dev/null\n", Step{}},
		{"no terminal", "(: </dev/tty) 2>/dev/null || echo none", "none\n", Step{}},
		{"cgroup", "sed -n 's/^0:://p' /proc/self/cgroup", "/\n", Step{}},
		{"limits", "ulimit -n; ulimit -c", "1024\n0\n", Step{}},
		{"user namespace refused", "unshare -U true 2>/dev/null || echo refused", "refused\n", Step{}},
		{"mount refused", "mount -t tmpfs x /tmp 2>/dev/null || echo refused", "refused\n", Step{}},
		{"masked paths", "cat /proc/timer_list /proc/interrupts /proc/keys; ls /sys/firmware", "", Step{}},
		{"kernel settings", "(echo 1 >/proc/sys/vm/drop_caches) 2>/dev/null || echo refused", "refused\n", Step{}},
		{"sysfs", "(mkdir /sys/x) 2>/dev/null || echo refused", "refused\n", Step{}},
		{"devices", "cd /dev; ls -d full null ptmx random stderr tty urandom zero shm mqueue pts | wc -l", "11\n", Step{}},
		{"shm", "echo x >/dev/shm/x; cat /dev/shm/x", "x\n", Step{}},
		{"device nodes can be made, not used", "mknod /tmp/sd b 8 0 && (cat /tmp/sd) 2>&1; rm /tmp/sd",
			"cat: can't open '/tmp/sd': Operation not permitted\n", Step{}},
		{"network none", "ls /sys/class/net; tail -n +2 /proc/net/route", "lo\n", Step{Network: NetworkNone}},
		{"network none, no resolv.conf", "wc -c </etc/resolv.conf", "0\n", Step{Network: NetworkNone}},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.step.Rootfs, c.step.Args = root, sh(c.script)
			if got := output(t, r, c.step); got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

// systemCalls tries calls that need no capability, so that only seccomp refuses them.
func systemCalls() {
	for _, c := range []struct {
		name          string
		number, first uintptr
	}{
		{"keyctl", unix.SYS_KEYCTL, unix.KEYCTL_GET_KEYRING_ID},
		{"add_key", unix.SYS_ADD_KEY, 0},
		{"request_key", unix.SYS_REQUEST_KEY, 0},
		{"unshare", unix.SYS_UNSHARE, unix.CLONE_NEWUSER},
		{"io_uring_setup", unix.SYS_IO_URING_SETUP, 1},
		{"bpf", unix.SYS_BPF, 0},
		{"open_by_handle_at", unix.SYS_OPEN_BY_HANDLE_AT, 0},
		{"getpid", unix.SYS_GETPID, 0},
	} {
		_, _, errno := unix.RawSyscall(c.number, c.first, 0, 0)
		fmt.Printf("%s %d\n", c.name, errno)
	}
	os.Exit(0)
}

func TestSystemCalls(t *testing.T) {
	r, root := find(t), rootfs(t)
	write(t, root+"/probe", "", 0o755)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	s := Step{Rootfs: root, Args: []string{"/probe"}, Env: []string{"SANDBOX_TEST_CALLS=1"}, Mounts: []Mount{{self, "/probe", true}}}
	if err := s.checkCommand(s.Mounts, "/probe", 0); err != nil {
		t.Skip("this test is no static program: ", err)
	}
	want := "keyctl 1\nadd_key 1\nrequest_key 1\nunshare 1\nio_uring_setup 1\nbpf 1\nopen_by_handle_at 1\ngetpid 0\n"
	if got := output(t, r, s); got != want {
		t.Errorf("got %q", got)
	}
}

func TestManySteps(t *testing.T) {
	r, root := find(t), rootfs(t)
	var g errgroup.Group
	for i := range 6 {
		g.Go(func() error {
			var out bytes.Buffer
			if err := r.Run(t.Context(), Step{Rootfs: root, Args: sh("echo $N"), Env: []string{"N=" + strconv.Itoa(i)}, Stdout: &out}); err != nil {
				return err
			}
			if out.String() != strconv.Itoa(i)+"\n" {
				return fmt.Errorf("step %d: %q", i, &out)
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		t.Error(err)
	}
	clean(t, r)
}

func TestHostNetwork(t *testing.T) {
	r, root := find(t), rootfs(t)
	want, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	conf, err := os.ReadFile("/etc/resolv.conf")
	if err != nil {
		t.Skip("this host has no /etc/resolv.conf")
	}
	got := output(t, r, Step{Rootfs: root, Args: sh("readlink /proc/self/ns/net; cat /etc/resolv.conf")})
	if got != want+"\n"+string(conf) {
		t.Errorf("got %q", got)
	}
	if data, _ := os.ReadFile(root + "/etc/resolv.conf"); len(data) > 0 {
		t.Errorf("the rootfs was changed: %q", data)
	}
}

func TestMounts(t *testing.T) {
	r, root := find(t), rootfs(t, "/in/put", "/out")
	write(t, root+"/script", "", 0o644)
	in, out := t.TempDir(), t.TempDir()
	write(t, in+"/a", "a\n", 0o644)
	if err := os.Mkdir(in+"/sub", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("sub", in+"/sub", "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	defer unix.Unmount(in+"/sub", unix.MNT_DETACH)
	script := filepath.Join(t.TempDir(), "run.sh")
	write(t, script, "#!/bin/sh -e\ncat /in/put/a\ntouch /out/b\nfor f in /in/put/a /in/put/new /in/put/sub/new /script\n"+
		"do (echo x >$f) 2>/dev/null || echo refused $f\ndone", 0o755)
	got := output(t, r, Step{Rootfs: root, Args: []string{"/script"}, Mounts: []Mount{
		{in, "/in/put/", true}, {out, "/out", false}, {script, "/script", true},
	}})
	want := "a\nrefused /in/put/a\nrefused /in/put/new\nrefused /in/put/sub/new\nrefused /script\n"
	if got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if _, err := os.Stat(out + "/b"); err != nil {
		t.Error(err)
	}
}

// Files are seen by the step only, and what it is given is never on a disk.
func TestFiles(t *testing.T) {
	r, root := find(t), rootfs(t, "/run")
	write(t, root+"/run/a", "", 0o644)
	write(t, root+"/run/b", "", 0o644)
	files := []File{{"/run/a", []byte("hush\x00\xff")}, {"/run/b", nil}}
	script := "stat -c '%a %u %g %s %F' /run/a /run/b; cat /run/a; echo $TOKEN\n" +
		"(echo x >>/run/a) 2>/dev/null || echo refused\nrm -f /run/a 2>/dev/null || echo kept\n" +
		"awk '$2 == \"/run/a\" { print $3 }' /proc/mounts"
	s := Step{Rootfs: root, Args: sh(script), Files: files, Env: []string{"TOKEN=hush"}}
	want := "400 0 0 6 regular file\n400 0 0 0 regular empty file\nhush\x00\xffhush\nrefused\nkept\ntmpfs\n"
	if got := output(t, r, s); got != want {
		t.Errorf("got %q\nwant %q", got, want)
	}
	if data, _ := os.ReadFile(root + "/run/a"); len(data) > 0 {
		t.Errorf("the rootfs was changed: %q", data)
	}
	// While it runs, its bundle shows others nothing.
	s.Args = sh("echo started; sleep 1000")
	ctx, cancel := context.WithCancel(t.Context())
	s.Stdout = writer(func(p []byte) (int, error) {
		defer cancel()
		err := filepath.WalkDir(r.tmp, func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			if data, _ := os.ReadFile(path); bytes.Contains(data, []byte("hush")) {
				t.Errorf("%s holds the secret", path)
			}
			return nil
		})
		return len(p), err
	})
	if err := r.Run(ctx, s); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	clean(t, r)
}

type writer func([]byte) (int, error)

func (w writer) Write(p []byte) (int, error) { return w(p) }

func TestMountpoints(t *testing.T) {
	dir, file := t.TempDir(), filepath.Join(t.TempDir(), "f")
	write(t, file, "", 0o644)
	got, err := Step{Network: NetworkNone, Mounts: []Mount{
		{dir, "/stacker/imports", true}, {file, "/stacker/imports/f", true}, {file, "/stacker/importsx", true},
	}}.Mountpoints()
	want := []Mountpoint{{"/proc", true}, {"/dev", true}, {"/sys", true}, {"/stacker/imports", true}, {"/stacker/importsx", false}}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("got %v, %v\nwant %v", got, err, want)
	}
}

func TestExit(t *testing.T) {
	r, root := find(t), rootfs(t)
	for script, want := range map[string]ExitError{
		"exit 1":                         {Status: 1},
		"exit 125":                       {Status: 125},
		"exit 255":                       {Status: 255},
		"sh -c 'kill -SEGV $$'; exit $?": {Status: 139, Signal: syscall.SIGSEGV},
	} {
		var got *ExitError
		if err := r.Run(t.Context(), Step{Rootfs: root, Args: sh(script)}); !errors.As(err, &got) || *got != want {
			t.Errorf("%s: %v", script, err)
		}
		clean(t, r)
	}
}

// What keeps a command from starting is no failure of the command.
func TestCannotStart(t *testing.T) {
	r, root := find(t), rootfs(t)
	write(t, root+"/noexec", "", 0o644)
	write(t, root+"/python", "#! /usr/bin/python3 -x\n", 0o755)
	write(t, root+"/bash", "#!/bin/bash\n", 0o755)
	write(t, root+"/env", "#!env sh\n", 0o755)
	write(t, root+"/loop", "#!/loop\n", 0o755)
	write(t, root+"/text", "echo hello\n", 0o755)
	write(t, root+"/empty", "", 0o755)
	write(t, root+"/elf", "\x7fELFxxxxxxx", 0o755)
	if err := unix.Mkfifo(root+"/fifo", 0o755); err != nil {
		t.Fatal(err)
	}
	dynamic, err := os.ReadFile("/bin/true")
	if err != nil {
		t.Fatal(err)
	}
	write(t, root+"/dynamic", string(dynamic), 0o755)
	for path, want := range map[string]string{
		"/bin/bash":  "/bin/bash: not found in the rootfs: does the base have a shell?",
		"/nothing":   "/nothing: not found in the rootfs",
		"/noexec":    "/noexec: not executable, its mode is -rw-r--r--",
		"/python":    "/python needs /usr/bin/python3: not found in the rootfs",
		"/bash":      "/bash needs /bin/bash: not found in the rootfs: does the base have a shell?",
		"/env":       "/env: a script whose first line names no interpreter with its whole path",
		"/loop":      "/loop needs /loop needs /loop needs /loop needs /loop needs /loop: scripts as interpreters of scripts, nested too deep",
		"/fifo":      "/fifo: not a file that can be executed",
		"/bin":       "/bin: not a file that can be executed",
		"/dynamic":   "/dynamic needs /lib",
		"/text":      "/text: neither a program nor a script, which would start with #! and its interpreter",
		"/empty":     "/empty: neither a program nor a script, which would start with #! and its interpreter",
		"/elf":       "/elf: damaged program: ",
		"no/slash":   `path "no/slash" is not absolute`,
		"/bad\xffed": `"/bad\xffed" is not valid UTF-8 text: a runtime cannot be given it`,
	} {
		err := r.Run(t.Context(), Step{Rootfs: root, Args: []string{path}})
		var exit *ExitError
		if errors.As(err, &exit) || err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%s: %v\nwant %s", path, err, want)
		}
	}
	// One that only the runtime finds.
	err = r.Run(t.Context(), Step{Rootfs: root, Args: sh(""), Cwd: "/bin/busybox"})
	var exit *ExitError
	if err == nil || errors.As(err, &exit) || !strings.HasPrefix(err.Error(), r.Name+": ") || strings.Contains(err.Error(), "\n") {
		t.Errorf("runtime's failure: %v", err)
	}
	clean(t, r)
}

func TestMistakes(t *testing.T) {
	r, root := find(t), rootfs(t)
	for want, s := range map[string]Step{
		"no command to run":                             {Rootfs: root},
		`network "bridge": want host or none`:           {Rootfs: root, Args: sh(""), Network: "bridge"},
		`environment variable "X": want NAME=VALUE`:     {Rootfs: root, Args: sh(""), Env: []string{"X"}},
		"rootfs has no /x to mount on":                  {Rootfs: root, Args: sh(""), Mounts: []Mount{{"/etc", "/x", true}}},
		"cannot mount on /etc/resolv.conf":              {Rootfs: root, Args: sh(""), Mounts: []Mount{{"/etc", "/etc/resolv.conf", true}}, Network: NetworkNone},
		"mount /x: lstat /nonexistent":                  {Rootfs: root, Args: sh(""), Mounts: []Mount{{"/nonexistent", "/x", true}}},
		"a step's standard input must be a terminal if": {Rootfs: root, Args: sh(""), Terminal: true},
	} {
		if err := r.Run(t.Context(), s); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%v\nwant %s", err, want)
		}
	}
}

// A mountpoint of the rootfs that is a symbolic link is followed inside it only.
func TestMountpointLink(t *testing.T) {
	r, root := find(t), rootfs(t, "/run/resolve")
	write(t, root+"/run/resolve/conf", "", 0o644)
	for link, ok := range map[string]bool{"/run/resolve/conf": true, "../../../../run/resolve/conf": true, "/etc/hostname": false} {
		os.Remove(root + "/etc/resolv.conf")
		if err := os.Symlink(link, root+"/etc/resolv.conf"); err != nil {
			t.Fatal(err)
		}
		if err := r.Run(t.Context(), Step{Rootfs: root, Args: sh("test -s /etc/resolv.conf")}); (err == nil) != ok {
			t.Errorf("%s: %v", link, err)
		}
	}
}

func TestLargeOutput(t *testing.T) {
	r, root := find(t), rootfs(t)
	var out, errs counter
	s := Step{Rootfs: root, Args: sh("dd if=/dev/zero bs=1M count=100 2>/dev/null; dd if=/dev/zero bs=1M count=10 >&2 2>/dev/null; printf end >&2"), Stdout: &out, Stderr: &errs}
	if err := r.Run(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	if out != 100<<20 || errs != 10<<20+3 {
		t.Errorf("got %d and %d bytes", out, errs)
	}
}

type counter int

func (c *counter) Write(p []byte) (int, error) {
	*c += counter(len(p))
	return len(p), nil
}

// Both outputs to one writer keep their order.
func TestOrderOfOutput(t *testing.T) {
	r, root := find(t), rootfs(t)
	var out, want bytes.Buffer
	s := Step{Rootfs: root, Args: sh("for i in $(seq 1000); do printf a; printf b >&2; done"), Stdout: &out, Stderr: &out}
	if err := r.Run(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	for range 1000 {
		want.WriteString("ab")
	}
	if out.String() != want.String() {
		t.Errorf("got %.100q…", &out)
	}
}

// A step is never given a terminal or a file of ours, only pipes.
func TestOutputToFiles(t *testing.T) {
	r, root := find(t), rootfs(t)
	user, program := terminal(t)
	go io.Copy(io.Discard, user)
	file, err := os.Create(filepath.Join(t.TempDir(), "f"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	s := Step{Rootfs: root, Args: sh("test -p /proc/self/fd/1 && test -p /proc/self/fd/2 && ! test -t 2"), Stdout: file, Stderr: program}
	if err := r.Run(t.Context(), s); err != nil {
		t.Error(err)
	}
	s.Stdin = program
	if err := r.Run(t.Context(), s); err == nil || !strings.HasPrefix(err.Error(), "a step's standard input") {
		t.Error(err)
	}
}

// Output is seen while the step runs.
func TestLiveOutput(t *testing.T) {
	r, root := find(t), rootfs(t, "/go")
	signal := t.TempDir()
	pr, pw := io.Pipe()
	done := make(chan error, 1)
	go func() {
		s := Step{Rootfs: root, Args: sh("echo first; until test -e /go/on; do sleep 0.01; done; echo second"), Stdout: pw, Mounts: []Mount{{signal, "/go", true}}}
		err := r.Run(t.Context(), s)
		pw.Close()
		done <- err
	}()
	lines := bufio.NewScanner(pr)
	if !lines.Scan() || lines.Text() != "first" {
		t.Fatalf("got %q", lines.Text())
	}
	write(t, signal+"/on", "", 0o644)
	if !lines.Scan() || lines.Text() != "second" {
		t.Fatalf("got %q", lines.Text())
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestCancel(t *testing.T) {
	r, root := find(t), rootfs(t)
	why := errors.New("enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	pr, pw := io.Pipe()
	done := make(chan error, 1)
	go func() {
		done <- r.Run(ctx, Step{Rootfs: root, Args: sh("trap '' TERM INT HUP; setsid sleep 1000 & echo $$; wait"), Stdout: pw})
	}()
	bufio.NewReader(pr).ReadString('\n')
	cgroups := cgroupsOf(t, r)
	pids := cgroupProcesses(t, cgroups)
	if len(pids) < 2 {
		t.Fatalf("the step has processes %v", pids)
	}
	start := time.Now()
	cancel(why)
	if err := <-done; !errors.Is(err, why) {
		t.Error(err)
	}
	if d := time.Since(start); d > 2*time.Second {
		t.Errorf("ended after %v", d)
	}
	gone(t, pids)
	clean(t, r)
	for _, dir := range cgroups {
		if _, err := os.Stat(dir); err == nil {
			t.Errorf("left: %s", dir)
		}
	}
}

func TestCancelledBefore(t *testing.T) {
	r, root := find(t), rootfs(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := r.Run(ctx, Step{Rootfs: root, Args: sh("")}); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if _, err := Find(ctx, "", r.tmp); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	clean(t, r)
}

// Whatever the runtime is at, nothing is left of it.
func TestCancelledAtAnyTime(t *testing.T) {
	r, root := find(t), rootfs(t)
	for i := range 20 {
		s := Step{Rootfs: root, Args: sh("sleep 1000"), Network: NetworkNone}
		c, err := r.container(s)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Duration(i)*5*time.Millisecond)
		if err := r.run(ctx, s, c, nil); !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
		cancel()
		if err := c.drop(); err != nil {
			t.Error(err)
		}
		if left := cgroupsNamed(c.id); len(left) > 0 {
			t.Errorf("left: %v", left)
		}
		clean(t, r)
	}
}

// A step finds a supervisor that was started before there was a rootfs.
func TestExpected(t *testing.T) {
	r, root := find(t), rootfs(t)
	left := 3
	r.More = func() bool { left--; return left > 0 }
	r.Expect()
	r.Expect() // one is enough
	for i := range 3 {
		supervisors := processes(t, r.tmp)
		s := Step{Rootfs: mountOverlay(t, t.TempDir(), root), Args: sh("echo out; echo err >&2; echo $PPID; exit 3"), Network: NetworkNone}
		var out strings.Builder
		s.Stdout, s.Stderr = &out, &out
		var exit *ExitError
		if err := r.Run(t.Context(), s); !errors.As(err, &exit) || exit.Status != 3 {
			t.Error(err)
		}
		if out.String() != "out\nerr\n0\n" {
			t.Errorf("got %q", out.String())
		}
		for _, pid := range supervisors {
			if _, err := os.Stat("/proc/" + pid); i > 0 && err == nil {
				t.Errorf("the step left supervisor %s alone", pid)
			}
		}
	}
	clean(t, r)
}

func TestExpectedInVain(t *testing.T) {
	r, root := find(t), rootfs(t)
	run := func(want string, s Step) {
		t.Helper()
		var out strings.Builder
		s.Rootfs, s.Stdout, s.Stderr = root, &out, &out
		if err := r.Run(t.Context(), s); err != nil || out.String() != want {
			t.Errorf("got %q, %v", out.String(), err)
		}
	}
	r.Expect()
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	run("more\n", Step{Args: sh("cat; echo more"), Stdin: null})
	c := r.takeExpected()
	if c == nil {
		t.Fatal("a step with a standard input took it")
	}
	c.process.Kill()
	<-c.ended
	r.expected = make(chan *container, 1)
	r.expected <- c
	run("on\n", Step{Args: sh("echo on")})
	clean(t, r)
	r.Expect()
	if err := r.Close(); err != nil {
		t.Error(err)
	}
	clean(t, r)
}

// cgroupsOf returns the cgroups of the one container in r.tmp.
func cgroupsOf(t *testing.T, r *Runtime) []string {
	t.Helper()
	bundles, _ := filepath.Glob(filepath.Join(r.tmp, bundlePrefix+"*"))
	if len(bundles) != 1 {
		t.Fatalf("bundles: %v", bundles)
	}
	found := cgroupsNamed(filepath.Base(bundles[0]))
	if len(found) == 0 {
		t.Fatal("the step has no cgroup")
	}
	return found
}

func cgroupsNamed(id string) (found []string) {
	filepath.WalkDir("/sys/fs/cgroup", func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() && d.Name() == id {
			found = append(found, path)
		}
		return nil
	})
	return found
}

func cgroupProcesses(t *testing.T, cgroups []string) []int {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(cgroups[0], "cgroup.procs"))
	if err != nil {
		t.Fatal(err)
	}
	var pids []int
	for _, f := range strings.Fields(string(data)) {
		pid, err := strconv.Atoi(f)
		if err != nil {
			t.Fatal(err)
		}
		pids = append(pids, pid)
	}
	return pids
}

// gone checks that no process of pids is left, but for the time that the kernel and
// init need for it.
func gone(t *testing.T, pids []int) {
	t.Helper()
	deadline := time.Now().Add(2 * time.Second)
	for _, pid := range pids {
		for unix.Kill(pid, 0) != unix.ESRCH {
			if time.Now().After(deadline) {
				t.Errorf("process %d lives", pid)
				break
			}
		}
	}
}

// When the process that runs a step is killed, the step ends, and Sweep finds the rest.
func TestKilledCaller(t *testing.T) {
	needRoot(t)
	r := &Runtime{tmp: t.TempDir()}
	caller := exec.Command("/proc/self/exe")
	caller.Env = append(os.Environ(), "SANDBOX_TEST_ROOTFS="+rootfs(t), "SANDBOX_TEST_TMP="+r.tmp)
	caller.Stderr = os.Stderr
	out, err := caller.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := caller.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		caller.Process.Kill()
		caller.Wait()
		Sweep(context.Background(), r.tmp)
	})
	if line, _ := bufio.NewReader(out).ReadString('\n'); line != "started\n" {
		t.Fatalf("got %q", line)
	}
	cgroups := cgroupsOf(t, r)
	pids := cgroupProcesses(t, cgroups)
	if len(pids) < 2 {
		t.Fatalf("the step has processes %v", pids)
	}
	if err := Sweep(t.Context(), r.tmp); err != nil {
		t.Fatal(err)
	}
	if left, _ := os.ReadDir(r.tmp); len(left) != 1 {
		t.Fatal("Sweep took what a living process uses")
	}
	caller.Process.Kill()
	// The step holds the pipe: its end is the end of the last process.
	if _, err := io.Copy(io.Discard, out); err != nil {
		t.Error(err)
	}
	caller.Wait()
	gone(t, pids)
	if err := Sweep(t.Context(), r.tmp); err != nil {
		t.Error(err)
	}
	for _, dir := range cgroups {
		if _, err := os.Stat(dir); err == nil {
			t.Errorf("left: %s", dir)
		}
	}
	clean(t, r)
}

// mountOverlay mounts an overlay below dir and returns where. It lies
// on the folder lower.
func mountOverlay(t *testing.T, dir, lower string) string {
	t.Helper()
	for _, d := range []string{"upper", "work", "merged"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	options := fmt.Sprintf("lowerdir=%s,upperdir=%s/upper,workdir=%s/work", lower, dir, dir)
	if err := unix.Mount("overlay", dir+"/merged", "overlay", 0, options); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Unmount(dir+"/merged", unix.MNT_DETACH) })
	return dir + "/merged"
}

// A step runs in an overlay that is mounted in tmp, and another one in tmp can be
// unmounted meanwhile, so that its upper folder is free. That tmp has more than one
// name does not matter.
func TestOverlays(t *testing.T) {
	r, lower := find(t), rootfs(t, "/in")
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(r.tmp, link); err != nil {
		t.Fatal(err)
	}
	real := r.tmp
	for _, tmp := range []string{real, link} {
		r := &Runtime{Name: r.Name, Path: r.Path, tmp: tmp}
		mountOverlay(t, tmp+"/own", lower)
		mountOverlay(t, tmp+"/source", lower)
		other := mountOverlay(t, tmp+"/other", lower)
		pr, pw := io.Pipe()
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() {
			done <- r.Run(ctx, Step{Rootfs: tmp + "/own/merged", Args: sh("ls -d /in/etc; sleep 1000"), Stdout: pw, Stderr: os.Stderr,
				Mounts: []Mount{{tmp + "/source/merged", "/in", true}}})
			pw.Close()
		}()
		if line, _ := bufio.NewReader(pr).ReadString('\n'); line != "/in/etc\n" {
			t.Errorf("got %q", line)
		}
		pids := append(processes(t, tmp), strconv.Itoa(cgroupProcesses(t, cgroupsOf(t, r))[0]))
		for _, pid := range pids {
			if data, _ := os.ReadFile("/proc/" + pid + "/mountinfo"); bytes.Contains(data, []byte(real+"/other/")) {
				t.Errorf("process %s holds it", pid)
			}
		}
		cancel()
		<-done
		if _, err := os.Stat(other + "/etc"); err != nil {
			t.Errorf("it was unmounted here too: %v", err)
		}
		for _, d := range []string{"own", "source", "other"} {
			if err := unix.Unmount(tmp+"/"+d+"/merged", 0); err != nil {
				t.Errorf("%s: %v", d, err)
			}
			os.RemoveAll(tmp + "/" + d)
		}
		clean(t, r)
	}
}

// terminal opens a pseudo terminal: the side of a user, and that of a program.
func terminal(t *testing.T) (user, program *os.File) {
	t.Helper()
	user, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { user.Close() })
	if err := unix.IoctlSetPointerInt(int(user.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(int(user.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	program, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { program.Close() })
	return user, program
}

// A shell in a terminal: it has one of its own, what is typed reaches it, and the
// user's is as before when it ends, also when it is killed.
func TestTerminal(t *testing.T) {
	r, root := find(t), rootfs(t)
	user, program := terminal(t)
	before, err := unix.IoctlGetTermios(int(program.Fd()), unix.TCGETS)
	if err != nil {
		t.Fatal(err)
	}
	for _, cancelled := range []bool{false, true} {
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() {
			done <- r.Run(ctx, Step{Rootfs: root, Args: sh("echo $(tty) $TERM; read x; echo got-$x; test $x = exit && exit 5; read x"),
				Stdin: program, Stdout: program, Stderr: program, Terminal: true})
		}()
		seen := bufio.NewReader(user)
		if line, err := seen.ReadString('\n'); line != "/dev/pts/0 xterm\r\n" {
			t.Fatalf("got %q, %v", line, err)
		}
		word := map[bool]string{false: "exit", true: "stay"}[cancelled]
		fmt.Fprintf(user, "%s\r", word)
		for _, want := range []string{word, "got-" + word} { // the echo first
			if line, err := seen.ReadString('\n'); strings.TrimSpace(line) != want {
				t.Errorf("got %q, %v", line, err)
			}
		}
		if cancelled {
			cancel()
		}
		err := <-done
		var exit *ExitError
		if cancelled && !errors.Is(err, context.Canceled) || !cancelled && (!errors.As(err, &exit) || exit.Status != 5) {
			t.Error(err)
		}
		cancel()
		if after, err := unix.IoctlGetTermios(int(program.Fd()), unix.TCGETS); err != nil || *after != *before {
			t.Errorf("the terminal was changed: %v", err)
		}
		clean(t, r)
	}
}

func BenchmarkRun(b *testing.B) {
	r, root := find(b), rootfs(b)
	for b.Loop() {
		if err := r.Run(b.Context(), Step{Rootfs: root, Args: []string{"/bin/true"}}); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkBareRuntime is what BenchmarkRun compares with: the same container,
// started by hand.
func BenchmarkBareRuntime(b *testing.B) {
	r, root := find(b), rootfs(b)
	s := Step{Rootfs: root, Args: []string{"/bin/true"}}
	mounts, err := s.mounts()
	if err != nil {
		b.Fatal(err)
	}
	bundle, err := newBundle(b.TempDir())
	if err != nil {
		b.Fatal(err)
	}
	defer bundle.remove()
	o, err := s.orders(bundle, mounts)
	if err != nil {
		b.Fatal(err)
	}
	if err := bundle.fill(o); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if out, err := exec.Command(r.Path, "--root", bundle.state(), "run", "--bundle", bundle.dir, bundle.id).CombinedOutput(); err != nil {
			b.Fatalf("%v: %s", err, out)
		}
	}
}

func BenchmarkFind(b *testing.B) {
	needRoot(b)
	tmp := b.TempDir()
	for b.Loop() {
		if _, err := Find(b.Context(), "", tmp); err != nil {
			b.Fatal(err)
		}
	}
}

// Programs of 32 bits and of the other byte order have loaders too.
func TestLoader32(t *testing.T) {
	for data, order := range map[elf.Data]binary.ByteOrder{elf.ELFDATA2LSB: binary.LittleEndian, elf.ELFDATA2MSB: binary.BigEndian} {
		h := elf.Header32{Ident: [16]byte{0x7f, 'E', 'L', 'F', byte(elf.ELFCLASS32), byte(data), 1}, Machine: uint16(elf.EM_386), Phoff: 52, Phnum: 2}
		var b bytes.Buffer
		for _, v := range []any{h, elf.Prog32{Type: uint32(elf.PT_LOAD)}, elf.Prog32{Type: uint32(elf.PT_INTERP), Off: 116, Filesz: 8}, []byte("/lib/ld\x00more")} {
			if err := binary.Write(&b, order, v); err != nil {
				t.Fatal(err)
			}
		}
		p, err := programHeaders(bytes.NewReader(b.Bytes()))
		if err != nil || p.machine != elf.EM_386 || len(p.segments) != 2 {
			t.Fatalf("%+v, %v", p, err)
		}
		if runtime.GOARCH != "amd64" {
			continue
		}
		if got, err := loader(bytes.NewReader(b.Bytes())); got != "/lib/ld" || err != nil {
			t.Errorf("%q, %v", got, err)
		}
	}
}

// A rootfs is a stranger's: no file in it may do harm to us when it is executed.
func FuzzInterpreter(f *testing.F) {
	for _, seed := range []string{"", "#!", "#!/bin/sh -xe\n", "#! \n", "#!/\x00", "\x7fELF", "\x7fELF\x02\x01\x01" + strings.Repeat("\x00", 57)} {
		f.Add([]byte(seed))
	}
	dynamic, err := os.ReadFile("/bin/true")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(dynamic[:4096])
	path := filepath.Join(f.TempDir(), "f")
	f.Fuzz(func(t *testing.T, content []byte) {
		write(t, path, string(content), 0o755)
		file, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		if found, err := interpreter(file); err != nil && (found != "" || strings.Contains(err.Error(), "\n")) {
			t.Errorf("%q, %v", found, err)
		}
	})
}

// A process stays in its cgroups, and is moved to none that it is not in.
func TestHastenCgroups(t *testing.T) {
	needRoot(t)
	dirs, err := cgroupParents()
	if err != nil || len(dirs) == 0 {
		t.Skip("no cgroups: ", err)
	}
	other := filepath.Join(dirs[0], "layerbuild-hasten-test")
	if err := os.Mkdir(other, 0o755); err != nil {
		t.Skip(err)
	}
	defer os.Remove(other)
	before, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		t.Fatal(err)
	}
	hastenCgroups(append([]string{"/nonexistent", other}, dirs...))
	after, err := os.ReadFile("/proc/self/cgroup")
	if err != nil || !bytes.Equal(before, after) {
		t.Errorf("%v: it was in\n%sand is in\n%s", err, before, after)
	}
}
