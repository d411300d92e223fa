package main

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
)

// TestWaiting has commands wait for downloads, OCI layouts and state folders of other
// processes: each says for which, and goes on once that is done or dead.
func TestWaiting(t *testing.T) {
	t.Parallel()
	p := newProject(t)
	p.must("build")

	t.Run("download", func(t *testing.T) {
		asked, served := make(chan bool, 100), make(chan bool)
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			asked <- true
			<-served
			fmt.Fprintln(w, "content")
		}))
		t.Cleanup(server.Close)
		for _, name := range []string{"first", "second"} {
			p.write(name+".yaml", fmt.Sprintf("%s:\n  from: {type: scratch}\n  imports: [{path: '%s/file', dest: /}]\n", name, server.URL))
		}
		first := p.command("--oci-dir", p.path("first"), "build", "-f", "first.yaml")
		ended := make(chan string)
		go func() {
			out, err := first.CombinedOutput()
			ended <- fmt.Sprintf("%v\n%s", err, out)
		}()
		<-asked
		told := waits(t, p.command("--oci-dir", p.path("second"), "build", "-f", "second.yaml"), func() { close(served) })
		want := fmt.Sprintf(`^second: waiting for process %d, whose layer "first" has been downloading %s/file since [0-9:]+$`, first.Process.Pid, server.URL)
		if !regexp.MustCompile(want).MatchString(told) {
			t.Errorf("it says %q, not %q", told, want)
		}
		if out := <-ended; !strings.HasPrefix(out, "<nil>") {
			t.Errorf("the first one: %s", out)
		}
	})
	for _, held := range []struct {
		file, doing string
		command     []string
	}{
		{p.path("oci", "oci-layout"), "the OCI layout " + p.path("oci"), []string{"build", "--no-cache", "--target", "web"}},
		{p.path("state", "in-use"), "the state folder " + p.state(), []string{"du"}},
	} {
		t.Run(held.doing, func(t *testing.T) {
			other := exec.Command("flock", "--no-fork", held.file, "sh", "-c", "echo; exec sleep 1000")
			out := must(other.StdoutPipe())(t)
			if err := other.Start(); err != nil {
				t.Fatal(err)
			}
			end := func() { _ = other.Process.Kill(); _ = other.Wait() }
			t.Cleanup(end)
			must(out.Read(make([]byte, 1)))(t)
			told := waits(t, p.command(held.command...), end)
			want := fmt.Sprintf(`^waiting for process %d \(sleep, begun at [0-9:]+\), which has had %s$`, other.Process.Pid, held.doing)
			if !regexp.MustCompile(want).MatchString(told) {
				t.Errorf("it says %q, not %q", told, want)
			}
		})
	}
}

// waits runs a command that must do well, and returns what it says of waiting; then it
// need not wait any more.
func waits(t *testing.T, cmd *exec.Cmd, end func()) (told string) {
	t.Helper()
	from, to := io.Pipe()
	cmd.Stdout, cmd.Stderr = to, to
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait(); to.Close() }()
	var all, line []byte
	for one := make([]byte, 1); ; {
		if _, err := from.Read(one); err != nil {
			break
		}
		if all, line = append(all, one...), append(line, one...); one[0] != '\n' {
			continue
		}
		if told == "" && bytes.Contains(line, []byte("waiting for process")) {
			told = string(bytes.TrimSpace(line))
			end()
		}
		line = nil
	}
	if err := <-ended; err != nil {
		t.Errorf("%v\n%s", err, all)
	}
	return told
}

// TestWithoutFlock has a filesystem that cannot lock files, as some network filesystems:
// that is refused by name, and nothing is done.
func TestWithoutFlock(t *testing.T) {
	t.Parallel()
	p := newProject(t)
	for _, errno := range []string{"ENOLCK", "ENOSYS", "EOPNOTSUPP"} {
		for _, args := range [][]string{{"build"}, {"du"}, {"prune", "--force"}, {"clean", "--all"}} {
			cmd := p.command(args...)
			if args[0] != "build" {
				p.must("build")
			}
			traced := exec.Command("strace", append([]string{"-f", "-qqq", "--seccomp-bpf", "-o", os.DevNull, "-e", "trace=flock", "-e", "inject=flock:error=" + errno}, cmd.Args...)...)
			traced.Dir, traced.Env = cmd.Dir, cmd.Env
			out, err := traced.CombinedOutput()
			if err == nil || !bytes.Contains(out, []byte("its filesystem has no flock(2)")) {
				t.Errorf("%s of %v: %v\n%s", errno, args, err, out)
			}
			p.must("build")
		}
		p.reset()
	}
}
