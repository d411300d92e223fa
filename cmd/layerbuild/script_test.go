package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/registry"
	ispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) {
	command := func() { becomeUser(); os.Exit(run()) }
	testscript.Main(m, map[string]func(){"layerbuild": command, stackerName: command, "filtered": filtered})
}

// TestScripts runs each testdata/script/*.txtar in a folder and with a state of
// its own. Beside testscript's, the scripts have the commands of scriptCommands
// and these variables:
//
//	BUSYBOX      an OCI layout with the tags latest and layered; ./busybox is a link to it
//	STACKERFILES testdata/stackerfiles; not to be written to
//	STATE        the state folder that layerbuild uses
//
// They have the conditions [root], which does not hold in TestScriptsAsUser, and
// [emulates:ARCH].
func TestScripts(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Fatal("mounts, owners and devices need root: run `make test`, or `go test -exec sudo`")
	}
	runScripts(t, 0)
}

// runScripts runs the scripts with a layerbuild of the user uid.
func runScripts(t *testing.T, uid int) {
	busybox := shown(t, busyboxBase(t))
	stackerfiles := shown(t, "../../testdata/stackerfiles")
	debian, err := filepath.Abs("../../scripts/base-debian")
	if err != nil {
		t.Fatal(err)
	}
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Condition: func(condition string) (bool, error) {
			if arch, ok := strings.CutPrefix(condition, "emulates:"); ok {
				return emulates(arch)
			}
			if condition != "root" {
				return false, fmt.Errorf("unknown condition %q", condition)
			}
			return uid == 0, nil
		},
		Setup: func(env *testscript.Env) error {
			if uid != 0 {
				if why := asRootOnly[script(env.WorkDir)]; why != "" {
					env.T().Skip(why)
				}
				env.Setenv(userID, strconv.Itoa(uid))
				if err := os.Chmod(filepath.Dir(env.WorkDir), 0o755); err != nil {
					return err
				}
			}
			cache := filepath.Join(env.WorkDir, ".cache")
			env.Setenv("XDG_CACHE_HOME", cache)
			env.Setenv("STATE", filepath.Join(cache, "layerbuild"))
			home := filepath.Join(env.WorkDir, ".home")
			env.Setenv("HOME", home)
			// Git, run by root, is to take the user's folders for its own.
			if err := os.Mkdir(home, 0o755); err != nil {
				return err
			}
			if err := os.WriteFile(filepath.Join(home, ".gitconfig"), []byte("[safe]\n\tdirectory = *\n"), 0o644); err != nil {
				return err
			}
			env.Setenv("XDG_CONFIG_HOME", filepath.Join(env.WorkDir, ".config"))
			env.Setenv("BUSYBOX", busybox)
			if err := os.Symlink(busybox, filepath.Join(env.WorkDir, "busybox")); err != nil {
				return err
			}
			env.Setenv("STACKERFILES", stackerfiles)
			docs, err := filepath.Abs("../../docs")
			if err != nil {
				return err
			}
			env.Setenv("DOCS", docs)
			env.Values[debianBase{}] = debian
			env.Setenv("SHELL", "/bin/sh")
			env.Values[registryKey{}] = &fakeRegistry{}
			env.Defer(func() { built.add(uid, script(env.WorkDir), env.WorkDir) })
			env.Defer(func() {
				if left := leftovers(env.WorkDir); len(left) > 0 {
					env.T().Log("left behind:\n" + strings.Join(left, "\n"))
					env.T().FailNow()
				}
			})
			return nil
		},
		Cmds:               scriptCommands,
		RequireUniqueNames: true,
	})
}

// script returns the name of the script that runs in a folder.
func script(workDir string) string { return strings.TrimPrefix(filepath.Base(workDir), "script-") }

// busyboxBase returns what scripts/base-busybox prints: the path of a base.
func busyboxBase(t testing.TB) string {
	t.Helper()
	const script = "../../scripts/base-busybox"
	var stderr bytes.Buffer
	cmd := exec.Command(script)
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v\n%s", script, err, stderr.Bytes())
	}
	return strings.TrimSpace(string(out))
}

var scriptCommands = map[string]func(ts *testscript.TestScript, neg bool, args []string){
	"cmptree":         scriptCompareTrees,
	"docker-registry": scriptDockerRegistry,
	"debian":          scriptDebian,
	"differ":          scriptDiffer,
	"digest":          scriptDigest,
	"foreign":         scriptForeign,
	"gomtree":         scriptGomtree,
	"gone":            scriptGone,
	"hear":            scriptHear,
	"idle":            scriptIdle,
	"image":           scriptImage,
	"mode":            scriptMode,
	"module":          scriptModule,
	"paths":           scriptPaths,
	"read":            scriptRead,
	"registry":        scriptRegistry,
	"replace":         scriptReplace,
	"root":            scriptRoot,
	"same":            scriptSame,
	"socket":          scriptSocket,
	"status":          scriptStatus,
	"tags":            scriptTags,
	"webserver":       scriptWebserver,
}

// emulates is the condition [emulates:ARCH]: programs for another processor run here,
// since binfmt_misc has an emulator for it.
func emulates(arch string) (bool, error) {
	dir, err := os.MkdirTemp("", "emulates-")
	if err != nil {
		return false, err
	}
	defer os.RemoveAll(dir)
	program := filepath.Join(dir, "program")
	if err := buildForeign(arch, program); err != nil {
		return false, err
	}
	return exec.Command(program, "-x").Run() == nil, nil
}

// foreign ARCH FILE makes FILE a program for another processor: a shell that knows
// only how to write its architecture into a file, and exit.
func scriptForeign(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg, len(args) == 2, "foreign ARCH FILE")
	ts.Check(os.MkdirAll(filepath.Dir(ts.MkAbs(args[1])), 0o755))
	ts.Check(buildForeign(args[0], ts.MkAbs(args[1])))
}

func buildForeign(arch, program string) error {
	cmd := exec.Command("go", "build", "-o", program, "./testdata/foreign")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOARCH="+arch)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return nil
}

// debian sets DEBIAN to the folder that scripts/base-debian prints.
func scriptDebian(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg, len(args) == 0, "debian")
	ts.Check(ts.Chdir(ts.Getenv("WORK")))
	cmd := exec.Command(ts.Value(debianBase{}).(string))
	cmd.Stderr = ts.Stderr()
	out, err := cmd.Output()
	ts.Check(err)
	base := strings.TrimSpace(string(out))
	if ts.Getenv(userID) != "" { // who cannot read what is in root's home
		ts.Check(ts.Exec("cp", "-r", base, ts.MkAbs(".debian")))
		base = ts.MkAbs(".debian")
	}
	ts.Setenv("DEBIAN", base)
}

// module VARIABLE MODULE PATH sets VARIABLE to a folder of a module that go.mod names.
func scriptModule(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg, len(args) == 3, "module VARIABLE MODULE PATH")
	dir, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", args[1]).Output()
	ts.Check(err)
	ts.Setenv(args[0], filepath.Join(strings.TrimSpace(string(dir)), args[2]))
}

// debianBase is the key of the path of scripts/base-debian.
type debianBase struct{}

// image LAYOUT TAG checks every blob of an image, and writes its manifest to
// TAG.manifest and its config to TAG.config.
func scriptImage(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg, len(args) == 2, "image LAYOUT TAG")
	image, err := readImage(ts.MkAbs(args[0]), args[1])
	ts.Check(err)
	ts.Check(os.WriteFile(ts.MkAbs(args[1]+".manifest"), image.manifest, 0o644))
	ts.Check(os.WriteFile(ts.MkAbs(args[1]+".config"), image.config, 0o644))
}

// digest VARIABLE LAYOUT TAG sets VARIABLE to the digest of a tag's manifest.
func scriptDigest(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg, len(args) == 3, "digest VARIABLE LAYOUT TAG")
	image, err := readImage(ts.MkAbs(args[1]), args[2])
	ts.Check(err)
	ts.Setenv(args[0], image.digest.String())
}

// tags LAYOUT TAG ... fails where LAYOUT has not exactly these tags.
func scriptTags(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg, len(args) >= 1, "tags LAYOUT TAG ...")
	var index ispec.Index
	ts.Check(readJSON(filepath.Join(ts.MkAbs(args[0]), ispec.ImageIndexFile), &index))
	var tags []string
	for _, d := range index.Manifests {
		tags = append(tags, d.Annotations[ispec.AnnotationRefName])
	}
	slices.Sort(tags)
	slices.Sort(args[1:])
	if !slices.Equal(tags, args[1:]) {
		ts.Fatalf("%s has the tags %q", args[0], tags)
	}
}

// paths FOLDER PATH ... fails where FOLDER holds not exactly these paths, folders
// that hold something left out.
func scriptPaths(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg, len(args) >= 1, "paths FOLDER PATH ...")
	all, err := readTree(ts.MkAbs(args[0]), nil)
	ts.Check(err)
	for path := range all {
		for dir := filepath.Dir(path); ; dir = filepath.Dir(dir) {
			delete(all, dir)
			if dir == "." {
				break
			}
		}
	}
	paths := slices.Sorted(maps.Keys(all))
	slices.Sort(args[1:])
	if !slices.Equal(paths, args[1:]) {
		ts.Fatalf("%s holds %q", args[0], paths)
	}
}

// same A B fails where two texts differ.
func scriptSame(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg, len(args) == 2, "same A B")
	if args[0] != args[1] {
		ts.Fatalf("%q is not %q", args[0], args[1])
	}
}

// differ A B fails where two texts are the same.
func scriptDiffer(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg, len(args) == 2, "differ A B")
	if args[0] == args[1] {
		ts.Fatalf("both are %q", args[0])
	}
}

// status COMMAND STATUS ARGUMENT ... fails where COMMAND does not end with STATUS.
func scriptStatus(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, false, len(args) >= 2, "[!] status COMMAND STATUS ARGUMENT ...")
	var exit *exec.ExitError
	got := 0
	if err := ts.Exec(args[0], args[2:]...); errors.As(err, &exit) {
		got = exit.ExitCode()
	} else {
		ts.Check(err)
	}
	if same := strconv.Itoa(got) == args[1]; same == neg {
		ts.Fatalf("exit status %d", got)
	}
}

// hear FIFO waits until somebody has written to FIFO and closed it.
func scriptHear(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg, len(args) == 1, "hear FIFO")
	f, err := os.Open(ts.MkAbs(args[0]))
	ts.Check(err)
	defer f.Close()
	_, err = io.Copy(io.Discard, f)
	ts.Check(err)
}

// cmptree A B [EXCEPT ...] compares two folders entry by entry, in all but times.
// What EXCEPT names by its path from A is left out, with all below it.
func scriptCompareTrees(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, false, len(args) >= 2, "[!] cmptree A B [EXCEPT ...]")
	a, err := readTree(ts.MkAbs(args[0]), args[2:])
	ts.Check(err)
	b, err := readTree(ts.MkAbs(args[1]), args[2:])
	ts.Check(err)
	differences := a.compare(b)
	switch {
	case neg && len(differences) == 0:
		ts.Fatalf("%s and %s are equal", args[0], args[1])
	case !neg && len(differences) > 0:
		ts.Fatalf("%s and %s differ:\n%s", args[0], args[1], strings.Join(differences, "\n"))
	}
}

// idle fails where a mount, a process or a temporary file of this script is left.
func scriptIdle(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, false, len(args) == 0, "[!] idle")
	left := leftovers(ts.Getenv("WORK"))
	tmp, err := os.ReadDir(filepath.Join(ts.Getenv("STATE"), "tmp"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		ts.Fatalf("%v", err)
	}
	for _, entry := range tmp {
		left = append(left, "file "+filepath.Join("$STATE/tmp", entry.Name()))
	}
	switch {
	case neg && len(left) == 0:
		ts.Fatalf("nothing is under way")
	case !neg && len(left) > 0:
		ts.Fatalf("left behind:\n%s", strings.Join(left, "\n"))
	}
}

// gone waits until no mount and no process of this script is left.
func scriptGone(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg, len(args) == 0, "gone")
	deadline := time.Now().Add(time.Minute)
	for left := leftovers(ts.Getenv("WORK")); len(left) > 0; left = leftovers(ts.Getenv("WORK")) {
		if time.Now().After(deadline) {
			ts.Fatalf("left behind:\n%s", strings.Join(left, "\n"))
		}
	}
}

// socket PATH makes a socket that nobody listens at.
func scriptSocket(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg, len(args) == 1, "socket PATH")
	ts.Check(unix.Mknod(ts.MkAbs(args[0]), unix.S_IFSOCK|0o600, 0))
}

// replace FILE OLD NEW replaces OLD, which FILE holds once, by NEW.
func scriptReplace(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg, len(args) == 3, "replace FILE OLD NEW")
	text := ts.ReadFile(args[0])
	if n := strings.Count(text, args[1]); n != 1 {
		ts.Fatalf("%s holds %q %d times, not once", args[0], args[1], n)
	}
	text = strings.Replace(text, args[1], args[2], 1)
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(text), 0o644))
}

// read VARIABLE FILE sets VARIABLE to what FILE holds, without space around it.
func scriptRead(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg, len(args) == 2, "read VARIABLE FILE")
	ts.Setenv(args[0], strings.TrimSpace(ts.ReadFile(args[1])))
}

// registry [CUTS] starts a registry on this machine, and sets REGISTRY to its
// host:port. It breaks off the first CUTS uploads. `! registry` stops it.
func scriptRegistry(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, false, len(args) <= 1, "[!] registry [CUTS]")
	if neg {
		ts.Value(registryKey{}).(*fakeRegistry).stop()
		return
	}
	handler := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	if len(args) == 1 {
		cuts, err := strconv.ParseInt(args[0], 10, 64)
		ts.Check(err)
		handler = cutUploads(handler, cuts)
	}
	server := httptest.NewServer(handler)
	ts.Defer(server.Close)
	ts.Setenv("REGISTRY", server.Listener.Addr().String())
	ts.Value(registryKey{}).(*fakeRegistry).stop = server.Close
}

// cutUploads breaks off the first uploads of blobs, after a part of each.
func cutUploads(handler http.Handler, cuts int64) http.Handler {
	var left atomic.Int64
	left.Store(cuts)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		upload := (r.Method == http.MethodPatch || r.Method == http.MethodPut) && strings.Contains(r.URL.Path, "/blobs/uploads/") && r.ContentLength != 0
		if upload && left.Add(-1) >= 0 {
			_, _ = io.CopyN(io.Discard, r.Body, 10)
			panic(http.ErrAbortHandler)
		}
		handler.ServeHTTP(w, r)
	})
}

// webserver FOLDER serves a folder, for those who say that they are me with the
// password secret, and sets WEB to its host:port. `! webserver` stops it.
func scriptWebserver(ts *testscript.TestScript, neg bool, args []string) {
	if neg {
		ts.Value(registryKey{}).(*fakeRegistry).stop()
		return
	}
	usage(ts, false, len(args) == 1, "[!] webserver FOLDER")
	files := http.FileServer(http.Dir(ts.MkAbs(args[0])))
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if user, password, _ := r.BasicAuth(); user != "me" || password != "secret" {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		files.ServeHTTP(w, r)
	}))
	ts.Defer(server.Close)
	ts.Setenv("WEB", server.Listener.Addr().String())
	ts.Value(registryKey{}).(*fakeRegistry).stop = server.Close
}

// A fakeRegistry is the server of a script, the value of registryKey.
type fakeRegistry struct{ stop func() }

type registryKey struct{}

// mode FILE MODE fails where FILE's permission, setuid, setgid and sticky bits
// are not MODE, in octal.
func scriptMode(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg, len(args) == 2, "mode FILE MODE")
	var st unix.Stat_t
	ts.Check(unix.Lstat(ts.MkAbs(args[0]), &st))
	if mode := fmt.Sprintf("%04o", st.Mode&0o7777); mode != args[1] {
		ts.Fatalf("%s has mode %s, not %s", args[0], mode, args[1])
	}
}

func usage(ts *testscript.TestScript, neg, ok bool, text string) {
	if neg || !ok {
		ts.Fatalf("usage: %s", text)
	}
}

// leftovers names every mount at or under folder, in any mount namespace, and
// every process that runs or stands there.
func leftovers(folder string) []string {
	var left []string
	processes, _ := filepath.Glob("/proc/[0-9]*")
	for _, process := range processes {
		mounts, _ := os.ReadFile(filepath.Join(process, "mountinfo"))
		for line := range strings.Lines(string(mounts)) {
			if strings.Contains(line, folder+"/") {
				left = append(left, "mount "+strings.TrimSpace(line))
			}
		}
		for _, link := range []string{"exe", "cwd", "root"} {
			target, _ := os.Readlink(filepath.Join(process, link))
			if strings.HasPrefix(target, folder+"/") {
				command, _ := os.ReadFile(filepath.Join(process, "cmdline"))
				left = append(left, fmt.Sprintf("process %s %q at %s", filepath.Base(process), command, target))
			}
		}
	}
	slices.Sort(left)
	return slices.Compact(left)
}
