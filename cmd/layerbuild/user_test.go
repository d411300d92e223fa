package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/moby/sys/userns"
	ispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/rogpeppe/go-internal/testscript"

	"github.com/layerbuild/layerbuild/engine"
)

// userID is the environment variable that says as which user the layerbuild of a
// script runs; without it it is root, as all else in a script is.
const userID = "LAYERBUILD_TEST_USER"

// becomeUser has the process be the user of userID.
func becomeUser() {
	uid, err := strconv.Atoi(os.Getenv(userID))
	if err != nil || os.Geteuid() != 0 || userns.RunningInUserNS() {
		return
	}
	os.Unsetenv(userID)
	err = errors.Join(give(os.Getenv("WORK"), uid), syscall.Setgroups(nil), syscall.Setgid(uid), syscall.Setuid(uid))
	if err == nil { // anew, so that the kernel takes it for the user's
		err = syscall.Exec("/proc/self/exe", os.Args, os.Environ())
	}
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

// TestScriptsAsUser runs the scripts once more, with a layerbuild that runs as an
// ordinary user with subordinate ids, and compares the images. What only root can
// do is left out of the scripts by the condition [root]; asRootOnly are not run.
func TestScriptsAsUser(t *testing.T) {
	uid := newUser(t)
	t.Run("script", func(t *testing.T) { runScripts(t, uid) })
	asRoot, compared := built.of(0), 0
	for script, digests := range built.of(uid) {
		for tag, digest := range digests {
			if want, ok := asRoot[script][tag]; ok && unequal[script] == "" {
				compared++
				if digest != want {
					t.Errorf("%s: %s is %s, as root it was %s", script, tag, digest, want)
				}
			}
		}
	}
	t.Logf("compared %d images with those of root", compared)
}

// asRootOnly are the scripts that would show nothing else as a user, and why.
var asRootOnly = map[string]string{
	"explain-hints":    told,
	"explain-hostile":  told,
	"explain-inputs":   told,
	"explain-keyless":  told,
	"explain-machines": told,
	"explain-told":     told,
	"graph":            "it mounts and runs nothing",
	"help":             "it mounts and runs nothing",
	"publish-cut":      "it is about what goes over the network, and waits between tries",
	"validate":         "it mounts and runs nothing",
}

const told = "reasons come from records, which are a user's as they are root's"

// unequal are the scripts whose images no two runs make alike, and why.
var unequal = map[string]string{
	"annotations":      "they name a git commit, which has a time",
	"base-layers":      "their archives are made by the script, with the time",
	"base-tar":         "their base has the owners of a folder that the test has made the user's",
	"convert-mounts":   "a registry's port is in them",
	"convert-official": "their archives are made by the script, with the time",
	"dest-link":        "a link in them leads to the folder of the script",
	"edges":            "without root they have no devices",
	"flags":            "random numbers",
	"git-hostile":      "they name git commits, which have a time",
	"projects":         "stacker's have wall-clock times",
	"prune-limits":     "random numbers",
	"remote-lost":      "random numbers",
	"stacker-habits":   "the author is user@host",
	"together":         "random numbers",
}

// newUser makes a user for the time of the test.
func newUser(t *testing.T) (uid int) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("to make a user needs root: run `make test`, or `go test -exec sudo`")
	}
	name := "layerbuild-test-" + strconv.Itoa(os.Getpid())
	admin := func(command ...string) {
		t.Helper()
		for try := 0; ; try++ { // others may be at it
			out, err := exec.Command(command[0], command[1:]...).CombinedOutput()
			if err == nil {
				return
			}
			if try == 50 || !bytes.Contains(out, []byte("try again")) {
				t.Fatalf("%s: %v\n%s", command, err, out)
			}
			time.Sleep(100 * time.Millisecond)
		}
	}
	admin("useradd", "--no-create-home", "--user-group", "--shell", "/bin/sh", name)
	t.Cleanup(func() { admin("userdel", name) })
	u, err := user.Lookup(name)
	if err == nil {
		uid, err = strconv.Atoi(u.Uid)
	}
	if err == nil { // useradd has given subordinate ids, or not: that depends on login.defs
		_, err = engine.UnprivSetup(engine.User{Name: name, UID: uid, GID: uid}, "")
	}
	if err != nil {
		t.Fatal(err)
	}
	return uid
}

// give makes the user the owner of what root has put into a script's folder.
func give(dir string, uid int) error {
	return filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return nil //nolint:nilerr // gone meanwhile
		}
		if info, err := e.Info(); err == nil && info.Sys().(*syscall.Stat_t).Uid == 0 {
			_ = os.Lchown(path, uid, uid) // does not follow, and may be gone as well
		}
		if e.IsDir() && e.Name() == ".cache" {
			return fs.SkipDir
		}
		return nil
	})
}

// shown returns a copy of a folder of test data that every user can read, however
// private the folder is that it lies in.
func shown(t *testing.T, dir string) string {
	t.Helper()
	parent, err := os.MkdirTemp("", "layerbuild-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(parent) })
	if err := os.Chmod(parent, 0o755); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("cp", "-r", "--reflink=auto", dir, parent).CombinedOutput()
	if err != nil {
		t.Fatalf("copy %s: %v\n%s", dir, err, out)
	}
	return filepath.Join(parent, filepath.Base(dir))
}

// built are the digests of the images that scripts left.
var built images

// images are digests by user, script, and the path and tag of an image.
type images struct {
	mu  sync.Mutex
	all map[int]map[string]map[string]string
}

func (i *images) of(uid int) map[string]map[string]string {
	i.mu.Lock()
	defer i.mu.Unlock()
	return maps.Clone(i.all[uid])
}

// add notes the images in all OCI layouts of a script's folder.
func (i *images) add(uid int, script, dir string) {
	digests := map[string]string{}
	_ = filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() && strings.HasPrefix(e.Name(), ".") {
			return fs.SkipDir
		}
		var index ispec.Index
		if e.Name() == ispec.ImageIndexFile {
			_ = readJSON(path, &index) // one that a script has damaged has no images
		}
		rel, _ := filepath.Rel(dir, filepath.Dir(path))
		for _, d := range index.Manifests {
			digests[rel+":"+d.Annotations[ispec.AnnotationRefName]] = d.Digest.String()
		}
		return nil
	})
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.all == nil {
		i.all = map[int]map[string]map[string]string{}
	}
	if i.all[uid] == nil {
		i.all[uid] = map[string]map[string]string{}
	}
	i.all[uid][script] = digests
}

// scriptRoot is `root COMMAND ...`: it runs a command whose layerbuild is root's.
func scriptRoot(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, false, len(args) > 0, "[!] root COMMAND ...")
	uid := ts.Getenv(userID)
	ts.Setenv(userID, "")
	err := ts.Exec(args[0], args[1:]...)
	ts.Setenv(userID, uid)
	if (err == nil) == neg {
		ts.Fatalf("%v", err)
	}
}
