package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	ispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// peers builds a chain of ten layers with other tools too, as far as they can be had.
func peers(b *bench) error {
	base, err := busybox()
	if err != nil {
		return err
	}
	chain, err := b.project("peers", layered(base, 10, true, "echo N > /fileN"))
	if err != nil {
		return err
	}
	var file strings.Builder
	file.WriteString("FROM localhost/base\n")
	for i := range 10 {
		fmt.Fprintf(&file, "RUN echo %d > /file%d\n", i, i)
	}
	if err := os.WriteFile(filepath.Join(chain, "Dockerfile"), []byte(file.String()), 0o644); err != nil {
		return err
	}
	ours := b.layerbuild(chain, "build", "--quiet", "--no-cache")
	if err := b.buildah(base, chain, ours); err != nil {
		return err
	}
	return b.buildkit(base, chain, ours)
}

// buildah builds the chain with buildah, where that is installed.
func (b *bench) buildah(base, chain string, ours []string) error {
	if path, _ := exec.LookPath("buildah"); path == "" {
		fmt.Println("buildah is not installed: it is not measured")
		return nil
	}
	for _, driver := range []string{"overlay", "vfs"} {
		root, run := filepath.Join(b.dir, driver), filepath.Join(b.dir, driver+"-run")
		if _, err := timed([]string{"skopeo", "copy", "--quiet", "oci:" + base + ":latest", fmt.Sprintf("containers-storage:[%s@%s+%s]localhost/base:latest", driver, root, run)}); err != nil {
			return err
		}
		buildah := []string{"buildah", "--storage-driver", driver, "--root", root, "--runroot", run, "bud", "--quiet", "--layers", "--no-cache", "--isolation", "chroot", chain}
		err := compareSides("a chain of 10 layers, cold : buildah, "+driver,
			func() (time.Duration, error) { return timed(ours) },
			func() (time.Duration, error) { return timedBuildah(buildah) })
		if err != nil {
			return err
		}
	}
	return nil
}

// timedBuildah is timed, but begins again when buildah could not start a step: what to do
// there is in a memfd that it seals, which Linux refuses with EBUSY while anything else
// in the kernel holds a page of it, as may be on a busy machine (F_SEAL_WRITE).
func timedBuildah(args []string) (took time.Duration, err error) {
	for range 3 {
		if took, err = timed(args); err == nil || !strings.Contains(err.Error(), "sealing memfd") {
			break
		}
	}
	return took, err
}

// buildkitVersion is built out of its module, and is no part of this one.
const buildkitVersion = "v0.24.0"

// buildkit builds the chain with BuildKit, whose daemon is running already, as root
// with runc on overlayfs, to an OCI layout as we do.
func (b *bench) buildkit(base, chain string, ours []string) error {
	bin, err := buildkitBinaries()
	if err != nil {
		fmt.Printf("BuildKit cannot be had, it is not measured: %v\n", err)
		return nil
	}
	manifest, err := manifestOf(base)
	if err != nil {
		return err
	}
	dir := filepath.Join(b.dir, "buildkit")
	address := "unix://" + filepath.Join(dir, "socket")
	daemon := exec.Command(filepath.Join(bin, "buildkitd"), "--root", dir, "--addr", address, "--config", os.DevNull,
		"--containerd-worker=false", "--oci-worker=true", "--oci-worker-snapshotter=overlayfs", "--oci-worker-binary=runc", "--oci-worker-net=host")
	log, err := os.Create(dir + ".log")
	if err != nil {
		return err
	}
	defer log.Close()
	daemon.Stdout, daemon.Stderr = log, log
	if err := daemon.Start(); err != nil {
		return err
	}
	defer func() {
		_ = daemon.Process.Signal(syscall.SIGTERM)
		_ = daemon.Wait()
	}()
	control := func(args ...string) []string {
		return append([]string{filepath.Join(bin, "buildctl"), "--addr", address}, args...)
	}
	if err := answers(control("debug", "workers")); err != nil {
		return fmt.Errorf("buildkitd does not start: %w", err)
	}
	build := control("build", "--progress", "quiet", "--frontend", "dockerfile.v0", "--no-cache",
		"--local", "context="+chain, "--local", "dockerfile="+chain,
		"--oci-layout", "base="+base, "--opt", "context:localhost/base=oci-layout://base@"+manifest,
		"--output", "type=oci,tar=false,dest="+filepath.Join(b.dir, "buildkit-oci"))
	if _, err := timed(build); err != nil { // takes in the base
		return err
	}
	return compare("a chain of 10 layers, cold : BuildKit", ours, build)
}

// answers waits until a command succeeds.
func answers(args []string) (err error) {
	for begun := time.Now(); time.Since(begun) < 30*time.Second; time.Sleep(50 * time.Millisecond) {
		if _, err = timed(args); err == nil {
			return nil
		}
	}
	return err
}

// buildkitBinaries returns a folder with buildkitd and buildctl, and builds them unless
// an earlier benchmark has.
func buildkitBinaries() (string, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	dir := filepath.Join(cache, "layerbuild-bench", "buildkit-"+buildkitVersion)
	if _, err := os.Stat(dir); err == nil {
		return dir, nil
	}
	// Its go.mod excludes versions, so `go install` of it is refused.
	out, err := exec.Command("go", "mod", "download", "-json", "github.com/moby/buildkit@"+buildkitVersion).Output()
	if err != nil {
		return "", fmt.Errorf("go mod download: %w: %.200s", err, out)
	}
	var module struct{ Dir string }
	if err := json.Unmarshal(out, &module); err != nil {
		return "", err
	}
	made := dir + ".new"
	build := exec.Command("go", "build", "-mod=readonly", "-o", made+"/", "./cmd/buildkitd", "./cmd/buildctl")
	build.Dir, build.Env = module.Dir, append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=", "GOWORK=off")
	if err := errors.Join(os.RemoveAll(made), os.MkdirAll(made, 0o755)); err != nil {
		return "", err
	}
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build: %w: %.200s", err, out)
	}
	return dir, os.Rename(made, dir)
}

// manifestOf is the digest of the only image of an OCI layout that is tagged latest.
func manifestOf(layout string) (string, error) {
	text, err := os.ReadFile(filepath.Join(layout, ispec.ImageIndexFile))
	if err != nil {
		return "", err
	}
	var index ispec.Index
	if err := json.Unmarshal(text, &index); err != nil {
		return "", err
	}
	for _, d := range index.Manifests {
		if d.Annotations[ispec.AnnotationRefName] == "latest" {
			return d.Digest.String(), nil
		}
	}
	return "", fmt.Errorf("%s has no tag latest", layout)
}
