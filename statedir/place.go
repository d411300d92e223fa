package statedir

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"

	"github.com/moby/sys/userns"
	"golang.org/x/sys/unix"
)

// A Place is where a state folder is. One that was copied or restored elsewhere may have lost what
// tools leave behind: extended attributes, owners, modes, times. So what depends on these is believed
// only if it was made or verified in this place.
type Place struct {
	ID     string `json:"id"`     // of this place, random; another one after each move
	Elders bool   `json:"elders"` // what names no place is of this one: it was here before there were places
	Moved  bool   `json:"moved"`  // the folder came from elsewhere, and nobody has been told yet

	// The identity of the folder. The number of its device is no part of that: it may change at a
	// reboot.
	Inode      uint64 `json:"inode"`
	Born       int64  `json:"born,omitempty"` // nanoseconds since 1970; 0 where the filesystem does not know it. Inodes are used again
	Filesystem string `json:"filesystem"`

	// What the canary has, of what a copy may lose.
	Owner bool   `json:"owner"` // another owner than the user's
	Mode  uint32 `json:"mode"`  // with bits that many copies drop
	Xattr string `json:"xattr"` // the name of an extended attribute; "" where there are none
}

const (
	placeName  = "place.json"
	canaryName = "canary"
)

// Place returns where the folder is, and notices if it came there from elsewhere: then its inode, the
// time that was made, or its filesystem is another, or its canary has lost something. What cannot be noted, as on a full disk, is
// noticed again.
func (d Dir) Place() (Place, error) {
	var here Place
	if err := here.identify(string(d)); err != nil {
		return here, err
	}
	var was Place
	data, err := ReadFile(d.Path(placeName))
	known := err == nil && json.Unmarshal(data, &was) == nil && was.ID != ""
	switch {
	case !known:
		here.Elders = d.hasElders()
	case was.Inode != here.Inode || was.Born != here.Born || was.Filesystem != here.Filesystem || !was.canaryLives(d.Path(canaryName)):
		here.Moved = true
	case was.Owner || os.Geteuid() != 0:
		return was, nil
	default: // as root of a namespace the canary can have another owner
		here = was
	}
	if here.ID == "" {
		here.ID = rand.Text()
	}
	if err := d.hatch(&here); err != nil {
		return was, nil //nolint:nilerr // it is noticed again
	}
	if here != was {
		_ = d.notePlace(here)
	}
	return here, nil
}

// Told notes that the user was told that the folder was moved.
func (d Dir) Told(p Place) error {
	p.Moved = false
	return d.notePlace(p)
}

// LeavePlace removes what Place has made.
func (d Dir) LeavePlace() error {
	for _, name := range []string{placeName, canaryName} {
		if err := os.Remove(d.Path(name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

func (d Dir) notePlace(p Place) error {
	data, err := json.Marshal(p)
	if err != nil {
		return err
	}
	return d.Jot(d.Path(placeName), append(data, '\n'))
}

// identify fills in what tells the folder at path from any other.
func (p *Place) identify(path string) error {
	var st unix.Statx_t
	if err := unix.Statx(unix.AT_FDCWD, path, 0, unix.STATX_INO|unix.STATX_BTIME, &st); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if st.Mask&unix.STATX_BTIME != 0 {
		p.Born = st.Btime.Sec*1e9 + int64(st.Btime.Nsec)
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(path, &fs); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	p.Inode, p.Filesystem = st.Ino, fmt.Sprintf("%x:%08x%08x", fs.Type, uint32(fs.Fsid.Val[0]), uint32(fs.Fsid.Val[1]))
	return nil
}

// hasElders reports whether there is something whose trust depends on the place.
func (d Dir) hasElders() bool {
	for _, folder := range []string{"snapshots", "mirrors"} {
		entries, _ := os.ReadDir(d.Path(folder))
		if slices.ContainsFunc(entries, func(e os.DirEntry) bool { return e.Name() != "latest" }) {
			return true
		}
	}
	return false
}

// hatch makes the canary, at once as others see it, and notes what it has.
func (d Dir) hatch(p *Place) error {
	path := d.TmpName("canary-")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		return err
	}
	defer os.Remove(path)
	if os.Geteuid() == 0 {
		_ = os.Lchown(path, 1, 1) // EINVAL where there are no other ids; it takes set-id bits away
	}
	_ = os.Chmod(path, 0o755|os.ModeSetuid|os.ModeSetgid) // all may read the attribute
	p.Xattr = "user.layerbuild"
	if os.Geteuid() == 0 && !userns.RunningInUserNS() {
		p.Xattr = "trusted.layerbuild"
	}
	if unix.Lsetxattr(path, p.Xattr, []byte(canaryName), 0) != nil {
		p.Xattr = ""
	}
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return err
	}
	p.Owner, p.Mode = int(st.Uid) != os.Geteuid(), st.Mode
	return os.Rename(path, d.Path(canaryName))
}

// canaryLives reports whether the canary still has all that it had.
func (p *Place) canaryLives(path string) bool {
	var st unix.Stat_t
	if unix.Lstat(path, &st) != nil || st.Mode != p.Mode || p.Owner && int(st.Uid) == os.Geteuid() {
		return false
	}
	if p.Xattr == "" {
		return true
	}
	value := make([]byte, 16)
	n, err := unix.Lgetxattr(path, p.Xattr, value)
	return err == nil && string(value[:n]) == canaryName
}
