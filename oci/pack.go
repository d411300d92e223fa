package oci

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// PackOptions says how a snapshot becomes a layer.
type PackOptions struct {
	Compression Compression             // Gzip when empty
	Level       int                     // 0 is the compression's default
	Epoch       time.Time               // later times in the layer become this one; none do when it is zero
	Exact       bool                    // only whiteouts have the Epoch, and all else the time it has
	Root        bool                    // the root folder's own attributes changed: that alone is a layer
	Discard     bool                    // find the DiffID only; no blob is made
	Progress    func(done, total int64) // told how many bytes of files have been read, of 0 for nobody knows; may be nil
}

// Packed is a packed snapshot.
type Packed struct {
	Layer         // the Descriptor is zero with Discard
	Empty   bool  // there was nothing to pack; all else is zero
	TarSize int64 // bytes before compression
}

// Pack makes a layer of dir, the upper folder of an overlay, in one pass: tar,
// DiffID, compressor on all cores, digest and file each go on while the others do. Memory is
// bounded whatever the size. dir must not change meanwhile; a file that does is
// an error.
//
// Equal content gives equal bytes, whatever the number of cores: entries are
// sorted, times are whole seconds and not later than the epoch, users and groups
// are numbers, there is no atime or ctime. Of several names of one file the
// first in order is the file and the others are links. The root folder is the
// entry "./", so that its mode and owner survive.
//
// Character devices 0/0 become whiteouts, opaque folders an opaque whiteout
// (image spec, layer.md). Overlayfs's own attributes are dropped, and those that
// belong to the machine (SELinux's labels). A socket means nothing in an image
// and is left out, as tar does. What a layer cannot say is an error: a file
// named like a whiteout, an overlay made with redirect_dir or metacopy.
func (s *Store) Pack(ctx context.Context, dir string, o PackOptions) (Packed, error) {
	packed, err := s.pack(ctx, dir, o)
	if err != nil {
		return Packed{}, fmt.Errorf("packing: %w", err)
	}
	return packed, nil
}

func (s *Store) pack(ctx context.Context, dir string, o PackOptions) (Packed, error) {
	compression, level, err := o.Compression.Check(o.Level)
	if err != nil {
		return Packed{}, err
	}
	t := &tarrer{ctx: ctx, epoch: o.Epoch, exact: o.Exact, links: map[inode]string{}, progress: o.Progress}
	if o.Discard {
		z := newBlockWriter(io.Discard, None, 0, s.cores, sha256.New())
		return t.into(z, dir, o.Root)
	}
	w, err := s.NewWriter(ctx)
	if err != nil {
		return Packed{}, err
	}
	defer w.Close()
	packed, err := t.into(newBlockWriter(w, compression, level, s.cores, sha256.New()), dir, o.Root)
	if err != nil || packed.Empty {
		return packed, err
	}
	packed.Descriptor, err = w.Commit()
	packed.MediaType = compression.mediaType()
	return packed, err
}

// inode tells files apart. The number alone does not where dir holds mounts.
type inode struct{ dev, ino uint64 }

// tarrer writes a folder as the tar of a layer.
type tarrer struct {
	ctx     context.Context
	out     *blockWriter
	epoch   time.Time
	exact   bool
	links   map[inode]string // the first name of files that have several
	entries int              // without the root's

	progress func(done, total int64)
	read     int64 // bytes of files
}

// into writes the whole tar and closes what it is written to.
func (t *tarrer) into(z *blockWriter, dir string, root bool) (Packed, error) {
	t.out = z
	err := t.root(dir)
	if closeErr := z.Close(); err == nil { // also ends its goroutines
		err = closeErr
	}
	if err != nil {
		return Packed{}, err
	}
	if t.entries == 0 && !root {
		return Packed{Empty: true}, nil
	}
	return Packed{Layer: Layer{DiffID: sumDigest(z.sum)}, TarSize: z.size}, nil
}

// root writes the whole tar.
func (t *tarrer) root(dir string) error {
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: dir, Err: err}
	}
	f := os.NewFile(uintptr(fd), dir)
	defer f.Close()
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return &os.PathError{Op: "stat", Path: dir, Err: err}
	}
	if err := t.folder(f, ".", &st, procPath(f, ".")); err != nil {
		return err
	}
	return t.zeros(2 * tarBlock) // the end, as POSIX has it
}

// put writes a header. Each has a tar writer of its own, so that what the file holds
// can be read past it into the blocks that are compressed.
func (t *tarrer) put(hdr *tar.Header) error { return tar.NewWriter(t.out).WriteHeader(hdr) }

// folder writes a folder's own entry and, sorted by name, what is in it.
func (t *tarrer) folder(f *os.File, name string, st *unix.Stat_t, xattrPath string) error {
	xattrs, err := overlayXattrs(xattrPath)
	if err != nil {
		return fmt.Errorf("/%s: %w", name, err)
	}
	hdr := t.header(name+"/", st, xattrs.records)
	hdr.Typeflag = tar.TypeDir
	if err := t.put(hdr); err != nil {
		return fmt.Errorf("/%s: %w", name, err)
	}
	if xattrs.opaque {
		if err := t.whiteout(path.Join(name, ".wh..wh..opq")); err != nil {
			return err
		}
	}
	names, err := f.Readdirnames(-1)
	if err != nil {
		return fmt.Errorf("reading the folder /%s: %w", name, err)
	}
	slices.Sort(names)
	for _, base := range names {
		if err := context.Cause(t.ctx); err != nil {
			return err
		}
		if err := t.entry(f, base, path.Join(name, base)); err != nil {
			return err
		}
	}
	return nil
}

// entry writes what stands in a folder under the name base.
func (t *tarrer) entry(dir *os.File, base, name string) error {
	if strings.HasPrefix(base, ".wh.") {
		return fmt.Errorf("/%s: a layer cannot hold a file of that name, since \".wh.\" marks deleted files; rename it", name)
	}
	var st unix.Stat_t
	if err := unix.Fstatat(int(dir.Fd()), base, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return changed(name, err)
	}
	kind := st.Mode & unix.S_IFMT
	switch {
	case kind == unix.S_IFCHR && st.Rdev == 0: // before links: overlayfs links its whiteouts
		return t.whiteout(path.Join(path.Dir(name), ".wh."+base))
	case kind == unix.S_IFSOCK:
		return nil
	}
	t.entries++
	if kind == unix.S_IFDIR {
		f, err := openAt(dir, base, unix.O_DIRECTORY)
		if err != nil {
			return changed(name, err)
		}
		defer f.Close()
		return t.folder(f, name, &st, procPath(f, "."))
	}
	if err := t.file(dir, base, name, &st); err != nil {
		if errors.Is(err, unix.ENOENT) {
			return changed(name, err)
		}
		return fmt.Errorf("/%s: %w", name, err)
	}
	return nil
}

// file writes what is not a folder.
func (t *tarrer) file(dir *os.File, base, name string, st *unix.Stat_t) error {
	if st.Nlink > 1 {
		id := inode{st.Dev, st.Ino}
		if first, ok := t.links[id]; ok {
			hdr := t.header(name, st, nil)
			hdr.Typeflag, hdr.Linkname = tar.TypeLink, first
			return t.put(hdr)
		}
		t.links[id] = name
	}
	xattrs, err := overlayXattrs(procPath(dir, base))
	if err != nil {
		return err
	}
	hdr := t.header(name, st, xattrs.records)
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		return t.regular(dir, base, hdr, st)
	case unix.S_IFLNK:
		hdr.Typeflag = tar.TypeSymlink
		hdr.Mode = 0o777
		hdr.Linkname, err = os.Readlink(procPath(dir, base))
	case unix.S_IFIFO:
		hdr.Typeflag = tar.TypeFifo
	case unix.S_IFCHR, unix.S_IFBLK:
		hdr.Typeflag = tar.TypeChar
		if st.Mode&unix.S_IFMT == unix.S_IFBLK {
			hdr.Typeflag = tar.TypeBlock
		}
		hdr.Devmajor, hdr.Devminor = int64(unix.Major(st.Rdev)), int64(unix.Minor(st.Rdev))
	default:
		err = fmt.Errorf("file type %#o is not known", st.Mode&unix.S_IFMT)
	}
	if err != nil {
		return err
	}
	return t.put(hdr)
}

// regular writes a regular file and makes sure that it stayed as st says.
func (t *tarrer) regular(dir *os.File, base string, hdr *tar.Header, st *unix.Stat_t) error {
	f, err := openAt(dir, base, unix.O_NONBLOCK)
	if err != nil {
		return err
	}
	defer f.Close()
	hdr.Typeflag, hdr.Size = tar.TypeReg, st.Size
	if err := t.put(hdr); err != nil {
		return err
	}
	if st.Blocks*512 < st.Size {
		err = t.sparse(f, st.Size)
	} else {
		err = t.data(f, st.Size)
	}
	if err == nil {
		err = t.zeros(-st.Size & (tarBlock - 1))
	}
	if err != nil {
		return err
	}
	var now unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &now); err != nil {
		return err
	}
	if now.Dev != st.Dev || now.Ino != st.Ino || now.Size != st.Size || now.Mtim != st.Mtim || now.Ctim != st.Ctim {
		return errChanged
	}
	return nil
}

var errChanged = errors.New("it changed while it was packed; is something still running in the layer?")

// changed makes an error of a file that was there a moment ago.
func changed(name string, err error) error {
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) {
		err = errChanged
	}
	return fmt.Errorf("/%s: %w", name, err)
}

// data writes the next n bytes of f.
func (t *tarrer) data(f io.Reader, n int64) error {
	for n > 0 {
		if err := context.Cause(t.ctx); err != nil {
			return err
		}
		k, err := t.out.readSome(f, n)
		if err == io.EOF {
			return errChanged
		}
		if err != nil {
			return err
		}
		n -= int64(k)
		if t.read += int64(k); t.progress != nil {
			t.progress(t.read, 0)
		}
	}
	return nil
}

// sparse writes a file with holes; those are written as zeros without being read.
func (t *tarrer) sparse(f io.ReadSeeker, size int64) error {
	for at := int64(0); at < size; {
		data, err := f.Seek(at, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			data = size // only a hole is left
		} else if err != nil {
			return err
		}
		data = min(data, size)
		if err := t.zeros(data - at); err != nil {
			return err
		}
		if data == size {
			return nil
		}
		hole, err := f.Seek(data, unix.SEEK_HOLE)
		if err != nil {
			return err
		}
		if _, err := f.Seek(data, io.SeekStart); err != nil {
			return err
		}
		at = min(hole, size)
		if err := t.data(f, at-data); err != nil {
			return err
		}
	}
	return nil
}

// zeros writes n zero bytes.
func (t *tarrer) zeros(n int64) error {
	for n > 0 {
		if err := context.Cause(t.ctx); err != nil {
			return err
		}
		k, err := t.out.readSome(zeroReader{}, n)
		if err != nil {
			return err
		}
		n -= int64(k)
	}
	return nil
}

// zeroReader reads as zeros.
type zeroReader struct{}

func (zeroReader) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

// whiteout writes the entry of a deleted file or an opaque folder. It has no
// owner, no mode and the epoch's time: nobody reads them.
func (t *tarrer) whiteout(name string) error {
	t.entries++
	return t.put(&tar.Header{Typeflag: tar.TypeReg, Name: name, ModTime: t.epoch.Truncate(time.Second), Format: tar.FormatPAX})
}

// header returns what all kinds of entries have in common. Names and links that
// are not UTF-8 go into pax records as they are.
func (t *tarrer) header(name string, st *unix.Stat_t, records map[string]string) *tar.Header {
	mtime := time.Unix(st.Mtim.Sec, 0)
	if !t.exact && !t.epoch.IsZero() && mtime.After(t.epoch) {
		mtime = t.epoch.Truncate(time.Second)
	}
	return &tar.Header{
		Name:       name,
		Mode:       int64(st.Mode & 0o7777),
		Uid:        int(st.Uid),
		Gid:        int(st.Gid),
		ModTime:    mtime,
		PAXRecords: records,
		Format:     tar.FormatPAX,
	}
}

// openAt opens a file of a folder for reading, without following a link.
func openAt(dir *os.File, base string, flags int) (*os.File, error) {
	fd, err := unix.Openat(int(dir.Fd()), base, flags|unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), filepath.Join(dir.Name(), base)), nil
}

// procPath is a path to a name in an open folder that is short at any depth.
func procPath(dir *os.File, base string) string {
	return fdPath(int(dir.Fd())) + "/" + base
}
