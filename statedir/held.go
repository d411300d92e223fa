package statedir

import (
	"os"
	"sync"

	"github.com/layerbuild/layerbuild/locks"
)

// Held is the files and folders that a store keeps other processes from removing, each by a lock
// on it. The zero Held is empty and ready to use, by any number of goroutines.
type Held struct {
	mu    sync.Mutex
	files map[string]*os.File
}

// Hold returns the file that holds path. If none does, or path stands for another file by now,
// that is the one that lock returns, unless it is nil or an error.
func (h *Held) Hold(path string, lock func() (*os.File, error)) (*os.File, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if f := h.files[path]; f != nil {
		if locks.Current(f, path) {
			return f, nil
		}
		h.release(path)
	}
	f, err := lock()
	if err != nil || f == nil {
		return nil, err
	}
	h.put(path, f)
	return f, nil
}

// Put holds path by f, which is locked, in place of what held it before.
func (h *Held) Put(path string, f *os.File) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.release(path)
	h.put(path, f)
}

func (h *Held) put(path string, f *os.File) {
	if h.files == nil {
		h.files = map[string]*os.File{}
	}
	h.files[path] = f
}

// Release ends the hold on path, if there is one.
func (h *Held) Release(path string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.release(path)
}

func (h *Held) release(path string) {
	if f := h.files[path]; f != nil {
		f.Close()
		delete(h.files, path)
	}
}

// Close ends all holds.
func (h *Held) Close() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	for path := range h.files {
		h.release(path)
	}
	return nil
}
