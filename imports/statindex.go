package imports

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/layerbuild/layerbuild/locks"
	"github.com/layerbuild/layerbuild/statedir"
)

// A statIndex remembers the sha256 of files by what stat tells of them, so that
// an unchanged file is not read again. It is a hint that may be lost: a damaged
// part is as good as an empty one. Entries are found by device and inode, so a
// renamed file is still known, and are shared by all processes of a state folder.
//
// An entry is trusted only if its file's mtime and ctime are older than the
// moment it was read by more than the filesystem's time grain (git calls younger
// ones racy): a change after that moment then surely has another ctime, which no
// program can set. Younger ones are not recorded at all. What this cannot see is
// a store through a shared mapping that began before, as with git and make.
//
// The index is cut into shards, each a file of sorted records, so that a small
// change writes little. Each is replaced as a whole, under one lock for all.
//
//	"lbstat1\n", records, sha256 of all before it
type statIndex struct {
	dir    string
	shards [shardCount]atomic.Pointer[[]byte] // records; nil before the first use
	load   sync.Mutex
	write  sync.Mutex
}

const (
	shardCount = 64
	shardHead  = "lbstat1\n"

	// shardLimit bounds the index: a million files, 88 MB. Beyond it the entries
	// that were recorded first are forgotten.
	shardLimit = 16384
)

// A record is one entry as it is stored, little-endian:
//
//	ino, dev, size, mtime, ctime uint64; mode, flags uint32; day uint64; sum [32]byte
type record [recordSize]byte

const (
	recordSize = 88

	atDev, atSize, atMtime, atCtime    = 8, 16, 24, 32
	atMode, atFlags, atDay, atSum, end = 40, 44, 48, 56, recordSize

	flagXattrs = 1 // the file has extended attributes that count
)

func newRecord(st *stamp, sum *[sha256.Size]byte, xattrs bool, now time.Time) (r record) {
	le := binary.LittleEndian
	le.PutUint64(r[:], st.ino)
	le.PutUint64(r[atDev:], st.dev)
	le.PutUint64(r[atSize:], uint64(st.size))
	le.PutUint64(r[atMtime:], uint64(st.mtime))
	le.PutUint64(r[atCtime:], uint64(st.ctime))
	le.PutUint32(r[atMode:], st.mode)
	if xattrs {
		le.PutUint32(r[atFlags:], flagXattrs)
	}
	le.PutUint64(r[atDay:], uint64(now.Unix()/86400))
	copy(r[atSum:], sum[:])
	return r
}

// A found is the bytes of a record in a shard.
type found []byte

func (f found) ino() uint64                { return binary.LittleEndian.Uint64(f) }
func (f found) dev() uint64                { return binary.LittleEndian.Uint64(f[atDev:]) }
func (f found) day() uint64                { return binary.LittleEndian.Uint64(f[atDay:]) }
func (f found) hasXattrs() bool            { return binary.LittleEndian.Uint32(f[atFlags:])&flagXattrs != 0 }
func (f found) sum() (s [sha256.Size]byte) { copy(s[:], f[atSum:end]); return s }

// compare orders records by inode and device.
func (f found) compare(ino, dev uint64) int {
	return cmp.Or(cmp.Compare(f.ino(), ino), cmp.Compare(f.dev(), dev))
}

// is reports whether the record is about a file that looks like st.
func (f found) is(st *stamp) bool {
	le := binary.LittleEndian
	return le.Uint64(f[atSize:]) == uint64(st.size) && le.Uint64(f[atMtime:]) == uint64(st.mtime) &&
		le.Uint64(f[atCtime:]) == uint64(st.ctime) && le.Uint32(f[atMode:]) == st.mode
}

func newStatIndex(dir string) *statIndex { return &statIndex{dir: dir} }

// shardOf spreads inodes: neighbours, which are mostly of one folder, together.
func shardOf(ino uint64) int {
	return int(ino >> 6 * 0x9e3779b97f4a7c15 >> 58)
}

// find returns the record of the file that looks like st. A nil index has none.
func (x *statIndex) find(st *stamp) (found, bool) {
	if x == nil {
		return nil, false
	}
	recs := x.shard(shardOf(st.ino))
	lo, hi := 0, len(recs)/recordSize
	for lo < hi {
		mid := (lo + hi) / 2
		f := found(recs[mid*recordSize:])
		switch order := f.compare(st.ino, st.dev); {
		case order < 0:
			lo = mid + 1
		case order > 0:
			hi = mid
		default:
			return f, f.is(st)
		}
	}
	return nil, false
}

// shard returns the records of a shard, which it reads once.
func (x *statIndex) shard(i int) []byte {
	if p := x.shards[i].Load(); p != nil {
		return *p
	}
	x.load.Lock()
	defer x.load.Unlock()
	if p := x.shards[i].Load(); p != nil {
		return *p
	}
	recs := readShard(x.path(i))
	x.shards[i].Store(&recs)
	return recs
}

func (x *statIndex) path(i int) string { return filepath.Join(x.dir, fmt.Sprintf("%02x", i)) }

// readShard returns the records in a file; none if it is missing or damaged.
func readShard(path string) []byte {
	b, err := statedir.ReadFile(path)
	if err != nil {
		return nil
	}
	return decodeShard(b)
}

func decodeShard(b []byte) []byte {
	body := len(b) - sha256.Size
	if body < len(shardHead) || string(b[:len(shardHead)]) != shardHead || (body-len(shardHead))%recordSize != 0 {
		return nil
	}
	if sum := sha256.Sum256(b[:body]); !bytes.Equal(sum[:], b[body:]) {
		return nil
	}
	return b[len(shardHead):body:body]
}

func encodeShard(recs []record) []byte {
	b := make([]byte, 0, len(shardHead)+len(recs)*recordSize+sha256.Size)
	b = append(b, shardHead...)
	for i := range recs {
		b = append(b, recs[i][:]...)
	}
	sum := sha256.Sum256(b)
	return append(b, sum[:]...)
}

// note keeps for the index what was read of an open file, unless that cannot be
// trusted later. The reading began after now.
func (w *walker) note(fd int, st *stamp, e *Entry, now time.Time) {
	if w.index == nil || racy(st, now) {
		return
	}
	if w.noted != st.dev {
		w.noted, w.keepsCtime = st.dev, keepsCtime(fd)
	}
	if w.keepsCtime {
		w.added = append(w.added, newRecord(st, &e.Sum, len(e.Xattrs) > 0, now))
	}
}

// grain is more than the distance of two times that a local filesystem tells
// apart: the kernel's coarse clock ticks every 10 ms at most.
const grain = 50 * time.Millisecond

// racy reports whether a file with this stamp may be changed after now without
// its stamp showing it. A ctime of whole seconds is from a filesystem that keeps
// no finer time, or an invented one.
func racy(st *stamp, now time.Time) bool {
	limit := now.Add(-grain).UnixNano()
	return st.mtime >= limit || st.ctime >= limit || st.ctime%1e9 == 0
}

// keepsCtime reports whether the filesystem of an open file sets ctime by this
// machine's clock whenever the file changes, and tells no one else's inodes
// apart by the same numbers. Others are read each time.
func keepsCtime(fd int) bool {
	var fs unix.Statfs_t
	if unix.Fstatfs(fd, &fs) != nil {
		return false
	}
	switch uint64(fs.Type) {
	case unix.EXT4_SUPER_MAGIC, unix.XFS_SUPER_MAGIC, unix.BTRFS_SUPER_MAGIC, unix.F2FS_SUPER_MAGIC,
		unix.TMPFS_MAGIC, unix.OVERLAYFS_SUPER_MAGIC, 0x2fc12fc1 /* zfs */, 0xca451a4e /* bcachefs */ :
		return true
	}
	return false
}

func isOverlay(fd int) bool {
	var fs unix.Statfs_t
	return unix.Fstatfs(fd, &fs) == nil && fs.Type == unix.OVERLAYFS_SUPER_MAGIC
}

// add stores records, together with what other processes stored. What cannot be
// stored, say because the disk is full, costs time later and nothing else.
func (x *statIndex) add(recs []record) {
	if x == nil || len(recs) == 0 {
		return
	}
	var parts [shardCount][]record
	for _, r := range recs {
		i := shardOf(found(r[:]).ino())
		parts[i] = append(parts[i], r)
	}
	x.write.Lock()
	defer x.write.Unlock()
	lock, err := locks.Open(context.Background(), filepath.Join(x.dir, "lock"), os.O_RDWR|os.O_CREATE, locks.Exclusive, "has been writing the stat index")
	if err != nil {
		return
	}
	defer lock.Close()
	for i, part := range parts {
		if len(part) > 0 && x.replace(i, part) != nil {
			return
		}
	}
}

// replace puts records into a shard's file. It is not synced: a power cut may
// damage it, which its checksum tells. The caller has the lock.
func (x *statIndex) replace(i int, recs []record) error {
	b := encodeShard(mergeShard(readShard(x.path(i)), recs))
	merged := decodeShard(b)
	x.shards[i].Store(&merged)
	tmp := filepath.Join(x.dir, "new")
	_ = os.RemoveAll(tmp) // what a process was killed at, or anything
	if err := os.WriteFile(tmp, b, 0o644); err != nil {
		return err
	}
	return os.Rename(tmp, x.path(i))
}

// mergeShard returns old and new records sorted, new ones winning, and if there
// are too many, without those recorded first.
func mergeShard(old []byte, recs []record) []record {
	all := recs
	for ; len(old) >= recordSize; old = old[recordSize:] {
		all = append(all, record(old[:recordSize]))
	}
	// Stable: of two records of one file the first, which is the newer, stays.
	slices.SortStableFunc(all, func(a, b record) int {
		g := found(b[:])
		return found(a[:]).compare(g.ino(), g.dev())
	})
	all = slices.CompactFunc(all, func(a, b record) bool {
		g := found(b[:])
		return found(a[:]).compare(g.ino(), g.dev()) == 0
	})
	if len(all) <= shardLimit {
		return all
	}
	days := make([]uint64, len(all))
	for i := range all {
		days[i] = found(all[i][:]).day()
	}
	slices.Sort(days)
	oldest, spare := days[len(days)-shardLimit], len(all)-shardLimit
	return slices.DeleteFunc(all, func(r record) bool {
		if day := found(r[:]).day(); day > oldest || spare == 0 {
			return false
		}
		spare--
		return true
	})
}
