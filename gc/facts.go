package gc

import (
	"encoding/binary"
	"hash/crc32"
	"iter"
	"path/filepath"
	"sync"
	"time"
	"unsafe"

	"github.com/layerbuild/layerbuild/buildcache"
	"github.com/layerbuild/layerbuild/statedir"
)

// facts are what was read of the many small files of a state folder, so that who
// takes an inventory again only looks whether they are still the same files: by
// the inodes and ctimes of the folders they are in, and of their own where a folder
// has changed, as the stat index does for imports. They are a hint, rebuilt from
// the files when they are missing or damaged, and never what something is removed
// for: who removes a thing looks at it first.
//
// They lie in one file, which is replaced as a whole. Of several processes the
// last one wins. It is not synced: its checksum tells what a power cut left.
//
//	"lbfacts3\n", folders, CRC-32C of all before it
//
// A folder is its name, its inode and ctime, the number of its files, and their
// facts as one text; a fact is the name of its file, the file's inode and ctime, and
// a text that only who noted it understands. All numbers are uvarints, and before
// each text stands its length.
type facts struct {
	state string
	begun time.Time
	old   map[string]known // by the names of their folders, as they were

	mu     sync.Mutex
	now    map[string]known
	others int // files that came, went or were replaced
}

// known are the facts about the files in one folder.
type known struct {
	stamp buildcache.Stamp // of the folder; zero if files may have changed without it
	count int
	files string
}

// A fact is what was read of a file that looked like this.
type fact struct {
	name  string // in its folder
	stamp buildcache.Stamp
	says  string
}

const (
	factsName = "usage/facts"
	factsHead = "lbfacts3\n"

	// factsGrain is more than the distance of two ctimes that a local filesystem
	// tells apart. What changed within it before it was read may change again
	// without showing it.
	factsGrain = 50 * time.Millisecond
)

func openFacts(state string) *facts {
	f := &facts{state: state, begun: time.Now(), now: map[string]known{}}
	data, _ := statedir.ReadFile(filepath.Join(state, factsName))
	f.old = decodeFacts(data)
	return f
}

// find returns what is known of a folder that looks like this; false if it has
// changed: a file came, went or was replaced.
func (f *facts) find(folder string, stamp buildcache.Stamp) (known, bool) {
	k, ok := f.old[folder]
	if !ok || k.stamp != stamp {
		return k, false
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.now[folder] = k
	return k, true
}

// note keeps what was read of a folder that find did not know, and in which some
// files are the same as before. What is too young to be believed is read again the
// next time.
func (f *facts) note(folder string, stamp buildcache.Stamp, files []fact, same int) known {
	young := f.begun.Add(-factsGrain).UnixNano()
	if stamp.Changed >= young {
		stamp = buildcache.Stamp{}
	}
	var b []byte
	for _, at := range files {
		if at.stamp.Changed >= young {
			at.stamp, stamp = buildcache.Stamp{}, buildcache.Stamp{}
		}
		b = appendStamp(appendText(b, at.name), at.stamp)
		b = appendText(b, at.says)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.now[folder] = known{stamp, len(files), string(b)}
	f.others += len(files) + f.old[folder].count - 2*same
	return f.now[folder]
}

// recall calls use with each file in some folders of the cache, its size and time as
// numbers, and the texts that read finds in it, if any. Files that were read before
// are not read again, and in a folder that has not changed since they are not even
// looked at.
func (f *facts) recall(c *buildcache.Cache, folders []buildcache.Folder, read reader, use func(folder buildcache.Folder, file string, r *factReader)) error {
	for _, folder := range folders {
		k, same := f.find(folder.Name, folder.Stamp)
		if !same {
			var err error
			if k, err = f.look(c, folder, k, read); err != nil {
				return err
			}
		}
		for at := range k.all() {
			use(folder, at.name, &factReader{left: at.says})
		}
	}
	return nil
}

// A reader reads files, some at a time, and calls found with the texts that are to
// be remembered of each.
type reader func(files []buildcache.Entry, found func(file buildcache.Entry, texts ...string)) error

// look reads the files in a folder that are not as they were.
func (f *facts) look(c *buildcache.Cache, folder buildcache.Folder, was known, read reader) (known, error) {
	entries, err := c.Files(folder)
	if err != nil {
		return known{}, err
	}
	before := map[string]fact{}
	for at := range was.all() {
		before[at.name] = at
	}
	files := make([]fact, len(entries))
	others := map[string]*fact{}
	var unread []buildcache.Entry
	for n, e := range entries {
		if files[n] = before[e.Name]; files[n].stamp != e.Stamp {
			files[n] = fact{e.Name, e.Stamp, saying([]int64{e.Disk, e.Time})}
			others[e.Name] = &files[n]
			unread = append(unread, e)
		}
	}
	err = read(unread, func(e buildcache.Entry, texts ...string) { others[e.Name].says += saying(nil, texts...) })
	return f.note(folder.Name, folder.Stamp, files, len(files)-len(unread)), err
}

// store keeps the facts, if that pays: when one file in fifty is another.
// What cannot be stored costs time later and nothing else.
func (f *facts) store() {
	all := 0
	for _, k := range f.now {
		all += k.count
	}
	if f.others == 0 || f.others*50 < all {
		return
	}
	state := statedir.Dir(f.state)
	_ = state.Jot(state.Path(factsName), encodeFacts(f.now))
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func encodeFacts(all map[string]known) []byte {
	b := []byte(factsHead)
	for name, k := range all {
		b = appendStamp(appendText(b, name), k.stamp)
		b = appendText(binary.AppendUvarint(b, uint64(k.count)), k.files)
	}
	return binary.BigEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
}

// decodeFacts returns nothing for what is damaged.
func decodeFacts(data []byte) map[string]known {
	body := len(data) - crc32.Size
	if body <= len(factsHead) || string(data[:len(factsHead)]) != factsHead || binary.BigEndian.Uint32(data[body:]) != crc32.Checksum(data[:body], castagnoli) {
		return nil
	}
	all := map[string]known{}
	r := factReader{left: unsafe.String(&data[len(factsHead)], body-len(factsHead))} // data is not changed from here on
	for r.left != "" {
		name := r.text()
		k := known{stamp: r.stamp(), count: int(r.number()), files: r.text()}
		if r.damaged || k.count < 0 || k.count > len(k.files) {
			return nil
		}
		all[name] = k
	}
	return all
}

// all are the facts, in the order they were noted in.
func (k known) all() iter.Seq[fact] {
	return func(yield func(fact) bool) {
		r := factReader{left: k.files}
		for r.left != "" {
			at := fact{r.text(), r.stamp(), r.text()}
			if r.damaged || !yield(at) {
				return
			}
		}
	}
}

// saying makes a fact of numbers and texts. A factReader returns them in their order.
func saying(numbers []int64, texts ...string) string {
	var b []byte
	for _, n := range numbers {
		b = binary.AppendUvarint(b, uint64(n))
	}
	for _, s := range texts {
		b = appendText(b, s)
	}
	return string(b)
}

func appendText(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

func appendStamp(b []byte, s buildcache.Stamp) []byte {
	return binary.AppendUvarint(binary.AppendUvarint(b, s.Inode), uint64(s.Changed))
}

// A factReader reads from the beginning of what is left; nothing, if that makes
// no sense.
type factReader struct {
	left    string
	damaged bool
}

func (r *factReader) number() (n int64) {
	for shift := 0; shift < 64; shift += 7 {
		if r.left == "" {
			break
		}
		c := r.left[0]
		r.left = r.left[1:]
		if n |= int64(c&0x7f) << shift; c < 0x80 {
			return n
		}
	}
	r.left, r.damaged = "", true
	return 0
}

func (r *factReader) text() string {
	n := r.number()
	if n < 0 || n > int64(len(r.left)) {
		r.left, r.damaged = "", true
		return ""
	}
	s := r.left[:n]
	r.left = r.left[n:]
	return s
}

func (r *factReader) stamp() buildcache.Stamp {
	return buildcache.Stamp{Inode: uint64(r.number()), Changed: r.number()}
}
