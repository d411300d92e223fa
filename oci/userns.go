package oci

import (
	"archive/tar"
	"fmt"
	"slices"
	"strings"

	"github.com/moby/sys/user"
	"github.com/moby/sys/userns"
)

// A PrivilegeError says that a file of a layer cannot be made in this user
// namespace.
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
