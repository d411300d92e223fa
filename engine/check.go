package engine

import (
	"cmp"
	"context"
	"fmt"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/layerbuild/layerbuild/namespace"
	"github.com/layerbuild/layerbuild/oci"
	"github.com/layerbuild/layerbuild/overlay"
	"github.com/layerbuild/layerbuild/sandbox"
)

// A Finding is what was found out about one thing that a build needs.
type Finding struct {
	What  string // what is needed
	Extra bool   // by some builds only
	Found string // what is there; "" if it does not do
	Cure  string // what is wrong and what to do about it, if it does not do
}

// OK reports whether a build has what it needs.
func (f Finding) OK() bool { return f.Found != "" }

// Bad reports whether no build does without what is missing.
func (f Finding) Bad() bool { return !f.OK() && !f.Extra }

// Check finds out whether this machine can build, by trying. Without a rootsDir root
// filesystems are where they were. It is called with nothing printed yet, see
// namespace.Enter.
func Check(ctx context.Context, stateDir, rootsDir, runtime string) ([]Finding, error) {
	state, err := filepath.Abs(stateDir)
	if err != nil {
		return nil, err
	}
	findings := []Finding{checkKernel(), checkUser()}
	if namespace.Entered() {
		findings = append(findings, checkOverlay(cmp.Or(rootsDir, state)))
		r, err := checkRuntime(ctx, state, runtime)
		if err != nil {
			return nil, err
		}
		findings = append(findings, r)
	}
	for _, f := range []oci.Filesystem{oci.Squashfs, oci.Erofs} {
		findings = append(findings, checkFilesystem(ctx, f))
	}
	return append(findings, checkEmulators()), nil
}

// minKernel is the first that makes all of a bind mount read-only at once, with
// mount_setattr(2).
var minKernel = [2]int{5, 12}

func checkKernel() Finding {
	f := Finding{What: "kernel"}
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		f.Cure = err.Error()
		return f
	}
	release := unix.ByteSliceToString(name.Release[:])
	var major, minor int
	if _, err := fmt.Sscanf(release, "%d.%d", &major, &minor); err != nil {
		f.Cure = fmt.Sprintf("its release %q has no version: use Linux %d.%d or newer", release, minKernel[0], minKernel[1])
		return f
	}
	if major < minKernel[0] || major == minKernel[0] && minor < minKernel[1] {
		f.Cure = fmt.Sprintf("Linux %s is too old: use %d.%d or newer", release, minKernel[0], minKernel[1])
		return f
	}
	f.Found = "Linux " + release
	return f
}

// checkUser finds out whether the user may mount, which the rest is tried with.
func checkUser() Finding {
	f := Finding{What: "user"}
	if err := namespace.Enter(); err != nil {
		f.Cure = err.Error()
		return f
	}
	if why := namespace.OneID(); why != "" {
		f.Extra, f.Cure = true, "only images whose files all belong to root can be built: "+why
		return f
	}
	f.Found = namespace.Who()
	return f
}

func checkOverlay(state string) Finding {
	f := Finding{What: "overlayfs"}
	store, err := overlay.Open(state)
	if err == nil {
		defer store.Close()
		store.Space = namespace.Space{}
		err = store.Supported()
	}
	if err == nil {
		f.Found = "works in " + state
		return f
	}
	f.Cure = err.Error()
	if store, failed := inMemory(state, err); failed == nil {
		defer store.Close()
		f.Extra = true
		f.Cure += untilThen
	}
	return f
}

func checkRuntime(ctx context.Context, state, name string) (Finding, error) {
	f := Finding{What: "runtime"}
	r, err := sandbox.Find(ctx, name, filepath.Join(state, "tmp"))
	switch {
	case ctx.Err() != nil:
		return f, context.Cause(ctx)
	case err != nil:
		f.Cure = err.Error()
	default:
		f.Found = r.Name + " " + r.Version
	}
	return f, nil
}

func checkFilesystem(ctx context.Context, f oci.Filesystem) Finding {
	finding := Finding{What: string(f), Extra: true}
	version, err := f.Version(ctx)
	if err != nil {
		finding.Cure = err.Error()
	} else {
		finding.Found = "its tools are " + version
	}
	return finding
}
