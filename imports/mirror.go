package imports

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/layerbuild/layerbuild/inroot"
	"github.com/layerbuild/layerbuild/locks"
	"github.com/layerbuild/layerbuild/statedir"
)

// A Mirror is an immutable copy of a tree in the state folder: owned by root,
// with modes and extended attributes as the tree says, every mtime MirrorTime.
// No process takes it away before Release.
type Mirror struct {
	Path string // of the folder or file

	dir *lockedDir
}

// MirrorTime is the mtime of everything in a Mirror, in seconds since 1970:
// 1980-01-01T00:00:00Z.
const MirrorTime = 315532800

// Release lets others remove the mirror.
func (m *Mirror) Release() error { return m.dir.Close() }

// Mirror returns the mirror of t, and makes it from src if there is none. What
// was the same in the last mirror of src is not copied again. If somebody else
// is making it, Mirror waits.
//
// A mirror is a folder mirrors/HEX of the state folder with two entries: root, the copy, and boot, the
// ids of the boot of this machine and of the state folder's place in which it was written or checked.
// Nothing is synced, since that would cost more than making it; a power cut may thus damage it, but
// starts another boot, and then a mirror is checked against its digest before it is used. One that was
// copied with the state folder is made again. Who uses a mirror has a shared
// lock (flock) on its folder, who changes or removes one an exclusive lock.
//
// A source that is not t any more gives a ChangedError.
func (s *Store) Mirror(ctx context.Context, src Source, t Tree) (*Mirror, error) {
	for range attempts {
		m, err := s.findMirror(ctx, t.Digest)
		if m != nil || err != nil {
			return m, err
		}
		if err := s.makeMirror(ctx, src, t.Digest); err != nil {
			return nil, err
		}
	}
	return nil, fmt.Errorf("%s is taken away by other builds again and again: build again", s.mirrorDir(t.Digest))
}

// mirrorDir is where the mirror of a tree is.
func (s *Store) mirrorDir(d digest.Digest) string {
	return filepath.Join(s.state, "mirrors", d.Encoded())
}

// hintPath is the file that names the last mirror of a source. In a Root, which
// may be mounted elsewhere each time, it is that of the same path in any.
func (s *Store) hintPath(src Source) string {
	return filepath.Join(s.state, "mirrors", "latest", src.id())
}

// findMirror returns a mirror that is there and can be trusted, or nil.
func (s *Store) findMirror(ctx context.Context, d digest.Digest) (*Mirror, error) {
	dir, err := s.lockDir(ctx, s.mirrorDir(d), locks.Shared)
	if err != nil || dir == nil {
		return nil, err
	}
	m := &Mirror{Path: filepath.Join(dir.path, "root"), dir: dir}
	trust, err := s.trust(dir.path)
	if err == nil && trust == checkable {
		err = s.checkMirror(ctx, m, d)
	}
	if err == nil && trust != foreign {
		return m, nil
	}
	_ = m.Release() // the error is what matters
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	if dir, err = s.takeMirror(d); err != nil || dir == nil {
		return nil, err
	}
	return nil, dir.remove()
}

// How far a mirror can be trusted.
const (
	trusted   = iota // it was written or checked here, in this boot
	checkable        // the same, in another boot, whose power may have been cut
	foreign          // the state folder was copied with it: owners and times may be lost
)

// trust returns how far the mirror in dir can be trusted.
func (s *Store) trust(dir string) (int, error) {
	now, err := s.origin()
	if err != nil {
		return foreign, err
	}
	text, _ := statedir.ReadFile(filepath.Join(dir, "boot"))
	was := string(text)
	_, place, known := strings.Cut(was, " ")
	switch {
	case was == now:
		return trusted, nil
	case place == s.place.ID, !known && s.place.Elders:
		return checkable, nil
	}
	return foreign, nil
}

// origin returns what a mirror that is written or checked now has in its file boot: the ids of the
// boot and of the state folder's place.
func (s *Store) origin() (string, error) {
	boot, err := bootID()
	return boot + " " + s.place.ID, err
}

// checkMirror reads a mirror of an earlier boot and notes that it is sound.
func (s *Store) checkMirror(ctx context.Context, m *Mirror, d digest.Digest) error {
	r, err := s.read(ctx, Source{Path: "root", Root: m.dir.path}, nil)
	if err != nil {
		return err
	}
	if r.folder.digest() != d {
		return ErrCorrupt
	}
	origin, err := s.origin()
	if err != nil {
		return err
	}
	return s.writeHint(filepath.Join(m.dir.path, "boot"), origin)
}

// takeMirror moves a mirror that nobody uses into tmp/, and returns it locked for
// this process alone; nil if it is not there, or used.
func (s *Store) takeMirror(d digest.Digest) (*lockedDir, error) {
	dir, err := s.tryDir(s.mirrorDir(d), locks.Exclusive)
	if err != nil || dir == nil {
		return nil, err
	}
	if err := dir.rename(s.dir().TmpName(statedir.Mirrors)); err != nil {
		dir.Close()
		return nil, err
	}
	return dir, nil
}

// makeMirror makes the mirror of d from src, out of the last mirror of src if
// that helps.
func (s *Store) makeMirror(ctx context.Context, src Source, d digest.Digest) (err error) {
	making, err := locks.Take(ctx, s.mirrorDir(d)+".lock", "has been copying the same import")
	if err != nil {
		return err
	}
	defer making.Unlock()
	if _, err := os.Lstat(s.mirrorDir(d)); err == nil {
		return nil // somebody else was faster
	}
	hint := s.hintPath(src)
	last := readHint(hint)
	var entries, old []Entry
	var reading errgroup.Group
	reading.Go(func() (err error) { entries, err = s.Entries(d); return err })
	reading.Go(func() (err error) { old, err = s.lastEntries(ctx, last); return err })
	if err := reading.Wait(); err != nil {
		return err
	}
	s.forget()
	dir, err := s.moldMirror(ctx, src, entries, last, old)
	if err != nil {
		return err
	}
	if err := dir.rename(s.mirrorDir(d)); err != nil {
		return errors.Join(err, dir.remove())
	}
	return errors.Join(dir.Close(), s.writeHint(hint, d.String()))
}

// moldMirror makes the folder of a mirror in tmp/. If most of the mirror of last,
// whose entries old are unless there is none, is in it, and nobody uses that one, it is changed into the new one; if it is
// used, equal files are links to its files.
func (s *Store) moldMirror(ctx context.Context, src Source, entries []Entry, last digest.Digest, old []Entry) (*lockedDir, error) {
	changes := differing(old, entries)
	gone := 0
	for _, c := range changes {
		if c.old != nil {
			gone++
		}
	}
	if 2*gone > len(old) {
		old = nil // too little is the same
	}
	if old != nil {
		dir, err := s.takeMirror(last)
		if err != nil {
			return nil, err
		}
		if dir != nil {
			return dir, orRemove(dir, s.changeMirror(ctx, src, dir, changes, entries))
		}
	}
	if old == nil {
		last = ""
	}
	dir, err := s.newDir()
	if err != nil {
		return nil, err
	}
	return dir, orRemove(dir, s.newMirror(ctx, src, dir, entries, last, changes))
}

func orRemove(dir *lockedDir, err error) error {
	if err != nil {
		err = errors.Join(err, dir.remove())
	}
	return err
}

// lastEntries returns the manifest of a mirror of a folder that is there and
// sound, or nil.
func (s *Store) lastEntries(ctx context.Context, last digest.Digest) ([]Entry, error) {
	if last == "" {
		return nil, nil
	}
	m, err := s.findMirror(ctx, last)
	if m == nil || err != nil {
		return nil, err
	}
	defer m.Release()
	entries, err := s.Entries(last)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, ErrCorrupt) || err == nil && entries[0].Type != Dir {
		return nil, nil
	}
	return entries, err
}

// changeMirror makes the changes in the folder of a mirror, so that it has entries.
func (s *Store) changeMirror(ctx context.Context, src Source, dir *lockedDir, changes []change, entries []Entry) error {
	if err := removeOld(dir.fd(), changes); err != nil {
		return fmt.Errorf("changing a mirror: %w", err)
	}
	fresh, touched := split(changes, entries)
	return s.fillMirror(ctx, src, dir, fresh, touched, fill{share: -1})
}

// removeOld removes what the changes say is gone or other. A changed file is a
// new file, since the old one may be another mirror's too.
func removeOld(mirror int, changes []change) error {
	for _, c := range slices.Backward(changes) {
		if c.old == nil {
			continue
		}
		p := path.Join("root", c.path)
		parent, err := openBeneath(mirror, path.Dir(p))
		if err != nil {
			return err
		}
		err = removeFrom(parent, path.Base(p), c)
		unix.Close(parent)
		if err != nil {
			return err
		}
	}
	return nil
}

// removeFrom removes the old file of a change from an open folder; of a folder
// that stays, its extended attributes.
func removeFrom(parent int, name string, c change) error {
	switch {
	case c.bothDirs():
		for _, x := range c.old.Xattrs {
			if err := unix.Lremovexattr(procPath(parent, name), x.Name); err != nil {
				return fmt.Errorf("extended attribute %s: %w", x.Name, err)
			}
		}
		return nil
	case c.old.Type == Dir:
		return unix.Unlinkat(parent, name, unix.AT_REMOVEDIR)
	}
	return unix.Unlinkat(parent, name, 0)
}

// split returns the entries that the changes bring, and the folders that stay
// but whose metadata the changes touch.
func split(changes []change, entries []Entry) (fresh []Entry, touched []*Entry) {
	dirs := map[string]bool{}
	for _, c := range changes {
		dirs[path.Dir(c.path)] = true
		switch {
		case c.bothDirs():
			dirs[c.path] = true
		case c.new != nil:
			fresh = append(fresh, *c.new)
		}
	}
	for i := range entries {
		if entries[i].Type == Dir && dirs[entries[i].Path] {
			touched = append(touched, &entries[i])
		}
	}
	return fresh, touched
}

// newMirror makes entries in an empty folder. Files that are not in changes are
// links to those of the mirror of last, as far as that can be.
func (s *Store) newMirror(ctx context.Context, src Source, dir *lockedDir, entries []Entry, last digest.Digest, changes []change) error {
	f := fill{share: -1}
	if last != "" {
		m, err := s.findMirror(ctx, last)
		if err != nil {
			return err
		}
		if m != nil {
			defer m.Release()
			if f.share, err = openBeneath(m.dir.fd(), "root"); err != nil {
				return err
			}
			defer unix.Close(f.share)
			f.differs = map[string]bool{}
			for _, c := range changes {
				f.differs[c.path] = true
			}
		}
	}
	if entries[0].Type == Dir {
		if err := (&inroot.NewFolder{Mode: 0o700}).Make(dir.fd(), "root"); err != nil {
			return err
		}
	}
	return s.fillMirror(ctx, src, dir, entries, nil, f)
}

// fillMirror makes entries in the folder of a mirror and notes the boot.
func (s *Store) fillMirror(ctx context.Context, src Source, dir *lockedDir, entries []Entry, touched []*Entry, f fill) error {
	source, _, err := s.openSource(src)
	if err != nil {
		return err
	}
	defer unix.Close(source)
	f.src, f.source, f.root, f.at, f.mtime = src, source, dir.fd(), "root", time.Unix(MirrorTime, 0)
	if err := f.run(ctx, entries, touched); err != nil {
		return err
	}
	origin, err := s.origin()
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir.path, "boot"), []byte(origin), 0o644)
}

// bootID names the current boot of this machine.
func bootID() (string, error) {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(b)), err
}

// readHint returns "" for a hint that is missing or makes no sense.
func readHint(path string) digest.Digest {
	b, err := statedir.ReadFile(path)
	if d := digest.Digest(b); err == nil && d.Validate() == nil {
		return d
	}
	return ""
}

// writeHint replaces a small file that may be lost: it is not synced.
func (s *Store) writeHint(path, text string) error {
	return s.dir().Jot(path, []byte(text))
}
