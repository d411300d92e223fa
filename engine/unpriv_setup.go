package engine

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/layerbuild/layerbuild/namespace"
)

// A User is whom UnprivSetup is for.
type User struct {
	Name     string
	UID, GID int
}

// UnprivSetup lets a user build without being root: it gives subordinate ids, and
// the state folder if one is named. It returns what it did, a line each, and
// does nothing twice. It needs root.
func UnprivSetup(u User, stateDir string) (done []string, err error) {
	if os.Geteuid() != 0 {
		return nil, errors.New("only root can give a user subordinate ids: use sudo")
	}
	if done, err = namespace.Grant(u.Name, u.UID); err != nil {
		return done, err
	}
	if stateDir != "" {
		given, err := give(stateDir, u)
		if err != nil {
			return done, err
		}
		if given {
			done = append(done, fmt.Sprintf("%s belongs to %s", stateDir, u.Name))
		}
	}
	if missing := namespace.NoHelper(); missing != "" {
		return done, errors.New(missing)
	}
	return done, nil
}

// give makes a folder, if need be, and the user its owner, with all that is in it. Whoever
// can change the folder meanwhile has nothing outside of it given away. One with
// snapshots of another's is refused: the owners of their files would be none of the user's;
// so is one with files of several owners, which may be links to files elsewhere.
func give(dir string, u User) (bool, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return false, err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return false, err
	}
	defer root.Close()
	owner, err := uidIn(root, ".")
	if err != nil || owner == u.UID {
		return false, err
	}
	if made, err := fs.ReadDir(root.FS(), "snapshots"); err == nil && len(made) > 0 {
		return false, fmt.Errorf("the state folder %s has layers of another user: `layerbuild clean --all --state-dir %s` removes them, or name another folder", dir, dir)
	}
	return true, fs.WalkDir(root.FS(), ".", func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		is, err := uidIn(root, path)
		if err == nil && is != owner {
			err = fmt.Errorf("%s belongs to user %d, and the state folder to user %d: name another folder", filepath.Join(dir, path), is, owner)
		}
		if err != nil {
			return err
		}
		return root.Lchown(path, u.UID, u.GID)
	})
}

// uidIn returns the owner of a file, and not of what it may be a link to.
func uidIn(root *os.Root, path string) (int, error) {
	info, err := root.Lstat(path)
	if err != nil {
		return 0, err
	}
	return int(info.Sys().(*syscall.Stat_t).Uid), nil
}
