package oci

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"runtime"
	"sync"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	smallFile   = 256 << 10 // bytes; larger files are not kept in memory
	filesAhead  = 32        // that are kept
	mostWriters = 2         // more only wait for each other in the filesystem
)

// times are those of access and modification.
type times [2]unix.Timespec

// impliedTimes are those of folders that a layer implies without naming them: a layer
// means the same whenever it is unpacked.
var impliedTimes times

// timesOf returns the times of an entry, whose access time is often left out.
func timesOf(hdr *tar.Header) times {
	mtime := timespec(hdr.ModTime)
	if hdr.AccessTime.IsZero() {
		return times{mtime, mtime}
	}
	return times{timespec(hdr.AccessTime), mtime}
}

func timespec(t time.Time) unix.Timespec {
	return unix.Timespec{Sec: t.Unix(), Nsec: int64(t.Nanosecond())}
}

// set gives the times to a name in a folder, and not to what a symlink leads to.
func (t times) set(dir int, name string) error {
	return unix.UtimesNanoAt(dir, name, t[:], unix.AT_SYMLINK_NOFOLLOW)
}

// setOpen gives the times to an open file: utimensat(2) without a path, for which
// x/sys has no function.
func (t times) setOpen(fd int) error {
	if _, _, errno := unix.Syscall6(unix.SYS_UTIMENSAT, uintptr(fd), 0, uintptr(unsafe.Pointer(&t)), 0, 0, 0); errno != 0 {
		return errno
	}
	return nil
}

// permissions returns the mode of an entry as chmod(2) takes it.
func permissions(hdr *tar.Header) uint32 { return uint32(hdr.Mode) & 0o7777 }

// A newFile is a regular file of a layer.
type newFile struct {
	in      *openFolder
	name    string
	hdr     *tar.Header
	content []byte // of a small one
}

func (f *newFile) createSmall() error { return f.create(bytes.NewReader(f.content)) }

// create makes the file, with all its attributes. It fails with unix.EEXIST, and has
// read nothing of r, if there is anything of this name.
func (f *newFile) create(r io.Reader) error {
	fd, err := unix.Openat(f.in.fd, f.name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return err
	}
	w := fdWriter(fd)
	n, err := io.Copy(w, r)
	if err == nil && n != f.hdr.Size {
		err = io.ErrUnexpectedEOF
	}
	// Owner, then mode: a change of owner clears set-id bits.
	if err == nil {
		err = unix.Fchown(fd, f.hdr.Uid, f.hdr.Gid)
	}
	if err == nil {
		err = unix.Fchmod(fd, permissions(f.hdr))
	}
	if err == nil {
		err = timesOf(f.hdr).setOpen(fd)
	}
	return errors.Join(err, unix.Close(fd))
}

// An fdWriter writes to a descriptor. An os.File would be registered with the poller,
// and finalized.
type fdWriter int

func (w fdWriter) Write(p []byte) (int, error) {
	done := 0
	for done < len(p) {
		n, err := unix.Write(int(w), p[done:])
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return done, err
		}
		done += n
	}
	return done, nil
}

// A fileWriter writes small files side by side. Methods are for one goroutine.
type fileWriter struct {
	files   chan *newFile
	free    chan []byte // to read content into
	writing sync.WaitGroup

	mu       sync.Mutex
	err      error // the first
	inTheWay []*newFile
}

func newFileWriter() *fileWriter {
	w := &fileWriter{files: make(chan *newFile, filesAhead), free: make(chan []byte, filesAhead)}
	for range filesAhead {
		w.free <- nil // made when it is needed
	}
	for range min(mostWriters, runtime.GOMAXPROCS(0)) {
		go func() {
			for f := range w.files {
				w.create(f)
			}
		}()
	}
	return w
}

// close ends the goroutines, when all is written.
func (w *fileWriter) close() {
	w.writing.Wait()
	close(w.files)
}

// write reads the content of a small file, and has it written while others are read.
func (w *fileWriter) write(f *newFile, r io.Reader) error {
	buffer := <-w.free
	if cap(buffer) < int(f.hdr.Size) {
		buffer = make([]byte, f.hdr.Size, max(4<<10, 2*f.hdr.Size))
	}
	f.content = buffer[:f.hdr.Size]
	if _, err := io.ReadFull(r, f.content); err != nil {
		w.free <- buffer
		return err
	}
	w.writing.Add(1)
	w.files <- f
	return nil
}

// failed returns the first error of a file that was written so far.
func (w *fileWriter) failed() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.err
}

func (w *fileWriter) create(f *newFile) {
	defer w.writing.Done()
	err := f.createSmall()
	if errors.Is(err, unix.EEXIST) {
		if err = unix.Unlinkat(f.in.fd, f.name, 0); err == nil {
			err = f.createSmall()
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case errors.Is(err, unix.EISDIR): // which only who knows the open folders may remove
		w.inTheWay = append(w.inTheWay, f)
		w.free <- nil
		return
	case err != nil && w.err == nil:
		w.err = fmt.Errorf("%.200q: %w", f.hdr.Name, err)
	}
	w.free <- f.content[:0]
}

// wait returns when all files are written but those in whose place there are folders,
// which it returns.
func (w *fileWriter) wait() ([]*newFile, error) {
	w.writing.Wait()
	w.mu.Lock()
	defer w.mu.Unlock()
	inTheWay := w.inTheWay
	w.inTheWay = nil
	return inTheWay, w.err
}
