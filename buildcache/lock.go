package buildcache

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// A Holder is the process that holds a lock, and what for.
type Holder struct {
	PID   int       `json:"pid"`
	Layer string    `json:"layer"`
	Since time.Time `json:"since"`
}

// A Lock is held on a key by one process at a time, and ends with the process.
type Lock struct {
	file *os.File
}

// Lock waits until nobody else works on this key, be it another process or
// another layer of this one. The caller then looks the key up again, since the
// other may have made it. Waiting is called once, with who is waited for, when
// that is another process.
func (c *Cache) Lock(ctx context.Context, key Key, layer string, waiting func(Holder)) (*Lock, error) {
	path := c.path("locks", string(key))
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, err
	}
	for {
		file, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
		if err != nil {
			return nil, err
		}
		err = flock(ctx, file, func() {
			if h := holder(file); h.PID != 0 && h.PID != os.Getpid() && waiting != nil {
				waiting(h)
				waiting = nil
			}
		})
		if err == nil && !current(file) {
			_ = file.Close() // the last holder has removed what was waited for
			continue
		}
		if err == nil {
			err = sign(file, Holder{os.Getpid(), layer, time.Now().UTC()})
		}
		if err != nil {
			_ = file.Close()
			return nil, fmt.Errorf("locking %s: %w", path, err)
		}
		return &Lock{file}, nil
	}
}

// Unlock lets the next one go on.
func (l *Lock) Unlock() {
	_ = os.Remove(l.file.Name())
	_ = l.file.Close()
}

// pollInterval is how soon a waiting process notices that a lock is free.
const pollInterval = 20 * time.Millisecond

// flock locks a file. It calls waiting again and again until it can.
func flock(ctx context.Context, file *os.File, waiting func()) error {
	for {
		err := unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return err
		}
		waiting()
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pollInterval):
		}
	}
}

// sign writes into a lock's file who holds it, in place of one who was killed.
func sign(file *os.File, h Holder) error {
	if err := file.Truncate(0); err != nil {
		return err
	}
	raw, err := json.Marshal(h)
	if err != nil {
		return err
	}
	_, err = file.WriteAt(append(raw, '\n'), 0)
	return err
}

// holder reads who holds a lock. The zero Holder has not signed yet.
func holder(file *os.File) Holder {
	var h Holder
	raw := make([]byte, 4096)
	n, _ := file.ReadAt(raw, 0)
	_ = json.Unmarshal(raw[:n], &h)
	return h
}

// current tells whether the locked file is still the one that its name stands for.
func current(file *os.File) bool {
	locked, err1 := file.Stat()
	named, err2 := os.Stat(file.Name())
	return err1 == nil && err2 == nil && os.SameFile(locked, named)
}
