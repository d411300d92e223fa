package oci

import (
	"archive/tar"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"

	"github.com/moby/sys/user"
	"github.com/moby/sys/userns"
)

// A PrivilegeError says that a file of a layer cannot be made, or said, in this
// user namespace.
type PrivilegeError struct {
	Name  string // of the file
	What  string // it is or has
	Owner bool   // What is an owner who is no user here
}

func (e *PrivilegeError) Error() string { return fmt.Sprintf("%q %s", e.Name, e.What) }

// idsHere are the users and groups of this user namespace, nil in the first one,
// which has all.
type idsHere struct{ uids, gids []user.IDMap }

func newIDsHere() (*idsHere, error) {
	if !userns.RunningInUserNS() {
		return nil, nil
	}
	var ids idsHere
	var err error
	if ids.uids, err = user.ParseIDMapFile("/proc/self/uid_map"); err == nil {
		ids.gids, err = user.ParseIDMapFile("/proc/self/gid_map")
	}
	return &ids, err
}

// check refuses an entry of a tar that would become something else, or fail with an
// error number that says little.
func (i *idsHere) check(hdr *tar.Header) error {
	if i == nil {
		return nil
	}
	if hdr.Typeflag == tar.TypeChar || hdr.Typeflag == tar.TypeBlock {
		return &PrivilegeError{Name: hdr.Name, What: fmt.Sprintf("is the device %d:%d, which only root can make", hdr.Devmajor, hdr.Devminor)}
	}
	if !has(i.uids, hdr.Uid) || !has(i.gids, hdr.Gid) {
		return &PrivilegeError{Name: hdr.Name, What: fmt.Sprintf("belongs to %d:%d, who is nobody here", hdr.Uid, hdr.Gid), Owner: true}
	}
	for name := range hdr.Xattrs { //nolint:staticcheck // what umoci reads
		if strings.HasPrefix(name, "trusted.") || strings.HasPrefix(name, "security.") && name != "security.capability" && !hostXattrs[name] {
			return &PrivilegeError{Name: hdr.Name, What: fmt.Sprintf("has the extended attribute %s, which only root can set", name)}
		}
	}
	return nil
}

func has(maps []user.IDMap, id int) bool {
	return slices.ContainsFunc(maps, func(m user.IDMap) bool { return m.ID <= int64(id) && int64(id) < m.ID+m.Count })
}

// checkOpaque refuses an upper folder, to be packed as a filesystem, that hides a
// folder below it: overlayfs marks that by an attribute that has another name in a
// user namespace, which would be the wrong one to whoever mounts the filesystem.
func checkOpaque(dir string) error {
	if !userns.RunningInUserNS() {
		return nil
	}
	return filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.IsDir() {
			return err
		}
		x, err := overlayXattrs(path)
		if err == nil && x.opaque {
			name, _ := filepath.Rel(dir, path)
			err = &PrivilegeError{Name: name, What: "hides a folder below it, which only root can mark in a filesystem"}
		}
		return err
	})
}
