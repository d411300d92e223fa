package engine

import (
	"errors"
	"fmt"

	"github.com/moby/sys/userns"
	"golang.org/x/sys/unix"

	"github.com/layerbuild/layerbuild/namespace"
	"github.com/layerbuild/layerbuild/oci"
)

// privileged adds to the error about a file that this user cannot make how it can be made.
// Giving a file to an id that the user namespace does not map is EINVAL. cure ends the
// message where only root can make the file.
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

// fewOwners returns why a run could give files no other owner than root, which may be why it
// failed; "" if it could.
func fewOwners() string {
	if why := namespace.OneID(); why != "" {
		return "files can have no other owner than root: " + why
	}
	return ""
}
