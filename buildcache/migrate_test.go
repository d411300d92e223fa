package buildcache

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
)

// migrateVariable names a state folder that the test program opens instead of
// testing, all on one thread, so that strace can count its system calls.
const migrateVariable = "BUILDCACHE_TEST_MIGRATE"

func init() {
	if os.Getenv(migrateVariable) != "" {
		runtime.LockOSThread()
	}
}

func TestMain(m *testing.M) {
	if state := os.Getenv(migrateVariable); state != "" {
		c, err := Open(context.Background(), state)
		if err == nil {
			err = c.Close()
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// frozen unpacks a state folder that the code of version 1 wrote.
func frozen(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	out, err := exec.Command("tar", "-xzf", "../engine/testdata/state-1/state.tar.gz", "-C", dir, "--exclude=layout", "--exclude=trees").CombinedOutput()
	if err != nil {
		t.Fatalf("tar: %v\n%s", err, out)
	}
	return dir
}

// migratedFiles are the files that a migration is about.
func migratedFiles(t *testing.T, dir string) map[string]string {
	t.Helper()
	all := map[string]string{}
	for _, below := range []string{"records", "latest"} {
		if _, err := os.Lstat(filepath.Join(dir, below)); os.IsNotExist(err) {
			continue // killed between two renames
		}
		for name, content := range files(t, filepath.Join(dir, below)) {
			all[filepath.Join(below, name)] = content
		}
	}
	version, err := os.ReadFile(filepath.Join(dir, "version"))
	if err == nil {
		all["version"] = string(version)
	}
	return all
}

// TestMigrateKilled kills a migration at every rename and every fsync, and at many
// of its other changes to the disk; it kills the next attempt too, and lets one end.
// What comes out is what comes out undisturbed; and while the version is the old
// one, all that the old code reads is as it was.
func TestMigrateKilled(t *testing.T) {
	before := migratedFiles(t, frozen(t))
	undisturbed := frozen(t)
	open(t, undisturbed)
	want := migratedFiles(t, undisturbed)
	if len(want) != len(before) {
		t.Fatalf("%d of %d files are left", len(want), len(before))
	}
	for call, step := range map[string]int{"renameat": 1, "fsync": 1, "unlinkat": 9, "mkdirat,write,fchmod": 9} {
		t.Run(call, func(t *testing.T) {
			t.Parallel()
			for n := 1; ; n += step {
				dir := frozen(t)
				if !killed(t, dir, call, n) {
					if n == 1 {
						t.Fatal("it makes no such call")
					}
					break
				}
				if now := migratedFiles(t, dir); now["version"] == before["version"] {
					for name, content := range before {
						if now[name] != content {
							t.Fatalf("killed at %s %d: %s is not as it was", call, n, name)
						}
					}
				}
				killed(t, dir, call, 1+n/2)
				open(t, dir)
				if got := migratedFiles(t, dir); !maps.Equal(got, want) {
					t.Fatalf("killed at %s %d: there are %d files, want %d", call, n, len(got), len(want))
				}
			}
		})
	}
}

// killed opens a state folder in a process of its own, which is killed at the nth
// of some system calls, and tells whether it was.
func killed(t *testing.T, dir, calls string, n int) bool {
	t.Helper()
	var stderr bytes.Buffer
	cmd := exec.Command("strace", "-qq", "-o", os.DevNull, "-e", "trace="+calls, "-e", fmt.Sprintf("inject=%s:signal=KILL:when=%d", calls, n), os.Args[0])
	cmd.Env = append(os.Environ(), migrateVariable+"="+dir)
	cmd.Stderr = &stderr
	err := cmd.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.Sys().(syscall.WaitStatus).Signaled() {
		return true
	}
	if err != nil {
		t.Fatalf("strace: %v\n%s", err, stderr.Bytes())
	}
	return false
}

// TestMigrateDamage has a damaged record and foreign files in the old state: they
// are left out, and the others are carried over.
func TestMigrateDamage(t *testing.T) {
	dir := frozen(t)
	records, err := filepath.Glob(filepath.Join(dir, "records", "*", "*", "*.json"))
	if err != nil || len(records) < 3 {
		t.Fatal(records, err)
	}
	if err := os.Truncate(records[0], 10); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"records/foreign", "records/rootfs/foreign.json", "latest/foreign"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("foreign"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	whole, err := os.ReadFile(records[1])
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(records[2], whole, 0o600); err != nil { // a record under another's name
		t.Fatal(err)
	}
	open(t, dir)
	after, err := filepath.Glob(filepath.Join(dir, "records", "*", "*", "*.json"))
	if err != nil || len(after) != len(records)-2 {
		t.Errorf("%d of %d records are left (%v)", len(after), len(records), err)
	}
	for _, name := range []string{"records/foreign", "records/rootfs/foreign.json", "latest/foreign"} {
		if _, err := os.Lstat(filepath.Join(dir, name)); err == nil {
			t.Errorf("%s was carried over", name)
		}
	}
}

// TestMigrateUnreadable has a disk that fails: nothing is given up for that.
func TestMigrateUnreadable(t *testing.T) {
	dir := frozen(t)
	before := migratedFiles(t, dir)
	cmd := exec.Command("strace", "-qq", "-o", os.DevNull, "-e", "trace=read", "-P", firstRecord(t, dir), "-e", "inject=read:error=EIO", os.Args[0])
	cmd.Env = append(os.Environ(), migrateVariable+"="+dir)
	out, err := cmd.CombinedOutput()
	if err == nil || !strings.Contains(string(out), "migrating it from version 1") || !strings.Contains(string(out), "input/output error") {
		t.Errorf("%v\n%s", err, out)
	}
	if !maps.Equal(migratedFiles(t, dir), before) {
		t.Error("the old state is not as it was")
	}
}

func firstRecord(t *testing.T, dir string) string {
	t.Helper()
	records, err := filepath.Glob(filepath.Join(dir, "records", "*", "*", "*.json"))
	if err != nil || len(records) == 0 {
		t.Fatal(records, err)
	}
	return records[0]
}
