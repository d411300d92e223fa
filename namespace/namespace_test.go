package namespace

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// helper is set in the processes that tests start of themselves: its value names a
// function of helpers, which runs in the last life.
const helper = "NAMESPACE_TEST_HELPER"

var helpers = map[string]func() error{
	"show":  show,
	"exit":  func() error { os.Exit(7); return nil },
	"wait":  waitForSignal,
	"mount": mountOne,
}

func TestMain(m *testing.M) {
	name := os.Getenv(helper)
	if name == "" {
		os.Exit(m.Run())
	}
	err := Enter()
	if err == nil {
		err = helpers[name]()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// show says what the last life finds.
func show() error {
	maps, err := os.ReadFile("/proc/self/uid_map")
	fmt.Printf("uid %d, ready %v, mark %q, why %q, ids %s\n", os.Geteuid(), Ready(), os.Getenv(markName), OneID(), strings.Fields(string(maps)))
	return err
}

func waitForSignal() error {
	c := make(chan os.Signal, 1)
	signal.Notify(c, unix.SIGTERM)
	fmt.Println(os.Getpid())
	<-c
	return errors.New("terminated")
}

// mountOne mounts a folder, says what a process that it starts sees there and what that
// one's path is, and waits for the end.
func mountOne() error {
	dir := os.Args[1]
	var here Space
	if err := here.Do(func() error { return unix.Mount("tmpfs", dir, "tmpfs", 0, "") }); err != nil {
		return err
	}
	reached := here.Reach(dir)
	if err := os.WriteFile(filepath.Join(reached, "file"), nil, 0o600); err != nil {
		return err
	}
	list := exec.Command("ls", here.Inside(here.Reach(reached)), reached)
	var seen strings.Builder
	list.Stdout = &seen
	if err := here.Do(list.Start); err != nil {
		return err
	}
	if err := list.Wait(); err != nil {
		return err
	}
	fmt.Println(strings.Count(seen.String(), "file"), here.Inside(fmt.Sprintf("open %s/x: no %s", reached, dir)))
	_, err := io.Copy(io.Discard, os.Stdin)
	return err
}

// command is a helper that runs as a user, who need not have a name.
func command(t *testing.T, name string, uid uint32, args ...string) *exec.Cmd {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	dir := open(t)
	program := filepath.Join(dir, "program")
	self, err := os.ReadFile("/proc/self/exe")
	if err == nil {
		err = os.WriteFile(program, self, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program, args...)
	cmd.Env = append(os.Environ(), helper+"="+name)
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
	return cmd
}

// open is a folder that every user may use.
func open(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "namespace-")
	if err == nil {
		err = os.Chmod(dir, 0o777)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// nobody has no name and no subordinate ids.
const nobody = 59999

func TestEnter(t *testing.T) {
	for uid, want := range map[uint32]string{
		0:      `uid 0, ready true, mark "", why "", ids [0 0 4294967295]`,
		nobody: `uid 0, ready true, mark "", why "user 59999 has no ids in /etc/subuid: ` + "`sudo layerbuild unpriv-setup --username 59999`" + `", ids [0 59999 1]`,
	} {
		out, err := command(t, "show", uid).CombinedOutput()
		if got := strings.TrimSpace(string(out)); err != nil || got != want {
			t.Errorf("as %d: %v\n%s\nwant:\n%s", uid, err, got, want)
		}
	}
}

func TestStatus(t *testing.T) {
	for _, uid := range []uint32{0, nobody} {
		var exit *exec.ExitError
		if err := command(t, "exit", uid).Run(); !errors.As(err, &exit) || exit.ExitCode() != 7 {
			t.Errorf("as %d: %v", uid, err)
		}
	}
}

// begin starts a helper and reads the first line of what it says.
func begin(t *testing.T, cmd *exec.Cmd) (said string) {
	t.Helper()
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	said, err = bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(said)
}

// A signal for the process that was started reaches the one that works.
func TestSignals(t *testing.T) {
	cmd := command(t, "wait", nobody)
	begin(t, cmd)
	cmd.Stderr = nil
	if err := cmd.Process.Signal(unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	var exit *exec.ExitError
	if err := cmd.Wait(); !errors.As(err, &exit) || exit.ExitCode() != 1 {
		t.Error(err)
	}
}

// Whichever of the two is killed, the other ends.
func TestKilled(t *testing.T) {
	cmd := command(t, "wait", nobody)
	last := begin(t, cmd)
	pid := 0
	if _, err := fmt.Sscan(last, &pid); err != nil || pid == cmd.Process.Pid {
		t.Fatalf("%q: %v", last, err)
	}
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	cmd.Process.Kill()
	cmd.Wait()
	ended := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	if n, err := unix.Poll(ended, 10_000); n != 1 {
		t.Errorf("the last life goes on: %v", err)
	}

	cmd = command(t, "wait", nobody)
	if _, err := fmt.Sscan(begin(t, cmd), &pid); err != nil {
		t.Fatal(err)
	}
	unix.Kill(pid, unix.SIGKILL)
	var exit *exec.ExitError
	if err := cmd.Wait(); !errors.As(err, &exit) || exit.ExitCode() != 137 {
		t.Error(err)
	}
}

// What is mounted is seen by the process and what it starts there alone.
func TestMountsArePrivate(t *testing.T) {
	for _, uid := range []uint32{0, nobody} {
		dir := open(t)
		want := fmt.Sprintf("2 open %s/x: no %s", dir, dir)
		if said := begin(t, command(t, "mount", uid, dir)); said != want {
			t.Errorf("as %d: it says %q, want %q", uid, said, want)
		}
		if files, err := os.ReadDir(dir); err != nil || len(files) > 0 {
			t.Errorf("as %d: %v %v", uid, files, err)
		}
	}
}
