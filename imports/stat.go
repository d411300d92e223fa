package imports

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A stamp is what stat tells of a file that changes when the file does: equal
// stamps, old enough, mean an unchanged file. Times are nanoseconds since 1970.
type stamp struct {
	dev, ino     uint64
	size         int64
	mtime, ctime int64
	mode         uint32 // with the type bits
}

// A status is the stamp of a file, its owner, and the device it is if it is one.
type status struct {
	stamp
	uid, gid     uint32
	major, minor uint32
}

// append appends the stamp, so that others are other bytes.
func (s *stamp) append(b []byte) []byte {
	le := binary.LittleEndian
	b = le.AppendUint64(le.AppendUint64(b, s.dev), s.ino)
	b = le.AppendUint64(le.AppendUint64(b, uint64(s.size)), uint64(s.mtime))
	return le.AppendUint32(le.AppendUint64(b, uint64(s.ctime)), s.mode)
}

func (s *stamp) isDir() bool     { return s.mode&unix.S_IFMT == unix.S_IFDIR }
func (s *stamp) isRegular() bool { return s.mode&unix.S_IFMT == unix.S_IFREG }

// kind returns the Type, 0 for a socket.
func (s *stamp) kind() Type {
	switch s.mode & unix.S_IFMT {
	case unix.S_IFREG:
		return File
	case unix.S_IFDIR:
		return Dir
	case unix.S_IFLNK:
		return Symlink
	case unix.S_IFIFO:
		return Fifo
	case unix.S_IFCHR:
		return Char
	case unix.S_IFBLK:
		return Block
	}
	return 0
}

// statAt looks at the NUL-terminated name in a folder, not following a symlink.
// It allocates nothing: it is called for each file of a tree on each build.
func statAt(dir int, name *byte, flags int, st *status) error {
	var x unix.Statx_t
	for {
		_, _, errno := unix.Syscall6(unix.SYS_STATX, uintptr(dir), uintptr(unsafe.Pointer(name)),
			uintptr(flags|unix.AT_SYMLINK_NOFOLLOW), unix.STATX_BASIC_STATS, uintptr(unsafe.Pointer(&x)), 0)
		if errno == unix.EINTR {
			continue
		}
		if errno != 0 {
			return errno
		}
		break
	}
	st.dev = unix.Mkdev(x.Dev_major, x.Dev_minor)
	st.ino = x.Ino
	st.size = int64(x.Size)
	st.mtime = x.Mtime.Sec*1e9 + int64(x.Mtime.Nsec)
	st.ctime = x.Ctime.Sec*1e9 + int64(x.Ctime.Nsec)
	st.mode = uint32(x.Mode)
	st.uid, st.gid = x.Uid, x.Gid
	st.major, st.minor = x.Rdev_major, x.Rdev_minor
	return nil
}

// statFd looks at an open file.
func statFd(fd int) (st status, err error) {
	var empty byte
	err = statAt(fd, &empty, unix.AT_EMPTY_PATH, &st)
	return st, err
}

// pathMax is how much of a path is given to the kernel at once. PATH_MAX is 4096.
const pathMax = 3500

// openBeneath opens the folder at path below the folder dir, following no symlink and
// leaving it by no "..". The path may be longer than PATH_MAX.
func openBeneath(dir int, path string) (int, error) {
	at := dir
	for {
		head, rest := path, ""
		if len(path) > pathMax {
			cut := strings.LastIndexByte(path[:pathMax], '/')
			if cut <= 0 {
				return -1, unix.ENAMETOOLONG
			}
			head, rest = path[:cut], path[cut+1:]
		}
		how := unix.OpenHow{
			Flags:   unix.O_RDONLY | unix.O_DIRECTORY | unix.O_CLOEXEC | unix.O_NOFOLLOW | unix.O_NONBLOCK,
			Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS,
		}
		if rest != "" {
			how.Flags = unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC
		}
		fd, err := openat2(at, head, &how)
		if at != dir {
			unix.Close(at)
		}
		if err != nil || rest == "" {
			return fd, err
		}
		at, path = fd, rest
	}
}

func openat2(dir int, path string, how *unix.OpenHow) (int, error) {
	for {
		fd, err := unix.Openat2(dir, path, how)
		// EAGAIN: a rename elsewhere made the kernel unsure (openat2(2)).
		if err != unix.EINTR && err != unix.EAGAIN {
			return fd, err
		}
	}
}

// gone reports whether err says that a name no longer means what it did.
func gone(err error) bool {
	return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) ||
		errors.Is(err, unix.EXDEV) || errors.Is(err, unix.ESTALE) || errors.Is(err, unix.ENXIO)
}

// names are the sorted names in a folder, each with a NUL behind it in text.
type names struct {
	text string
	at   []uint32
}

func (n *names) len() int { return len(n.at) }

func (n *names) get(i int) string {
	s := n.text[n.at[i]:]
	return s[:strings.IndexByte(s, 0)]
}

func (n *names) have(name string) bool {
	return strings.HasPrefix(n.text, name+"\x00") || strings.Contains(n.text, "\x00"+name+"\x00")
}

// ptr returns what the kernel takes for the i-th name.
func (n *names) ptr(i int) *byte {
	return unsafe.StringData(n.text[n.at[i]:])
}

// A lister reads folders; it keeps its memory from one to the next.
type lister struct {
	buf, text []byte
	at        []uint32
}

// list reads an open folder from its beginning.
func (l *lister) list(fd int) (names, error) {
	l.text, l.at = l.text[:0], l.at[:0]
	for {
		n, err := unix.ReadDirent(fd, l.buf)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return names{}, err
		}
		if n <= 0 {
			break
		}
		l.add(l.buf[:n])
	}
	all := names{string(l.text), slices.Clone(l.at)}
	// The NUL behind a name sorts before any byte of a longer one.
	slices.SortFunc(all.at, func(a, b uint32) int { return strings.Compare(all.upTo(a), all.upTo(b)) })
	return all, nil
}

// add takes the names from what getdents64(2) wrote.
func (l *lister) add(b []byte) {
	for len(b) > 0 {
		var d unix.Dirent
		size := binary.NativeEndian.Uint16(b[unsafe.Offsetof(d.Reclen):])
		name := b[unsafe.Offsetof(d.Name):size]
		name = name[:bytes.IndexByte(name, 0)+1]
		b = b[size:]
		if string(name) != ".\x00" && string(name) != "..\x00" {
			l.at = append(l.at, uint32(len(l.text)))
			l.text = append(l.text, name...)
		}
	}
}

// upTo returns the text from a name on, cut where comparing surely ends.
func (n *names) upTo(at uint32) string {
	return n.text[at:min(int(at)+256, len(n.text))]
}

// Extended attributes that count: what users set, capabilities, ACLs. Labels of
// security modules depend on the machine, and overlayfs keeps its own books in
// attributes of its name.
func countedXattr(name string, acl bool) bool {
	switch {
	case strings.HasPrefix(name, "user.overlay."):
		return false
	case strings.HasPrefix(name, "user."), name == "security.capability":
		return true
	case name == "system.posix_acl_access", name == "system.posix_acl_default":
		return acl
	}
	return false
}

// An xattrFile is where extended attributes are read: an open file, or, with a
// path, the file that the kernel finds there without following the last element.
type xattrFile struct {
	fd   int
	path string
}

func (f xattrFile) list(b []byte) (int, error) {
	if f.path != "" {
		return unix.Llistxattr(f.path, b)
	}
	return unix.Flistxattr(f.fd, b)
}

func (f xattrFile) get(name string, b []byte) (int, error) {
	if f.path != "" {
		return unix.Lgetxattr(f.path, name, b)
	}
	return unix.Fgetxattr(f.fd, name, b)
}

// read returns the extended attributes that count, sorted by name.
func (f xattrFile) read(acl bool) ([]Xattr, error) {
	list, err := grow(f.list)
	if err != nil || len(list) == 0 {
		return nil, err
	}
	var xs []Xattr
	for name := range strings.SplitSeq(strings.TrimSuffix(string(list), "\x00"), "\x00") {
		if !countedXattr(name, acl) {
			continue
		}
		value, err := grow(func(b []byte) (int, error) { return f.get(name, b) })
		if errors.Is(err, unix.ENODATA) {
			continue // removed meanwhile: the ctime tells
		}
		if err != nil {
			return nil, fmt.Errorf("extended attribute %s: %w", name, err)
		}
		xs = append(xs, Xattr{name, string(value)})
	}
	slices.SortFunc(xs, func(a, b Xattr) int { return strings.Compare(a.Name, b.Name) })
	return xs, nil
}

// grow calls a system call of the listxattr family until its buffer is large
// enough. A filesystem without extended attributes has none.
func grow(call func([]byte) (int, error)) ([]byte, error) {
	var small [256]byte
	for b := small[:]; ; {
		n, err := call(b)
		switch err {
		case nil:
			return bytes.Clone(b[:n]), nil
		case unix.ENOTSUP:
			return nil, nil
		case unix.EINTR:
		case unix.ERANGE:
			if n, err = call(nil); err != nil {
				return nil, err
			}
			b = make([]byte, n+256)
		default:
			return nil, err
		}
	}
}

// procPath names the entry name of an open folder for system calls that take no
// descriptor.
func procPath(dir int, name string) string {
	return fmt.Sprintf("/proc/self/fd/%d/%s", dir, name)
}

// readAt reads at an offset of an open file: at least one byte, or io.EOF.
func readAt(fd int, b []byte, off int64) (int, error) {
	for {
		n, err := unix.Pread(fd, b, off)
		switch {
		case err == unix.EINTR:
		case err != nil:
			return 0, err
		case n == 0:
			return 0, io.EOF
		default:
			return n, nil
		}
	}
}

// writeAt writes all of b at an offset of an open file.
func writeAt(fd int, b []byte, off int64) error {
	for len(b) > 0 {
		n, err := unix.Pwrite(fd, b, off)
		if err != nil && err != unix.EINTR {
			return err
		}
		n = max(n, 0)
		b, off = b[n:], off+int64(n)
	}
	return nil
}

// named says which file an error is about.
func named(path string, err error) error {
	var named *os.PathError
	if err == nil || errors.As(err, &named) {
		return err
	}
	return fmt.Errorf("%s: %w", path, err)
}
