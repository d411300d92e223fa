package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
)

// binary builds layerbuild as its users have it, and returns a function that runs
// it in folder with a state of its own there.
func binary(t testing.TB, folder string) func(args ...string) *exec.Cmd {
	t.Helper()
	path := filepath.Join(t.TempDir(), "layerbuild")
	if out, err := exec.Command("go", "build", "-o", path, ".").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	return func(args ...string) *exec.Cmd {
		cmd := exec.Command(path, args...)
		cmd.Dir = folder
		cmd.Env = append(os.Environ(), "XDG_CACHE_HOME="+filepath.Join(folder, ".cache"))
		return cmd
	}
}

func mustRun(t testing.TB, cmd *exec.Cmd) {
	t.Helper()
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %v\n%s", cmd, err, out)
	}
}

// BenchmarkBuildAgain is a build that finds everything in the cache;
// BenchmarkVersion is what starting the binary costs of it.
func BenchmarkBuildAgain(b *testing.B) {
	busybox := busyboxBase(b)
	for _, example := range []string{"hello", "chain"} {
		b.Run(example, func(b *testing.B) {
			folder := b.TempDir()
			if err := os.CopyFS(folder, os.DirFS(filepath.Join("../../testdata/stackerfiles", example))); err != nil {
				b.Fatal(err)
			}
			layerbuild := binary(b, folder)
			args := []string{"build", "--substitute", "BUSYBOX=" + busybox + ":latest"}
			mustRun(b, layerbuild(args...))
			for b.Loop() {
				mustRun(b, layerbuild(args...))
			}
		})
	}
}

func BenchmarkVersion(b *testing.B) {
	layerbuild := binary(b, b.TempDir())
	for b.Loop() {
		mustRun(b, layerbuild("--version"))
	}
}

// TestMemory builds a layer of 1 GiB, of which nothing compresses.
func TestMemory(t *testing.T) {
	if testing.Short() {
		t.Skip("writes 3 GiB")
	}
	const limit = 200 << 20
	folder := t.TempDir()
	stackerfile := fmt.Sprintf(`large:
  from: {type: oci, url: %q}
  run: dd if=/dev/urandom of=/large bs=1M count=1024
`, busyboxBase(t)+":latest")
	if err := os.WriteFile(filepath.Join(folder, "stacker.yaml"), []byte(stackerfile), 0o644); err != nil {
		t.Fatal(err)
	}
	cmd := binary(t, folder)("build")
	mustRun(t, cmd)
	// getrusage(2): of the process and what it waited for, in KiB.
	peak := cmd.ProcessState.SysUsage().(*syscall.Rusage).Maxrss << 10
	t.Logf("peak resident memory: %d MiB", peak>>20)
	if peak > limit {
		t.Errorf("peak resident memory is %d MiB, over %d MiB", peak>>20, limit>>20)
	}
}
