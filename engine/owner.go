package engine

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/google/renameio/v2"
	"github.com/moby/sys/user"
	"github.com/moby/sys/userns"
	"golang.org/x/sys/unix"

	"github.com/layerbuild/layerbuild/namespace"
	"github.com/layerbuild/layerbuild/oci"
)

// EnterState moves the process to where it may read and remove every file of a
// state folder: those of a user's snapshots belong to its subordinate ids. It is
// called before anything is printed or asked, see namespace.Enter. It costs
// nothing as root, or where there is no state folder.
func EnterState(state string) error {
	if namespace.Ready() {
		return nil
	}
	if _, err := os.Lstat(state); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return namespace.Enter()
}

// owners is the file beside the snapshots that says which ids outside the owners of
// their files are, as they were in the user namespace that made them. Without one
// they are what they are.
type owners struct {
	UIDs []user.IDMap `json:"uids"`
	GIDs []user.IDMap `json:"gids"`
}

const ownersFile = "owners.json"

// checkOwners fails when the snapshots in a folder would have other owners here than
// where they were made. It notes the owners of those that will be made.
func checkOwners(roots string) error {
	if !namespace.Ready() {
		return nil
	}
	path := filepath.Join(roots, ownersFile)
	text, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("state folder: %w", err)
	}
	var made owners
	noted := err == nil
	if noted {
		if err := json.Unmarshal(text, &made); err != nil {
			return fmt.Errorf("state folder: %s: %w: remove the folder as root, or name another one with --state-dir", path, err)
		}
	}
	switch {
	case !userns.RunningInUserNS():
		// Root of a container that mounts in a namespace of its own has its own ids there.
		if noted && (namespace.Entered() || !made.same()) {
			return fmt.Errorf("the folder %s was made by an ordinary user, whose ids root does not have: run as that user, or name another one with --state-dir", roots)
		}
		return nil
	case !namespace.Entered(): // the last life will tell
		return nil
	case noted:
		return made.note(path, text)
	}
	if made, err := os.ReadDir(filepath.Join(roots, "snapshots")); err == nil && len(made) > 0 {
		return fmt.Errorf("the folder %s was made by root, whose ids this user does not have: run as root, or name another one with --state-dir", roots)
	}
	return made.note(path, nil)
}

// same says whether all ids are the same outside.
func (o owners) same() bool {
	return !slices.ContainsFunc(slices.Concat(o.UIDs, o.GIDs), func(m user.IDMap) bool { return m.ID != m.ParentID })
}

// note brings the file at path, which holds text, up to date with the ids here. It
// fails if those that were there are others now.
func (o owners) note(path string, text []byte) error {
	var here owners
	var err error
	if here.UIDs, here.GIDs, err = namespace.IDs(); err != nil {
		return err
	}
	if !within(o.UIDs, here.UIDs) || !within(o.GIDs, here.GIDs) {
		return fmt.Errorf("the folder %s was made with other subordinate ids than this user has now: give them back in /etc/subuid and /etc/subgid, or remove the folder as root, or name another one with --state-dir", filepath.Dir(path))
	}
	now, err := json.Marshal(here)
	if err != nil || bytes.Equal(now, text) {
		return err
	}
	return renameio.WriteFile(path, now, 0o600)
}

// within tells whether all ids that a maps are the same outside as in b.
func within(a, b []user.IDMap) bool {
	for _, m := range a {
		for id := m.ID; id < m.ID+m.Count; {
			next, ok := follow(b, id, m.ParentID+id-m.ID)
			if !ok {
				return false
			}
			id = next
		}
	}
	return true
}

// follow returns the first id beyond the range that maps id to parent.
func follow(maps []user.IDMap, id, parent int64) (next int64, ok bool) {
	for _, m := range maps {
		if id >= m.ID && id < m.ID+m.Count && m.ParentID+id-m.ID == parent {
			return m.ID + m.Count, true
		}
	}
	return 0, false
}

// privileged says what to do about a file that a user cannot make. To give one to
// somebody who is nobody in a user namespace is an invalid argument there. cure is
// what else helps where it takes root.
func privileged(err error, cure string) error {
	var file *oci.PrivilegeError
	if !errors.As(err, &file) && (!errors.Is(err, unix.EINVAL) || !userns.RunningInUserNS()) {
		return err
	}
	if file != nil && !file.Owner {
		return fmt.Errorf("%w: build as root%s", err, cure)
	}
	if why := namespace.OneID(); why != "" {
		return fmt.Errorf("%w: files can have no other owner than root: %s", err, why)
	}
	return fmt.Errorf("%w: it is %s: /etc/subuid and /etc/subgid can give more", err, namespace.Who())
}

// fewOwners says, after a run has failed, what it may have failed of; "" where it
// could give files any owner.
func fewOwners() string {
	if why := namespace.OneID(); why != "" {
		return "files can have no other owner than root: " + why
	}
	return ""
}
