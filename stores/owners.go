package stores

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

	"github.com/layerbuild/layerbuild/namespace"
	"github.com/layerbuild/layerbuild/statedir"
)

// Enter moves the process to where it may read and remove every file of a state folder: the
// files in a user's snapshots belong to the user's subordinate ids. Call it before anything is
// printed or asked, see namespace.Enter. It does nothing as root, or without a state folder.
func Enter(state string) error {
	if namespace.Ready() {
		return nil
	}
	if _, err := os.Lstat(state); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return namespace.Enter()
}

// owners is the content of a file beside the snapshots: the id maps of the user namespace that
// made them. Without the file, owners are the ids that the disk shows.
type owners struct {
	UIDs []user.IDMap `json:"uids"`
	GIDs []user.IDMap `json:"gids"`
}

const ownersFile = "owners.json"

// CheckOwners fails if files in the snapshots below roots would have other owners in this user
// namespace than in the one that made them. It notes the id maps that hold from now on.
func CheckOwners(roots string) error {
	if !namespace.Ready() {
		return nil
	}
	path := filepath.Join(roots, ownersFile)
	text, err := statedir.ReadFile(path)
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
	case !namespace.Entered(): // the process that enters it checks again
		return nil
	case noted:
		return made.note(path, text)
	}
	if made, err := os.ReadDir(filepath.Join(roots, "snapshots")); err == nil && len(made) > 0 {
		return fmt.Errorf("the folder %s was made by root, whose ids this user does not have: run as root, or name another one with --state-dir", roots)
	}
	return made.note(path, nil)
}

// same reports whether all ids are the same outside the namespace.
func (o owners) same() bool {
	return !slices.ContainsFunc(slices.Concat(o.UIDs, o.GIDs), func(m user.IDMap) bool { return m.ID != m.ParentID })
}

// note replaces the file at path, which holds text, by the id maps of this process. It fails
// if an id of o means another one now.
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

// within reports whether b maps all ids that a maps, to the same parents.
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

// follow returns the first id above the range of maps that maps id to parent; false if none does.
func follow(maps []user.IDMap, id, parent int64) (next int64, ok bool) {
	for _, m := range maps {
		if id >= m.ID && id < m.ID+m.Count && m.ParentID+id-m.ID == parent {
			return m.ID + m.Count, true
		}
	}
	return 0, false
}
