package namespace

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/google/renameio/v2"
	"github.com/moby/sys/user"
)

// What login.defs(5) says of subordinate ids when it says nothing.
const (
	firstSubID = 100_000
	lastSubID  = 600_100_000
	grantedIDs = 65_536 // what an image's owners are, as a rule: those up to nobody and nogroup
)

// Grant gives a user as many subordinate users and groups as images need, ranges
// that nobody else has, and returns what it did, a line each: nothing if the user
// had them. It needs root.
func Grant(name string, uid int) (done []string, err error) {
	for _, file := range []string{subuid, subgid} {
		what, err := grant(file, name, uid)
		if err != nil {
			return done, err
		}
		if what != "" {
			done = append(done, what)
		}
	}
	return done, nil
}

// grant adds a range to a file, which is in the form of subuid(5), and returns
// what it added, or "".
func grant(file, name string, uid int) (string, error) {
	unlock, err := lock(file)
	if err != nil {
		return "", err
	}
	defer unlock()
	text, err := os.ReadFile(file)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	all, err := user.ParseSubID(bytes.NewReader(text))
	if err != nil {
		return "", fmt.Errorf("%s: %w", file, err)
	}
	var has int64
	for _, r := range all {
		if r.Name == name || r.Name == strconv.Itoa(uid) {
			has += r.Count
		}
	}
	if has >= grantedIDs {
		return "", nil
	}
	start := firstFree(all)
	if start+grantedIDs-1 > lastSubID {
		return "", fmt.Errorf("%s: all ids up to %d are taken", file, lastSubID)
	}
	if len(text) > 0 && !bytes.HasSuffix(text, []byte("\n")) {
		text = append(text, '\n')
	}
	text = fmt.Appendf(text, "%s:%d:%d\n", name, start, grantedIDs)
	if err := renameio.WriteFile(file, text, 0o644, renameio.WithExistingPermissions()); err != nil {
		return "", err
	}
	return fmt.Sprintf("%s: %s has %d to %d", file, name, start, start+grantedIDs-1), nil
}

// firstFree is where the lowest gap begins that is large enough.
func firstFree(taken []user.SubID) int64 {
	slices.SortFunc(taken, func(a, b user.SubID) int { return int(a.SubID - b.SubID) })
	free := int64(firstSubID)
	for _, r := range taken {
		if r.SubID >= free+grantedIDs {
			break
		}
		free = max(free, r.SubID+r.Count)
	}
	return free
}

// lock keeps useradd(8) and its like from writing to a file meanwhile. Their lock
// is a file beside it that holds the number of a process; one that is gone locks
// nothing.
func lock(file string) (unlock func(), err error) {
	path, own := file+".lock", fmt.Sprintf("%s.%d", file, os.Getpid())
	if err := os.WriteFile(own, []byte(strconv.Itoa(os.Getpid())), 0o600); err != nil {
		return nil, err
	}
	defer os.Remove(own)
	for range 2 {
		err := os.Link(own, path)
		if err == nil {
			return func() { os.Remove(path) }, nil
		}
		if !errors.Is(err, fs.ErrExist) {
			return nil, err
		}
		if owner := lockOwner(path); owner != "" {
			return nil, fmt.Errorf("%s is being changed by process %s: try again; if there is none, remove %s", file, owner, path)
		}
		os.Remove(path)
	}
	return nil, fmt.Errorf("%s is being changed: try again", file)
}

// lockOwner is the number of the process that holds a lock, "" if it has ended.
func lockOwner(path string) string {
	text, err := os.ReadFile(path)
	pid := strings.Trim(string(text), "\x00\n ")
	if err == nil && pid != "" {
		_, err = os.Stat("/proc/" + pid)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return ""
	}
	return pid
}
