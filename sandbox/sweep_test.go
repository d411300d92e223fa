package sandbox

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// A runtime may make a cgroup yet when the process is dead that had it started.
func TestSweepWaitsForTheRuntime(t *testing.T) {
	tmp := t.TempDir()
	b, err := newBundle(tmp)
	if err != nil {
		t.Fatal(err)
	}
	dirs, err := cgroupParents()
	if err != nil {
		t.Fatal(err)
	}
	cgroup := filepath.Join(dirs[0], b.id)
	dying := exec.Command("sh", "-c", `echo; sleep 0.2; mkdir "$0"`, cgroup)
	out, err := dying.StdoutPipe()
	if err == nil {
		err = dying.Start()
	}
	if err == nil {
		_, err = out.Read(make([]byte, 1))
	}
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- dying.Wait() }()
	b.lock.Close()
	if err := Sweep(t.Context(), tmp); err != nil {
		t.Error(err)
	}
	if err := <-ended; err != nil {
		t.Errorf("no cgroup was made: %v", err)
	}
	for _, left := range []string{cgroup, b.dir} {
		if _, err := os.Lstat(left); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: %v", left, err)
		}
	}
}
