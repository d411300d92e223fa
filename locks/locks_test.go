package locks

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// hold has another process lock a file, until it is killed.
func hold(t *testing.T, path string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command("flock", "--no-fork", path, "sh", "-c", "echo; exec sleep 100")
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { kill(cmd) })
	if _, err := out.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	return cmd
}

func kill(cmd *exec.Cmd) {
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
}

// Who waits is told for whom, and has the lock once the other is dead.
func TestWaitForAnotherProcess(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	other := hold(t, path)
	if _, err := TryOpen(path, os.O_RDONLY, Shared); !errors.Is(err, ErrHeld) {
		t.Fatal(err)
	}
	var told []string
	ctx := Watch(t.Context(), func(w Waiting) {
		told = append(told, w.String())
		if age := time.Since(w.Holder.Since); age < 0 || age > time.Minute {
			t.Errorf("it began %s ago", age)
		}
		if f, err := os.Open(path); err != nil || !strings.HasPrefix(By(f), fmt.Sprintf(" by process %d (", other.Process.Pid)) {
			t.Errorf("it is in use%s", By(f))
		}
		kill(other)
	})
	f, err := Open(ctx, path, os.O_RDONLY, Exclusive, "has had the file")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if By(f) != "" {
		t.Errorf("it is in use%s", By(f))
	}
	want := fmt.Sprintf("waiting for process %d (sleep, begun at ", other.Process.Pid)
	if len(told) != 1 || !strings.HasPrefix(told[0], want) || !strings.HasSuffix(told[0], "), which has had the file") {
		t.Errorf("told: %q", told)
	}
	if held, err := Held(); err != nil || held[inode(t, f)] != os.Getpid() {
		t.Errorf("held by %d: %v", held[inode(t, f)], err)
	}
}

// The file that is locked is the one that the name stands for by then.
func TestReplacedWhileWaiting(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	other := hold(t, path)
	ctx := Watch(t.Context(), func(Waiting) {
		if err := errors.Join(os.Rename(path, path+".old"), os.WriteFile(path, []byte("new"), 0o600)); err != nil {
			t.Error(err)
		}
		kill(other)
	})
	f, err := Open(ctx, path, os.O_RDONLY, Shared, "has had the file")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if text, err := os.ReadFile(fmt.Sprintf("/proc/self/fd/%d", f.Fd())); err != nil || string(text) != "new" {
		t.Errorf("%q, %v", text, err)
	}
	if _, err := TryOpen(path+".gone", os.O_RDONLY, Shared); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
}

// Who waits for a Lock is told for which layer of which process, unless that is the
// same process, or one that was killed.
func TestTakeNamesOthers(t *testing.T) {
	path := filepath.Join(t.TempDir(), "locks", "key")
	var told []string
	wait := func() error {
		ctx, cancel := context.WithTimeout(For(t.Context(), "second"), 5*patience)
		defer cancel()
		lock, err := Take(Watch(ctx, func(w Waiting) { told = append(told, w.Layer+": "+w.String()) }), path, "has been doing it")
		if err == nil {
			lock.Unlock()
		}
		return err
	}
	mine, err := Take(For(t.Context(), "first"), path, "")
	if err != nil {
		t.Fatal(err)
	}
	if err := wait(); !errors.Is(err, context.DeadlineExceeded) || len(told) > 0 {
		t.Errorf("for this process: %v, told %q", err, told)
	}
	if err := sign(mine.f, Holder{PID: 1, Layer: "first", Since: time.Now()}); err != nil {
		t.Fatal(err)
	}
	if err := wait(); !errors.Is(err, context.DeadlineExceeded) || len(told) != 1 || !strings.HasPrefix(told[0], `second: waiting for process 1, whose layer "first" has been doing it since `) {
		t.Errorf("for another process: %v, told %q", err, told)
	}
	mine.Unlock()
	if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("after Unlock: %v", err)
	}

	// A lock that a killed process left, signed by a longer name.
	long := fmt.Appendf(nil, `{"pid":1,"layer":%q,"since":"2001-01-01T00:00:00Z"}`+"\n", strings.Repeat("long", 20))
	if err := os.WriteFile(path, long, 0o600); err != nil {
		t.Fatal(err)
	}
	again, err := Take(For(t.Context(), "x"), path, "")
	if err != nil {
		t.Fatal(err)
	}
	defer again.Unlock()
	if text, err := os.ReadFile(path); err != nil || !bytes.HasPrefix(text, fmt.Appendf(nil, `{"pid":%d,"layer":"x","since":`, os.Getpid())) || bytes.Count(text, []byte("\n")) != 1 {
		t.Errorf("it is signed %s: %v", text, err)
	}
}

// What one who was killed had not removed yet goes with the next folder; what a living
// one is at stays.
func TestRemoveAll(t *testing.T) {
	dir := t.TempDir()
	living, err := newGrave(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer living.Close()
	dead, err := newGrave(dir)
	if err != nil {
		t.Fatal(err)
	}
	dead.Close()
	for _, path := range []string{filepath.Join(dead.Name(), "folder/x"), filepath.Join(dir, "state/snapshots/x")} {
		if err := os.MkdirAll(path, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := RemoveAll(filepath.Join(dir, "state")); err != nil {
		t.Error(err)
	}
	left, err := os.ReadDir(dir)
	if err != nil || len(left) != 1 || left[0].Name() != filepath.Base(living.Name()) {
		t.Errorf("left: %v, %v", left, err)
	}
	if err := RemoveAll(filepath.Join(dir, "state")); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 1 {
		t.Errorf("left: %v, %v", left, err)
	}
}

func inode(t *testing.T, f *os.File) uint64 {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		t.Fatal(err)
	}
	return st.Ino
}
