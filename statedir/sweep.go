package statedir

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/layerbuild/layerbuild/locks"
)

// A Kind begins the names in tmp/ of what one package makes there.
type Kind string

// These kinds are locked as long as their process lives, and swept by their packages. All else in
// tmp/ goes when no process uses the state folder: see SweepUnused.
const (
	Blobs    Kind = "blob-"           // packed layers and documents
	Mirrors  Kind = "imports-mirror-" // copies of imports
	Overlays Kind = "overlay-"        // snapshots, with what overlayfs needs and what is mounted there
	Steps    Kind = "sandbox-"        // containers, with their mounts and the names of their cgroups
)

// mounting are the kinds that take more to sweep than removing files.
var mounting = [...]Kind{Overlays, Steps}

// Sweep calls remove with each file and folder of a kind in tmp/ that no process has locked. It is
// locked exclusively by the file, which remove closes, while that takes. Sweep goes on after an
// error, and returns all of them. What a user may remove only in a namespace where that is root
// stays for the next one there.
func (d Dir) Sweep(kind Kind, remove func(left *os.File) error) error {
	names, err := d.Left(kind)
	if err != nil {
		return err
	}
	var failed []error
	for _, path := range names {
		left, err := locks.TryOpen(path, os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOFOLLOW, locks.Exclusive)
		if err == nil {
			err = remove(left)
		}
		if err != nil && !errors.Is(err, locks.ErrHeld) && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, fs.ErrPermission) {
			failed = append(failed, err)
		}
	}
	return errors.Join(failed...)
}

// RemoveLeft is a remove for Sweep: it removes left with all that is in it.
func RemoveLeft(left *os.File) error {
	return errors.Join(os.RemoveAll(left.Name()), left.Close())
}

// Left returns the paths of all that is of a kind in tmp/, locked or not.
func (d Dir) Left(kind Kind) ([]string, error) {
	entries, err := os.ReadDir(d.Path("tmp"))
	if err != nil {
		return nil, err
	}
	var paths []string
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), string(kind)) {
			paths = append(paths, d.Path("tmp", e.Name()))
		}
	}
	return paths, nil
}

// inUse is the file that all processes that use a state folder have locked shared.
const inUse = "in-use"

// Use locks the state folder, shared to use it or exclusively to change it as a whole, until the
// file is closed. It waits for who has it.
func (d Dir) Use(ctx context.Context, how int) (*os.File, error) {
	return locks.Open(ctx, d.Path(inUse), os.O_CREATE|os.O_RDWR, how, "has had the state folder "+string(d))
}

// SweepUnused removes all that is in tmp/ if no process uses the state folder, except what only
// its own package can sweep.
func (d Dir) SweepUnused() error {
	left, err := d.Left("")
	if err != nil {
		return err
	}
	left = slices.DeleteFunc(left, func(path string) bool {
		return slices.ContainsFunc(mounting[:], func(k Kind) bool { return strings.HasPrefix(path, d.Path("tmp", string(k))) })
	})
	if len(left) == 0 {
		return nil
	}
	lock, err := locks.TryOpen(d.Path(inUse), os.O_CREATE|os.O_RDWR, locks.Exclusive)
	if errors.Is(err, locks.ErrHeld) {
		return nil
	}
	if err != nil {
		return err
	}
	defer lock.Close()
	for _, path := range left {
		if err := os.RemoveAll(path); err != nil && !errors.Is(err, fs.ErrPermission) {
			return err
		}
	}
	return nil
}
