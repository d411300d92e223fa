// Package locks is how processes agree without a server: by flock(2) on the files and
// folders that they share. A lock ends with its process, however it ends. Who waits for
// one says for whom: see Watch.
//
// Any room may know this one. It works on filesystems of this machine; others may have
// no flock, which is an error that says so.
package locks

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// ErrHeld says that somebody has the lock.
var ErrHeld = errors.New("in use")

// How a file is locked.
const (
	Shared    = unix.LOCK_SH
	Exclusive = unix.LOCK_EX
)

// Try locks an open file or folder until it is closed. It fails with ErrHeld if
// somebody has a lock that this one does not go with, also in this process.
func Try(f *os.File, how int) error {
	for {
		switch err := unix.Flock(int(f.Fd()), how|unix.LOCK_NB); err {
		case nil:
			return nil
		case unix.EINTR:
		case unix.EWOULDBLOCK:
			return ErrHeld
		default:
			return fmt.Errorf("lock %s: %w: its filesystem has no flock(2), without which builds would harm each other: use a local disk, see --state-dir and --oci-dir", f.Name(), err)
		}
	}
}

// Somebody who waits looks again after firstPoll, and later after up to lastPoll. After
// patience it is said, or when it is not known by then for whom, after lastPatience.
const (
	firstPoll    = time.Millisecond
	lastPoll     = 20 * time.Millisecond
	patience     = 100 * time.Millisecond
	lastPatience = 500 * time.Millisecond
)

// Wait is Try, but waits until the lock can be had or ctx ends. Doing is what one has
// the lock for, such as "has been downloading X". Holder finds out who has it, where
// that is noted, and whether to tell of that one; if it is nil, the kernel is asked.
func Wait(ctx context.Context, f *os.File, how int, doing string, holder func(*os.File) (h Holder, say bool)) error {
	if holder == nil {
		holder = other
	}
	begun, told := time.Now(), false
	for poll := firstPoll; ; poll = min(2*poll, lastPoll) {
		if err := Try(f, how); !errors.Is(err, ErrHeld) {
			return err
		}
		if waited := time.Since(begun); !told && waited > patience {
			if h, say := holder(f); say && (h.PID != 0 || waited > lastPatience) {
				tell(ctx, doing, h)
				told = true
			}
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(poll):
		}
	}
}

// TryOpen opens the file or folder at path, which may be no link, with flags as of os.OpenFile, and
// locks it. It is the file that is locked, not its name: the lock goes along when it is renamed.
// The file is what path stands for by then. It fails with fs.ErrNotExist and ErrHeld.
func TryOpen(path string, flags, how int) (*os.File, error) {
	return open(path, flags, func(f *os.File) error { return Try(f, how) })
}

// Open is TryOpen, but waits as Wait does.
func Open(ctx context.Context, path string, flags, how int, doing string) (*os.File, error) {
	return open(path, flags, func(f *os.File) error { return Wait(ctx, f, how, doing, nil) })
}

func open(path string, flags int, lock func(*os.File) error) (*os.File, error) {
	for {
		f, err := os.OpenFile(path, flags|unix.O_NONBLOCK|unix.O_NOFOLLOW, 0o600) // never waits for a fifo
		if err != nil {
			return nil, err
		}
		if err := lock(f); err != nil {
			f.Close()
			return nil, err
		}
		if Current(f, path) {
			return f, nil
		}
		f.Close() // it was renamed or removed before it was locked
	}
}

// Current tells whether a path still stands for an open file.
func Current(f *os.File, path string) bool {
	open, err1 := f.Stat()
	named, err2 := os.Lstat(path)
	return err1 == nil && err2 == nil && os.SameFile(open, named)
}

// A Lock is a file that one process has for itself, and which says who that is.
type Lock struct{ f *os.File }

// Take makes the file at path, and waits until nobody else has it, be it another process
// or another layer of this one. Doing is as in Wait; only other processes are told of.
func Take(ctx context.Context, path, doing string) (*Lock, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, err
	}
	if info, err := os.Lstat(path); err == nil && !info.Mode().IsRegular() {
		_ = os.RemoveAll(path) // damage: no process can have locked it
	}
	f, err := open(path, os.O_CREATE|os.O_RDWR, func(f *os.File) error { return Wait(ctx, f, Exclusive, doing, signed) })
	if err != nil {
		return nil, err
	}
	if err := sign(f, Me(ctx)); err != nil {
		f.Close()
		return nil, err
	}
	return &Lock{f}, nil
}

// Unlock removes the file, and lets the next one go on.
func (l *Lock) Unlock() {
	os.Remove(l.f.Name())
	l.f.Close()
}

// sign writes into a file who has it, in place of one who was killed.
func sign(f *os.File, h Holder) error {
	text, err := json.Marshal(h)
	if err == nil {
		err = f.Truncate(0)
	}
	if err == nil {
		_, err = f.WriteAt(append(text, '\n'), 0)
	}
	return err
}

// signed reads who has a file. The zero Holder has not signed yet. That this process has
// it is not to be said.
func signed(f *os.File) (h Holder, say bool) {
	text := make([]byte, 4096)
	n, _ := f.ReadAt(text, 0)
	_ = json.Unmarshal(bytes.TrimSpace(text[:n]), &h)
	return h, h.PID != os.Getpid()
}
