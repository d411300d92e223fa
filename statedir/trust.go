package statedir

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Roots is the only link that may be in a state folder: to the folder that --roots-dir named.
const Roots = "roots"

// These are what is in a state folder, and the deeper folders of which a link would lead removals
// astray. What has another name is not layerbuild's, like lost+found.
var (
	folders = []string{
		"builds", "caches", "corrupt", "downloads", "failed", "latest", "layout", "layouts", "locks", "memory", "mirrors",
		"partial", "records", "snapshots", "statindex", "tmp", "tombstones", "trees", "usage",
	}
	files  = []string{"in-use", "owners.json", "place.json", "redaction-key", "version"}
	deeper = []string{"layout/blobs", "layout/blobs/sha256", "mirrors/latest", "downloads/urls", "statindex/trees"}
)

// Check fails if others could have put something into the folder, or could do so: it must belong to
// the user of this process, with all that is in it, and there must be no links in it. What has
// another type than it should have is put aside, as damage. Call it before anything is done there.
// A folder that is not there is fine.
func (d Dir) Check() error {
	var st unix.Stat_t
	if err := unix.Stat(string(d), &st); errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return fmt.Errorf("%s: %w", d, err)
	}
	if err := owned(string(d), st); err != nil {
		return err
	}
	entries, err := os.ReadDir(string(d))
	if err != nil {
		return err
	}
	if mode := st.Mode & 0o7777; len(entries) > 0 && mode&0o022 != 0 {
		return fmt.Errorf("others may write to %s, whose mode is %04o: if none of them did, `chmod 700 %s`; otherwise remove it", d, mode, d)
	}
	names := slices.Clone(deeper)
	for _, e := range entries {
		name, _, _ := strings.Cut(e.Name(), ".") // of a migration: records.3
		if e.Name() == Roots || slices.Contains(files, e.Name()) || slices.Contains(folders, name) {
			names = append(names, e.Name())
		}
	}
	return d.checkEntries(names)
}

// CheckRoots is Check for the folder that --roots-dir names, in which there may be other things and
// which may be root's.
func (d Dir) CheckRoots() error {
	var st unix.Stat_t
	if err := unix.Stat(string(d), &st); errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return fmt.Errorf("%s: %w", d, err)
	}
	if st.Uid != 0 {
		if err := owned(string(d), st); err != nil {
			return err
		}
	}
	if mode := st.Mode & 0o7777; mode&0o022 != 0 && mode&unix.S_ISVTX == 0 {
		return fmt.Errorf("others may write to %s, whose mode is %04o: `chmod go-w %s`, or name another folder with --roots-dir", d, mode, d)
	}
	return d.checkEntries([]string{"snapshots", "failed", "corrupt", "tmp", "owners.json", "place.json"})
}

func (d Dir) checkEntries(names []string) error {
	for _, name := range names {
		path := d.Path(name)
		var st unix.Stat_t
		err := unix.Lstat(path, &st)
		switch {
		case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ENOTDIR):
			continue // removed just now, or below what is put aside
		case err != nil:
			return fmt.Errorf("%s: %w", path, err)
		}
		if err := owned(path, st); err != nil {
			return err
		}
		kind := st.Mode & unix.S_IFMT
		if kind == unix.S_IFLNK && name != Roots {
			return fmt.Errorf("%s is a link: layerbuild follows none in its state folder; --state-dir and --roots-dir name folders on another disk", path)
		}
		isFolder := slices.Contains(folders, name) || slices.Contains(deeper, name)
		if isFolder && kind != unix.S_IFDIR || slices.Contains(files, name) && kind != unix.S_IFREG {
			if err := d.PutOddAside(path); err != nil {
				return fmt.Errorf("%s is neither a file nor a folder of layerbuild's: %w", path, err)
			}
		}
	}
	return nil
}

// PutOddAside puts aside what is at path in the folder, since it has another type than the name says.
// If it is a folder above path that is none, that is put aside.
func (d Dir) PutOddAside(path string) error {
	if _, err := os.Lstat(path); errors.Is(err, unix.ENOTDIR) && path != string(d) {
		return d.PutOddAside(filepath.Dir(path))
	}
	if path == d.Path("corrupt") {
		return os.Remove(path)
	}
	name, err := filepath.Rel(string(d), path)
	if err == nil {
		_, err = d.PutAside(path, "odd-"+strings.ReplaceAll(name, "/", "-"))
	}
	if errors.Is(err, fs.ErrNotExist) { // another was faster
		return nil
	}
	return err
}

// owned fails unless the user of this process has made what is at path.
func owned(path string, st unix.Stat_t) error {
	if me := os.Geteuid(); int(st.Uid) != me {
		return fmt.Errorf("%s belongs to user %d, and this is user %d: run as that user, or name another folder with --state-dir", path, st.Uid, me)
	}
	return nil
}
