package build

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"
	"unsafe"

	"github.com/layerbuild/layerbuild/buildcache"
)

// facts are what was read of the many small files of a state folder, so that who
// takes an inventory again only looks whether they are still the same files: by
// their inodes and ctimes, as the stat index does for imports. They are a hint,
// rebuilt from the files when they are missing or damaged, and never what
// something is removed for: who removes a thing looks at it first.
//
// They lie in one file, which is replaced as a whole. Of several processes the
// last one wins. It is not synced: its checksum tells what a power cut left.
//
//	"lbfacts1\n", facts, sha256 of all before it
//
// A fact is the name of its file, its inode and ctime, and words, each preceded
// by its length and the words by their number, all numbers as uvarints.
type facts struct {
	state string
	begun time.Time
	old   map[string]*fact // as they were

	mu    sync.Mutex
	fresh map[string]*fact
}

// A fact is what was read of a file that looked like this.
type fact struct {
	inode   uint64
	changed int64 // ctime, in nanoseconds since 1970
	words   []string
	found   bool
}

const (
	factsName = "usage/facts"
	factsHead = "lbfacts1\n"

	// factsGrain is more than the distance of two ctimes that a local filesystem
	// tells apart. What changed within it before it was read may change again
	// without showing it.
	factsGrain = 50 * time.Millisecond
)

func openFacts(state string) *facts {
	f := &facts{state: state, begun: time.Now(), fresh: map[string]*fact{}}
	data, _ := os.ReadFile(filepath.Join(state, factsName))
	f.old = decodeFacts(data)
	return f
}

// find returns what is known of a file that looks like this. Several goroutines
// may call it, each for files of its own.
func (f *facts) find(name string, inode uint64, changed int64) ([]string, bool) {
	at := f.old[name]
	if at == nil || at.inode != inode || at.changed != changed {
		return nil, false
	}
	at.found = true
	return at.words, true
}

// note keeps what was read of a file that find did not know.
func (f *facts) note(name string, inode uint64, changed int64, words []string) {
	if changed >= f.begun.Add(-factsGrain).UnixNano() {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.fresh[name] = &fact{inode: inode, changed: changed, words: words}
}

// recall calls use with each file in some folders of the cache, and the words that
// read finds in it, if any. Files that were read before are not read again, and in
// a folder that has not changed since they are not even looked at: none of them
// came, went or was replaced.
func (f *facts) recall(c *buildcache.Cache, folders []buildcache.Folder, read func(list []buildcache.Entry, found func(buildcache.Entry, []string)) error, use func(buildcache.Entry, []string)) error {
	var unread []buildcache.Entry
	for _, folder := range folders {
		if files, ok := f.inFolder(folder); ok {
			for _, file := range files {
				use(file.entry, file.words)
			}
			continue
		}
		entries, err := c.Files(folder)
		if err != nil {
			return err
		}
		var names []string
		for _, e := range entries {
			names = append(names, e.Name)
			if words, ok := f.find(e.Name, e.Inode, e.Changed); ok && len(words) >= 2 {
				use(e, words[2:])
			} else {
				unread = append(unread, e)
			}
		}
		f.note(folder.Name, folder.Inode, folder.Changed, names)
	}
	var one sync.Mutex
	said := map[string][]string{}
	err := read(unread, func(e buildcache.Entry, words []string) {
		one.Lock()
		defer one.Unlock()
		said[e.Name] = words
	})
	for _, e := range unread {
		words := said[e.Name]
		f.note(e.Name, e.Inode, e.Changed, append(texts(e.Disk, e.Time), words...))
		use(e, words)
	}
	return err
}

// A knownFile is a file in a folder that has not changed.
type knownFile struct {
	entry buildcache.Entry
	words []string
}

// inFolder returns the files in a folder that has not changed; false if it has, or
// something is not known of all of them.
func (f *facts) inFolder(folder buildcache.Folder) ([]knownFile, bool) {
	names, same := f.find(folder.Name, folder.Inode, folder.Changed)
	if !same {
		return nil, false
	}
	files := make([]knownFile, len(names))
	for i, name := range names {
		at := f.old[name]
		if at == nil || len(at.words) < 2 {
			return nil, false
		}
		n, ok := numbers(at.words[:2])
		if !ok {
			return nil, false
		}
		at.found = true
		files[i] = knownFile{buildcache.Entry{Name: name, Disk: n[0], Time: n[1]}, at.words[2:]}
	}
	return files, true
}

// store keeps the facts that were found or noted, if that pays: for one in fifty.
// What cannot be stored costs time later and nothing else.
func (f *facts) store() {
	other := len(f.fresh)
	for _, at := range f.old {
		if !at.found {
			other++ // it is gone, or was changed
		}
	}
	if other == 0 || other*50 < len(f.old) {
		return
	}
	for name, at := range f.old {
		if at.found {
			f.fresh[name] = at
		}
	}
	tmp, err := os.CreateTemp(filepath.Join(f.state, "tmp"), "facts-")
	if err != nil {
		return
	}
	defer os.Remove(tmp.Name())
	_, err = tmp.Write(encodeFacts(f.fresh))
	if closed := tmp.Close(); err == nil && closed == nil {
		_ = os.Rename(tmp.Name(), filepath.Join(f.state, factsName))
	}
}

func encodeFacts(all map[string]*fact) []byte {
	b := []byte(factsHead)
	text := func(s string) { b = append(binary.AppendUvarint(b, uint64(len(s))), s...) }
	for name, at := range all {
		text(name)
		b = binary.AppendUvarint(b, at.inode)
		b = binary.AppendUvarint(b, uint64(at.changed))
		b = binary.AppendUvarint(b, uint64(len(at.words)))
		for _, word := range at.words {
			text(word)
		}
	}
	sum := sha256.Sum256(b)
	return append(b, sum[:]...)
}

// decodeFacts returns nothing for what is damaged.
func decodeFacts(data []byte) map[string]*fact {
	body := len(data) - sha256.Size
	if body <= len(factsHead) || !strings.HasPrefix(string(data[:len(factsHead)]), factsHead) {
		return nil
	}
	if sum := sha256.Sum256(data[:body]); !bytes.Equal(sum[:], data[body:]) {
		return nil
	}
	// The words are parts of data, and lie in one array. Its size, and the map's, are
	// what they are as a rule: to grow would take twice as long.
	r := factReader{left: unsafe.String(&data[len(factsHead)], body-len(factsHead))}
	all := make(map[string]*fact, body/128)
	words := make([]string, 0, body/24)
	for r.left != "" {
		name := r.text()
		at := &fact{inode: r.number(), changed: int64(r.number())}
		first := len(words)
		for n := r.number(); n > 0 && !r.damaged; n-- {
			words = append(words, r.text())
		}
		at.words = words[first:len(words):len(words)]
		all[name] = at
	}
	if r.damaged {
		return nil
	}
	return all
}

// A factReader reads from the beginning of what is left; nothing, if that makes
// no sense.
type factReader struct {
	left    string
	damaged bool
}

func (r *factReader) number() (n uint64) {
	for shift := 0; shift < 64; shift += 7 {
		if r.left == "" {
			break
		}
		c := r.left[0]
		r.left = r.left[1:]
		if n |= uint64(c&0x7f) << shift; c < 0x80 {
			return n
		}
	}
	r.left, r.damaged = "", true
	return 0
}

func (r *factReader) text() string {
	n := r.number()
	if n > uint64(len(r.left)) {
		r.left, r.damaged = "", true
		return ""
	}
	s := r.left[:n]
	r.left = r.left[n:]
	return s
}

// texts and numbers turn numbers into words and back.
func texts(all ...int64) (words []string) {
	for _, n := range all {
		words = append(words, strconv.FormatInt(n, 10))
	}
	return words
}

func numbers(words []string) (all [6]int64, ok bool) {
	for i, word := range words {
		n, err := strconv.ParseInt(word, 10, 64)
		if err != nil {
			return all, false
		}
		all[i] = n
	}
	return all, true
}
