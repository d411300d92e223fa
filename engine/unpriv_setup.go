package engine

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

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

// give makes a folder, if need be, and the user its owner, with all that is in it.
// One with snapshots of another's is refused: the owners of their files would be
// none of the user's.
func give(dir string, u User) (bool, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return false, err
	}
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil {
		return false, fmt.Errorf("stat %s: %w", dir, err)
	}
	if int(st.Uid) == u.UID {
		return false, nil
	}
	if made, err := os.ReadDir(filepath.Join(dir, "snapshots")); err == nil && len(made) > 0 {
		return false, fmt.Errorf("the state folder %s has layers of another user: `layerbuild clean --all --state-dir %s` removes them, or name another folder", dir, dir)
	}
	return true, filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Lchown(path, u.UID, u.GID)
	})
}
