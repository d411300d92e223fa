package main

import (
	"archive/tar"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	v1 "github.com/moby/docker-image-spec/specs-go/v1"
	ispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/rogpeppe/go-internal/txtar"
)

// TestDockerfiles builds each testdata/dockerfiles/*.txtar with buildah and, converted, with
// layerbuild, and compares the images: each file by its type, mode, owner, link and content,
// and the configuration field by field. What buildah does not know is only built: the first
// line of such a project says so.
func TestDockerfiles(t *testing.T) {
	if os.Getenv("LAYERBUILD_LONG") == "" {
		t.Skip("a comparison with buildah, which takes minutes: `make test-long` runs it")
	}
	dir := t.TempDir()
	host := startDockerRegistry(t, dir)
	makeBases(t, dir, host)
	projects, err := filepath.Glob("testdata/dockerfiles/*.txtar")
	if err != nil || len(projects) < 10 {
		t.Fatalf("%d projects, %v", len(projects), err)
	}
	for _, project := range projects {
		name := strings.TrimSuffix(filepath.Base(project), ".txtar")
		t.Run(name, func(t *testing.T) {
			work := filepath.Join(dir, name)
			about := unpackProject(t, project, work, host)
			runQuietly(t, layerbuildIn(work, "convert"))
			runQuietly(t, layerbuildIn(work, "--oci-dir", work+".ours", "build"))
			if strings.Contains(about, "not by buildah") {
				t.Skip("built, but compared with nothing: " + about)
			}
			buildah := func(args ...string) {
				storage := []string{"--root", filepath.Join(dir, "storage"), "--runroot", filepath.Join(dir, "run"), "--storage-driver", "vfs"}
				runQuietly(t, exec.Command("buildah", append(storage, args...)...))
			}
			buildah("bud", "--isolation", "chroot", "--format", "docker", "--tls-verify=false", "-t", name, "-f", filepath.Join(work, "Dockerfile"), work)
			buildah("push", name, "oci:"+work+".theirs:app")
			theirs, ours := readBuilt(t, work+".theirs", ""), readBuilt(t, work+".ours", "")
			for _, line := range ours.differences(theirs) {
				t.Error(line)
			}
		})
	}
}

func layerbuildIn(dir string, args ...string) *exec.Cmd {
	cmd := exec.Command("layerbuild", args...) // TestMain has put it on PATH
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "XDG_CACHE_HOME="+filepath.Join(filepath.Dir(dir), "cache"), "HOME="+filepath.Dir(dir))
	return cmd
}

func runQuietly(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(cmd.Args, " "), err, out)
	}
}

// startDockerRegistry runs a registry and returns its host and port.
func startDockerRegistry(t *testing.T, dir string) string {
	t.Helper()
	host := freeAddress(t)
	config := filepath.Join(dir, "registry.yml")
	text := fmt.Sprintf("version: 0.1\nstorage: {filesystem: {rootdirectory: %q}}\nhttp: {addr: %q}\nlog: {level: error}\n", filepath.Join(dir, "registry"), host)
	if err := os.WriteFile(config, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	serve(t, exec.Command("docker-registry", "serve", config))
	waitFor(t, func() error {
		conn, err := net.Dial("tcp", host)
		if err == nil {
			conn.Close()
		}
		return err
	})
	return host
}

func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// serve runs a program until the test ends.
func serve(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(os.Interrupt)
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("%s:\n%s", cmd.Path, out.Bytes()[max(0, out.Len()-4000):])
		}
	})
}

// waitFor asks until the answer is no error, for a minute at most.
func waitFor(t *testing.T, ask func() error) {
	t.Helper()
	ctx, stop := context.WithTimeout(t.Context(), time.Minute)
	defer stop()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		err := ask()
		if err == nil {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatal(err)
		}
	}
}

// makeBases builds and pushes the bases that the projects start from.
func makeBases(t *testing.T, dir, host string) {
	t.Helper()
	work := filepath.Join(dir, "bases")
	if err := os.Mkdir(work, 0o755); err != nil {
		t.Fatal(err)
	}
	debian, err := exec.Command("../../scripts/base-debian").Output()
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile("testdata/dockerfiles/bases.yaml")
	if err != nil {
		t.Fatal(err)
	}
	stackerfile := strings.NewReplacer("BUSYBOX", busyboxBase(t), "DEBIAN", strings.TrimSpace(string(debian))).Replace(string(text))
	if err := os.WriteFile(filepath.Join(work, "stacker.yaml"), []byte(stackerfile), 0o644); err != nil {
		t.Fatal(err)
	}
	runQuietly(t, layerbuildIn(work, "build"))
	runQuietly(t, layerbuildIn(work, "publish", "--url", "docker://"+host+"/lib", "--tag", "1"))
}

// unpackProject writes the files of a project, and archives of some of them. It returns what
// the project says of itself.
func unpackProject(t *testing.T, project, dir, host string) (about string) {
	t.Helper()
	archive, err := txtar.ParseFile(project)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range archive.Files {
		file := filepath.Join(dir, f.Name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, bytes.ReplaceAll(f.Data, []byte("REGISTRY"), []byte(host)), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "dir")); err == nil {
		runQuietly(t, exec.Command("tar", "-C", dir, "--owner=7", "--group=8", "-cf", filepath.Join(dir, "archive.tar"), "dir"))
		runQuietly(t, exec.Command("tar", "-C", dir, "-czf", filepath.Join(dir, "archive.tar.gz"), "dir", "a.txt"))
	}
	return strings.TrimSpace(string(archive.Comment))
}

// A builtImage is what an image holds and says.
type builtImage struct {
	files  map[string]string // each file's type, mode, owner, link and content, by path
	config v1.DockerOCIImage
}

// readBuilt unpacks the image of an OCI layout with a tag, or the only one.
func readBuilt(t *testing.T, layout, tag string) builtImage {
	t.Helper()
	read := func(d ispec.Descriptor, into any) {
		data, err := os.ReadFile(filepath.Join(layout, "blobs", d.Digest.Algorithm().String(), d.Digest.Encoded()))
		if err := errors.Join(err, json.Unmarshal(data, into)); err != nil {
			t.Fatal(err)
		}
	}
	var index ispec.Index
	data, err := os.ReadFile(filepath.Join(layout, "index.json"))
	if err := errors.Join(err, json.Unmarshal(data, &index)); err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(index.Manifests, func(d ispec.Descriptor) bool { return tag == "" || d.Annotations[ispec.AnnotationRefName] == tag })
	if i < 0 {
		t.Fatalf("%s has no image %s", layout, tag)
	}
	var manifest ispec.Manifest
	if read(index.Manifests[i], &manifest); manifest.Config.Digest == "" { // an index
		var inner ispec.Index
		read(index.Manifests[i], &inner)
		read(inner.Manifests[0], &manifest)
	}
	image := builtImage{files: map[string]string{}}
	read(manifest.Config, &image.config)
	image.files = treeOf(t, unpacked(t, layout, cmp.Or(index.Manifests[i].Annotations[ispec.AnnotationRefName], tag)))
	return image
}

// unpacked returns a folder with an image's files.
func unpacked(t *testing.T, layout, tag string) string {
	t.Helper()
	dir := layout + ".unpacked"
	copied := layout + ".copy"
	from := "oci:" + layout
	if tag != "" {
		from += ":" + tag
	}
	runQuietly(t, exec.Command("skopeo", "copy", "--quiet", from, "oci:"+copied+":x"))
	runQuietly(t, exec.Command("umoci", "raw", "unpack", "--image", copied+":x", dir))
	return dir
}

// treeOf describes each file of a folder.
func treeOf(t *testing.T, dir string) map[string]string {
	t.Helper()
	packed := exec.Command("tar", "-C", dir, "--numeric-owner", "-cf", "-", ".")
	out, err := packed.Output()
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{}
	r := tar.NewReader(bytes.NewReader(out))
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return files
		}
		content, readErr := io.ReadAll(r)
		if err := errors.Join(err, readErr); err != nil {
			t.Fatal(err)
		}
		files[h.Name] = fmt.Sprintf("%c %04o %d:%d %q %.300q", h.Typeflag, h.Mode, h.Uid, h.Gid, h.Linkname, content)
	}
}

// buildahLeaves are files that buildah mounts into a RUN and leaves in the image, empty.
var buildahLeaves = []string{"./etc/hostname", "./etc/hosts", "./etc/resolv.conf"}

// differences returns in what two images differ, one line each, but for what buildah adds to
// every image. Docker's own fields, such as the health check, are not compared: buildah
// leaves them out of an OCI layout.
func (i builtImage) differences(theirs builtImage) (lines []string) {
	delete(theirs.config.Config.Labels, "io.buildah.version")
	if len(theirs.config.Config.Labels) == 0 {
		theirs.config.Config.Labels = nil // as ours are without any
	}
	for _, path := range slices.Sorted(maps.Keys(i.files)) {
		if want, ok := theirs.files[path]; !ok {
			lines = append(lines, fmt.Sprintf("%s: ours has it: %s", path, i.files[path]))
		} else if i.files[path] != want {
			lines = append(lines, fmt.Sprintf("%s: ours %s, theirs %s", path, i.files[path], want))
		}
	}
	for _, path := range slices.Sorted(maps.Keys(theirs.files)) {
		if _, ok := i.files[path]; !ok && !slices.Contains(buildahLeaves, path) {
			lines = append(lines, fmt.Sprintf("%s: ours lacks it: %s", path, theirs.files[path]))
		}
	}
	ours, other := i.config.Config, theirs.config.Config
	slices.Sort(ours.Env)
	slices.Sort(other.Env)
	for _, field := range []struct {
		name         string
		ours, theirs any
	}{
		{"Env", ours.Env, other.Env}, {"Cmd", ours.Cmd, other.Cmd}, {"Entrypoint", ours.Entrypoint, other.Entrypoint},
		{"WorkingDir", cmp.Or(ours.WorkingDir, "/"), cmp.Or(other.WorkingDir, "/")}, {"User", ours.User, other.User},
		{"Volumes", ours.Volumes, other.Volumes}, {"ExposedPorts", ours.ExposedPorts, other.ExposedPorts}, {"Labels", ours.Labels, other.Labels},
		{"StopSignal", ours.StopSignal, other.StopSignal}, {"platform", i.config.Platform, theirs.config.Platform},
	} {
		a, _ := json.Marshal(field.ours)
		b, _ := json.Marshal(field.theirs)
		if !bytes.Equal(a, b) {
			lines = append(lines, fmt.Sprintf("%s: ours %s, theirs %s", field.name, a, b))
		}
	}
	return lines
}
