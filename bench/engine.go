package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// busybox returns the OCI layout that the tests build on.
func busybox() (string, error) {
	return fixture("scripts/base-busybox")
}

// fixture makes what the tests build on, unless it is there, and returns its path.
func fixture(script ...string) (string, error) {
	out, err := exec.Command(script[0], script[1:]...).Output()
	if err != nil {
		return "", fmt.Errorf("%s: %w", strings.Join(script, " "), err)
	}
	return strings.TrimSpace(string(out)), nil
}

// layered is a stackerfile of n layers with one run, each on the one before or all
// on the same base.
func layered(base string, n int, chained bool, run string) string {
	var w strings.Builder
	for i := range n {
		from := fmt.Sprintf("{type: oci, url: %q}", base+":latest")
		if chained && i > 0 {
			from = fmt.Sprintf("{type: built, tag: layer%d}", i-1)
		}
		fmt.Fprintf(&w, "layer%d:\n  from: %s\n  run: |\n    #!/bin/sh\n    %s\n", i, from, strings.ReplaceAll(run, "N", fmt.Sprint(i)))
	}
	return w.String()
}

// parallel builds layers that have nothing to do but to wait.
func parallel(b *bench) error {
	base, err := busybox()
	if err != nil {
		return err
	}
	dir, err := b.project("parallel", layered(base, 8, false, "sleep 1"))
	if err != nil {
		return err
	}
	build := b.layerbuild(dir, "build", "--quiet", "--no-cache")
	if _, err := timed(build); err != nil {
		return err
	}
	return compare("8 layers of `sleep 1` : `sleep 1`", build, []string{"sleep", "1"})
}

// steps builds steps that do next to nothing, beside the runtime alone.
func steps(b *bench) error {
	base, err := busybox()
	if err != nil {
		return err
	}
	bare, err := b.bareRuntime(base)
	if err != nil {
		return err
	}
	one, err := b.project("one-step", layered(base, 1, false, "true"))
	if err != nil {
		return err
	}
	chain, err := b.project("ten-steps", layered(base, 10, true, "echo N > /fileN"))
	if err != nil {
		return err
	}
	for _, dir := range []string{one, chain} {
		if _, err := timed(b.layerbuild(dir, "build", "--quiet")); err != nil {
			return err
		}
	}
	run := strings.Join(bare, " ")
	if err := compare("`run: true` on a warm base : runc run", b.layerbuild(one, "build", "--quiet", "--no-cache"), bare); err != nil {
		return err
	}
	ten := []string{"sh", "-c", "for i in 0 1 2 3 4 5 6 7 8 9; do " + run + "; done"}
	return compare("a chain of 10 layers, cold : 10 times runc run", b.layerbuild(chain, "build", "--quiet", "--no-cache"), ten)
}

// bareRuntime makes a bundle of an image, and returns the command that runs `true`
// in it. All else of its configuration is what layerbuild gives its steps: the same
// seccomp filter, capabilities, namespaces, mounts and a cgroup of its own.
func (b *bench) bareRuntime(base string) ([]string, error) {
	bundle := filepath.Join(b.dir, "bundle")
	if _, err := timed([]string{"umoci", "unpack", "--image", base + ":latest", bundle}); err != nil {
		return nil, err
	}
	config, err := b.stepConfig(base)
	if err != nil {
		return nil, err
	}
	config.Root.Path = filepath.Join(bundle, "rootfs")
	config.Process.Args = []string{"/bin/true"}
	config.Linux.CgroupsPath = "layerbuild-bench"
	config.Mounts = slices.DeleteFunc(config.Mounts, func(m specs.Mount) bool { return m.Destination == "/stacker" })
	text, err := json.Marshal(config)
	if err != nil {
		return nil, err
	}
	// Through env, as layerbuild is.
	return []string{"env", "runc", "run", "--bundle", bundle, "layerbuild-bench"}, os.WriteFile(filepath.Join(bundle, "config.json"), text, 0o644)
}

// stepConfig is the configuration that the runtime is given for a step, taken by a
// runtime that copies it.
func (b *bench) stepConfig(base string) (*specs.Spec, error) {
	copied := filepath.Join(b.dir, "config.json")
	spy := filepath.Join(b.dir, "runc")
	script := fmt.Sprintf(`#!/bin/sh
last=
for arg; do
	[ "$last" != --bundle ] || cp "$arg/config.json" %s
	last=$arg
done
exec runc "$@"
`, copied)
	if err := os.WriteFile(spy, []byte(script), 0o755); err != nil {
		return nil, err
	}
	dir, err := b.project("spied", layered(base, 1, false, "true"))
	if err != nil {
		return nil, err
	}
	if _, err := timed(b.layerbuild(dir, "build", "--quiet", "--runtime", spy)); err != nil {
		return nil, err
	}
	text, err := os.ReadFile(copied)
	if err != nil {
		return nil, err
	}
	config := &specs.Spec{}
	return config, json.Unmarshal(text, config)
}

// graphs builds graphs of very many layers that are all found in the cache, and
// shows the most memory that took.
func graphs(b *bench) error {
	for _, n := range []int{1000, 10000} {
		var w strings.Builder
		for i := range n {
			fmt.Fprintf(&w, "layer%d:\n  from: {type: scratch}\n  cmd: [c%d]\n  build_only: %v\n", i, i, i > 0)
		}
		dir, err := b.project(fmt.Sprintf("graph-%d", n), w.String())
		if err != nil {
			return err
		}
		build := b.layerbuild(dir, "build", "--quiet")
		if _, err := timed(build); err != nil {
			return err
		}
		if err := compare(fmt.Sprintf("all-hit build, %d layers : --version", n), build, b.layerbuild(dir, "--version")); err != nil {
			return err
		}
		if err := peak(fmt.Sprintf("all-hit build, %d layers", n), build); err != nil {
			return err
		}
	}
	return nil
}

// memory packs a large file and very many small ones, and shows the most memory that
// took.
func memory(b *bench) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	large, many := filepath.Join(b.dir, "large"), filepath.Join(b.dir, "many")
	if err := os.Mkdir(large, 0o755); err != nil {
		return err
	}
	if err := noise(filepath.Join(large, "file"), int64(*size)<<22); err != nil {
		return err
	}
	if err := fill(many, *size*200); err != nil {
		return err
	}
	state := filepath.Join(b.dir, "state-memory")
	for name, dir := range map[string]string{
		fmt.Sprintf("pack a file of %d MiB", *size<<2): large,
		fmt.Sprintf("pack %d files", *size*200):        many,
	} {
		for _, compression := range []string{"gzip", "zstd"} {
			if err := peak(name+", "+compression, []string{self, "pack", state, dir, compression}); err != nil {
				return err
			}
		}
	}
	return nil
}

// noise makes a file that has no holes and nothing to compress.
func noise(path string, size int64) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	_, err = io.CopyN(f, rand.NewChaCha8([32]byte{}), size)
	return errors.Join(err, f.Close())
}

// peak prints the most memory that a command took.
func peak(name string, args []string) error {
	cmd := exec.Command(args[0], args[1:]...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return errors.Join(err, errors.New(string(out)))
	}
	usage, ok := cmd.ProcessState.SysUsage().(*syscall.Rusage)
	if !ok {
		return errors.New("this machine tells nothing of memory")
	}
	fmt.Printf("%-42s %23d MiB\n", name+": peak memory", usage.Maxrss>>10)
	return nil
}
