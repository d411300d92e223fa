package namespace

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	osuser "os/user"
	"strconv"
	"strings"

	"github.com/moby/sys/user"
	"github.com/moby/sys/userns"
	"golang.org/x/sys/unix"

	"github.com/layerbuild/layerbuild/program"
)

// Files that give users their subordinate ids, and the programs that map them.
const (
	subuid, subgid       = "/etc/subuid", "/etc/subgid"
	newuidmap, newgidmap = "newuidmap", "newgidmap"
)

// ids are the users and groups of a namespace: which ID inside is which ParentID
// outside.
type ids struct {
	uids, gids []user.IDMap
	helped     bool   // by newuidmap and newgidmap, which may map what we may not
	why        string // only the user's own are mapped
}

// ownIDs are those that this process can have mapped.
func ownIDs() (ids, error) {
	if os.Geteuid() == 0 {
		return sameIDs()
	}
	own := ids{
		uids: []user.IDMap{{ID: 0, ParentID: int64(os.Geteuid()), Count: 1}},
		gids: []user.IDMap{{ID: 0, ParentID: int64(os.Getegid()), Count: 1}},
	}
	if own.why = NoHelper(); own.why != "" {
		return own, nil
	}
	name := userName(os.Geteuid())
	for _, f := range []struct {
		file string
		maps *[]user.IDMap
	}{{subuid, &own.uids}, {subgid, &own.gids}} {
		ranges, err := rangesOf(f.file, name, os.Geteuid())
		if err != nil {
			return ids{}, err
		}
		if len(ranges) == 0 {
			return ids{uids: own.uids[:1], gids: own.gids[:1], why: fmt.Sprintf(
				"user %s has no ids in %s: `sudo layerbuild unpriv-setup --username %s`", name, f.file, name)}, nil
		}
		next := int64(1)
		for _, r := range ranges {
			*f.maps = append(*f.maps, user.IDMap{ID: next, ParentID: r.SubID, Count: r.Count})
			next += r.Count
		}
	}
	own.helped = true
	return own, nil
}

// NoHelper says which of the programs that map subordinate ids is not installed, and
// what helps; nothing when both are.
func NoHelper() string {
	for _, name := range []string{newuidmap, newgidmap} {
		if _, err := program.Find(name); err != nil {
			return name + " is not installed: `apt-get install uidmap`"
		}
	}
	return ""
}

// IDs returns the users and groups that this process has: which ID here is which
// ParentID outside.
func IDs() (uids, gids []user.IDMap, err error) {
	if uids, err = user.ParseIDMapFile("/proc/self/uid_map"); err == nil {
		gids, err = user.ParseIDMapFile("/proc/self/gid_map")
	}
	return uids, gids, err
}

// allIDs is how many ids the first user namespace has.
const allIDs = 1<<32 - 1

// sameIDs are the ids of a process that is root, of a container as a rule: they
// stay what they are. If it has all, one is left out: by the first namespace's map
// it is taken for that, by runtimes as well as by us.
func sameIDs() (same ids, err error) {
	if same.uids, same.gids, err = IDs(); err != nil {
		return ids{}, err
	}
	for _, maps := range [][]user.IDMap{same.uids, same.gids} {
		for i := range maps {
			maps[i].ParentID = maps[i].ID
			maps[i].Count = min(maps[i].Count, allIDs-1)
		}
	}
	return same, nil
}

// userName is the name of a user, or its number where it has none.
func userName(uid int) string {
	if u, err := osuser.LookupId(strconv.Itoa(uid)); err == nil {
		return u.Username
	}
	return strconv.Itoa(uid)
}

// UserName is the name of the user who started the program.
func UserName() string {
	uid := os.Geteuid()
	maps, err := user.ParseIDMapFile("/proc/self/uid_map")
	if err == nil && Entered() && len(maps) > 0 && userns.RunningInUserNS() {
		uid = int(maps[0].ParentID)
	}
	return userName(uid)
}

// Who says in words whose ids this process has.
func Who() string {
	if !userns.RunningInUserNS() {
		return UserName()
	}
	return fmt.Sprintf("%s, who has %d ids", UserName(), countIDs())
}

// countIDs is how many users this process can tell apart.
func countIDs() (n int64) {
	maps, _ := user.ParseIDMapFile("/proc/self/uid_map") // a kernel without has no user namespaces
	for _, m := range maps {
		n += m.Count
	}
	return n
}

// rangesOf are the subordinate ids that a file gives a user, by name or number.
func rangesOf(file, name string, uid int) ([]user.SubID, error) {
	ranges, err := user.ParseSubIDFileFilter(file, func(s user.SubID) bool {
		return (s.Name == name || s.Name == strconv.Itoa(uid)) && s.Count > 0
	})
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("read %s: %w", file, err)
	}
	return ranges, nil
}

// apply maps the ids for the namespace of a process. Where newgidmap fails, as in a container that gives no set-user-id program its rights, only the
// user's own ids are mapped.
func (i *ids) apply(pid int) error {
	if i.helped {
		err := mapBy(newgidmap, pid, i.gids)
		if err == nil {
			return mapBy(newuidmap, pid, i.uids)
		}
		*i = ids{uids: i.uids[:1], gids: i.gids[:1], why: err.Error()}
	}
	dir := "/proc/" + strconv.Itoa(pid)
	if os.Geteuid() != 0 {
		// Who could give up a group would get at what is forbidden to the group
		// (user_namespaces(7)).
		if err := os.WriteFile(dir+"/setgroups", []byte("deny"), 0); err != nil {
			return fmt.Errorf("map groups: %w", err)
		}
	}
	if err := os.WriteFile(dir+"/gid_map", lines(i.gids), 0); err != nil {
		return fmt.Errorf("map groups: %w", err)
	}
	if err := os.WriteFile(dir+"/uid_map", lines(i.uids), 0); err != nil {
		return fmt.Errorf("map users: %w", err)
	}
	return nil
}

func lines(maps []user.IDMap) []byte {
	var b bytes.Buffer
	for _, m := range maps {
		fmt.Fprintf(&b, "%d %d %d\n", m.ID, m.ParentID, m.Count)
	}
	return b.Bytes()
}

func mapBy(name string, pid int, maps []user.IDMap) error {
	said, err := program.Command(context.Background(), name, append([]string{strconv.Itoa(pid)}, strings.Fields(string(lines(maps)))...)...).CombinedOutput()
	if err == nil {
		return nil
	}
	what := err.Error()
	if text := strings.TrimPrefix(strings.TrimSpace(string(said)), name+": "); text != "" {
		what, _, _ = strings.Cut(text, "\n")
	}
	advice := "its ranges must be those of /etc/subuid and /etc/subgid"
	path, _ := program.Find(name)
	switch fi, err := os.Stat(path); {
	case noNewPrivileges():
		advice = "this process was started with no_new_privs, as in a container with allowPrivilegeEscalation: false"
	case err == nil && fi.Mode()&os.ModeSetuid == 0 && !hasFileCapabilities(path):
		advice = "it has lost its set-user-id bit: `sudo chmod u+s " + path + "`"
	}
	return fmt.Errorf("%s: %s: %s", name, what, advice)
}

func noNewPrivileges() bool {
	set, err := unix.PrctlRetInt(unix.PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0)
	return err == nil && set == 1
}

func hasFileCapabilities(path string) bool {
	n, err := unix.Getxattr(path, "security.capability", nil)
	return err == nil && n > 0
}
