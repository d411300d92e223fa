// Package imports brings what a build reads from outside to where a build can
// read it: local files and folders, other layers' files, http(s) downloads.
//
// A Source names what is to be read. Digest says what it contains, as a Tree:
// the sha256 of a sorted mtree manifest, so cheap to ask again that nothing but
// a walk is needed when nothing changed. What the build then uses is made from
// that manifest, never from a second look at the source:
//
//	t, err := store.Digest(ctx, src)         // what a key is computed from
//	m, err := store.Mirror(ctx, src, t)      // an immutable copy, to be bound into a run
//	err = store.Copy(ctx, src, t, root, …)   // or a copy into a mounted rootfs
//
// Mirror and Copy hash every byte that they take from the source. A source that
// is no longer what t says gives a ChangedError, and nothing of it is seen.
package imports

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/layerbuild/layerbuild/statedir"
)

// Options of a Store.
type Options struct {
	// NoStatIndex makes Digest read every file, and neither use nor write the
	// stat index.
	NoStatIndex bool

	// Forbidden are files and folders that no Source without a Root may be or lie
	// in: the state folder, the OCI layout. A folder that contains them is read
	// without them. The state folder itself is always among them, and "/" is no
	// Source at all.
	Forbidden []string
}

// A Store keeps trees, mirrors, downloads and the stat index in a state folder.
// Any number of processes may use one state folder at once. A Store is safe for
// use by several goroutines.
type Store struct {
	state     string
	place     statedir.Place
	forbidden []forbidden
	index     *statIndex // nil with NoStatIndex

	taken map[string]Tree // what this process measured in its life before

	held     statedir.Held // downloads and manifests; see Close
	mu       sync.Mutex
	measured map[string]Tree // see HandOver
	entries  map[digest.Digest][]Entry
}

type forbidden struct {
	path     string // as it is named in messages
	real     string // without symlinks
	dev, ino uint64 // as avoided found them
}

// Open opens the store in the given state folder and makes the folders it keeps
// there: trees, statindex, mirrors, downloads, partial, tmp. What killed processes left in
// tmp is removed.
func Open(state string, o Options) (*Store, error) {
	state, err := filepath.Abs(state)
	if err != nil {
		return nil, err
	}
	for _, d := range []string{"trees", "statindex/trees", "mirrors/latest", "downloads", "partial", "tmp"} {
		if err := os.MkdirAll(filepath.Join(state, d), 0o755); err != nil {
			return nil, fmt.Errorf("making the state folder: %w", err)
		}
	}
	s := &Store{state: state, measured: map[string]Tree{}, entries: map[digest.Digest][]Entry{}}
	for _, p := range append([]string{state}, o.Forbidden...) {
		f, err := newForbidden(p)
		if err != nil {
			return nil, err
		}
		s.forbidden = append(s.forbidden, f)
	}
	if err := s.dir().Sweep(statedir.Mirrors, statedir.RemoveLeft); err != nil {
		return nil, fmt.Errorf("sweeping the state's tmp folder: %w", err)
	}
	if s.place, err = s.dir().Place(); err != nil {
		return nil, err
	}
	s.taken = s.takeOver()
	if !o.NoStatIndex {
		s.index = newStatIndex(filepath.Join(state, "statindex"))
	}
	return s, nil
}

func (s *Store) dir() statedir.Dir { return statedir.Dir(s.state) }

func newForbidden(path string) (forbidden, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return forbidden{}, err
	}
	f := forbidden{path: path, real: abs}
	// What does not exist yet may still be made below an existing parent.
	for rest := ""; ; {
		if real, err := filepath.EvalSymlinks(abs); err == nil {
			f.real = filepath.Join(real, rest)
			break
		}
		if abs == "/" {
			break
		}
		abs, rest = filepath.Dir(abs), filepath.Join(filepath.Base(abs), rest)
	}
	return f, nil
}

// avoided returns what the build writes and is there now: it may have been made by
// another process since the store was opened.
func (s *Store) avoided() (there []forbidden) {
	for _, f := range s.forbidden {
		var st unix.Stat_t
		if unix.Stat(f.real, &st) == nil {
			f.dev, f.ino = st.Dev, st.Ino
			there = append(there, f)
		}
	}
	return there
}

// refuse returns why a source at the resolved path real may not be read, or nil.
func (s *Store) refuse(path, real string) error {
	if real == "/" {
		return fmt.Errorf("%s is the root folder of this machine: name a folder below it", path)
	}
	for _, f := range s.forbidden {
		is := "is"
		if within(real, f.real) {
			is = "lies in"
		} else if real != f.real {
			continue
		}
		return fmt.Errorf("%s %s %s, which this build writes: import something else, or name another place with --oci-dir or --state-dir", path, is, f.path)
	}
	return nil
}

// within reports whether path lies below dir. Both are absolute and clean.
func within(path, dir string) bool {
	return strings.HasPrefix(path, strings.TrimSuffix(dir, "/")+"/")
}

// A Source is a file or folder to be read.
type Source struct {
	// Path is followed through symlinks, also when it is one itself. Below it,
	// symlinks are content.
	Path string

	// Root, unless empty, is a folder that Path is meant in: a mounted rootfs.
	// Symlinks are then resolved as if Root was "/", and never leave it.
	Root string

	// Within, unless empty, is a folder of this machine that Path is meant in, with
	// symlinks resolved as below a Root.
	Within string

	// Content means the content of the folder at Path, not the folder itself:
	// the folder's own mode and extended attributes do not count.
	Content bool

	// Normalize is "" or NormalizeGit.
	Normalize string

	// Ignore are patterns, as gitignore(5) has them, of what in a folder is no
	// content. With IgnoreFiles, so are those in files named IgnoreFile in the
	// folder and those below it, and these files themselves; Ignore has the last
	// word. What is ignored is not read, and its name is not in the tree.
	Ignore      []string
	IgnoreFiles bool

	// Filters leave in a folder what each of them picks, and the folders on the way to
	// that.
	Filters []Filter

	// Owners count: they are in the tree, and Copy gives them to what it makes.
	Owners bool

	// Reread means that each file is read, whatever the stat index says of it.
	Reread bool
}

// NormalizeGit keeps of modes what git keeps: files are 0755 when their owner
// may execute them, otherwise 0644; folders are 0755; there are no ACLs.
const NormalizeGit = "git"

// id tells the source from others, but for where its Root is.
func (s Source) id() string {
	text := fmt.Appendf(nil, "%t %q %t %q %q %t", s.Root != "", s.Path, s.Content, s.Normalize, s.Ignore, s.IgnoreFiles)
	if s.Within != "" || len(s.Filters) > 0 || s.Owners {
		text = fmt.Appendf(text, " %q %q %t", s.Within, s.Filters, s.Owners)
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:16])
}

// String names the source as messages do.
func (s Source) String() string { return s.Path }

// ErrChanged is in the chain of a ChangedError.
var ErrChanged = errors.New("changed while it was read")

// A ChangedError says that a source is not, or does not stay, what it was when
// it was digested. To digest it again may help, once.
type ChangedError struct{ Path string }

func (e *ChangedError) Error() string {
	return e.Path + " changed while it was read: build again when nothing writes to it"
}

// Unwrap makes errors.Is(err, ErrChanged) true.
func (e *ChangedError) Unwrap() error { return ErrChanged }
