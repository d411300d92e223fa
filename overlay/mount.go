package overlay

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/moby/sys/userns"
	"golang.org/x/sys/unix"
)

// maxLowers is how many lower folders overlayfs takes (OVL_MAX_STACK).
const maxLowers = 500

// errNoFsconfig: this kernel, or the seccomp profile this process runs under,
// does not know the mount calls that take one lower folder at a time.
var errNoFsconfig = errors.New("no fsconfig with lowerdir+")

// A stack is what overlayfs is to mount.
type stack struct {
	lowers      []string // highest first; at least one, and two if upper is ""
	upper, work string   // on one filesystem; "" to mount read-only
}

// settings are what we always mount with. index, redirect_dir and metacopy would
// have overlayfs write into the upper folder what is only understood together with
// these very lower folders: a rename of a folder would lose its children and a
// chmod of a file its content, in the packed layer. userxattr has none of them,
// and takes no redirect_dir=off.
func settings() []string {
	if userns.RunningInUserNS() {
		return []string{"index=off", "userxattr"}
	}
	return []string{"index=off", "redirect_dir=off", "metacopy=off"}
}

// mount mounts the stack on the folder target.
func (k stack) mount(target string) error {
	if len(k.lowers) > maxLowers {
		return k.mountDeep(target)
	}
	err := k.mountFsconfig(target)
	if errors.Is(err, errNoFsconfig) {
		err = k.mountOptions(target)
	}
	return err
}

// mountDeep mounts a stack of more lower folders than overlayfs takes: the lowest
// are mounted first, read-only, and make one folder. Only the lowest can be:
// nothing lies below them that a whiteout of theirs hides. The kernel allows no
// overlay on an overlay on an overlay.
func (k stack) mountDeep(target string) error {
	lowest := stack{lowers: k.lowers[maxLowers-1:]}
	if len(lowest.lowers) > maxLowers {
		return tooMany(len(k.lowers)-1, 2*maxLowers-2)
	}
	below, err := os.MkdirTemp(filepath.Dir(target), "below-")
	if err != nil {
		return err
	}
	defer os.Remove(below)
	if err := lowest.mount(below); err != nil {
		return err
	}
	k.lowers = append(k.lowers[:maxLowers-1:maxLowers-1], below)
	// The stack keeps what lies below by itself once it is mounted.
	return errors.Join(k.mount(target), unix.Unmount(below, unix.UMOUNT_NOFOLLOW|unix.MNT_DETACH))
}

// tooMany counts layers: lower folders less the empty one that lies below all.
func tooMany(layers, most int) error {
	return fmt.Errorf("a chain of %d layers is more than the %d that overlayfs takes here: "+
		"join some of them into one, for example by taking a base as `tar`", layers, most)
}

// mountFsconfig mounts by fsopen(2) and its relatives, where each lower folder is
// given on its own (Linux 6.5).
func (k stack) mountFsconfig(target string) error {
	ctx, err := unix.Fsopen("overlay", unix.FSOPEN_CLOEXEC)
	if errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EPERM) {
		return errNoFsconfig
	}
	if err != nil {
		return fmt.Errorf("overlayfs: %w", err)
	}
	defer unix.Close(ctx)
	if err := k.configure(ctx); err != nil {
		return err
	}
	if err := unix.FsconfigCreate(ctx); err != nil {
		return refused(ctx, target, err)
	}
	attrs := 0
	if k.upper == "" {
		attrs = unix.MOUNT_ATTR_RDONLY
	}
	mnt, err := unix.Fsmount(ctx, unix.FSMOUNT_CLOEXEC, attrs)
	if err != nil {
		return refused(ctx, target, err)
	}
	defer unix.Close(mnt)
	if err := unix.MoveMount(mnt, "", unix.AT_FDCWD, target, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return fmt.Errorf("mount on %s: %w", target, err)
	}
	return nil
}

// configure tells the mount context ctx all about the stack.
func (k stack) configure(ctx int) error {
	for i, dir := range k.lowers {
		err := setFolder(ctx, "lowerdir+", dir)
		if i == 0 && errors.Is(err, unix.EINVAL) {
			return errNoFsconfig
		}
		if err != nil {
			return err
		}
	}
	for _, s := range append(settings(), "source=layerbuild") {
		name, value, isText := strings.Cut(s, "=")
		var err error
		if isText {
			err = unix.FsconfigSetString(ctx, name, value)
		} else {
			err = unix.FsconfigSetFlag(ctx, name)
		}
		if err != nil {
			return refused(ctx, s, err)
		}
	}
	if k.upper == "" {
		return nil
	}
	if err := setFolder(ctx, "upperdir", k.upper); err != nil {
		return err
	}
	if err := setFolder(ctx, "workdir", k.work); err != nil {
		return err
	}
	if err := unix.FsconfigSetFlag(ctx, "volatile"); err != nil {
		return refused(ctx, "volatile", err)
	}
	return nil
}

// setFolder gives a folder to the mount context. A value may have 255 bytes at
// most, so the folder is named by file descriptor.
func setFolder(ctx int, key, dir string) error {
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open %s: %w", dir, err)
	}
	defer unix.Close(fd)
	name := fmt.Sprintf("/proc/self/fd/%d", fd)
	if err := unix.FsconfigSetString(ctx, key, name); err != nil {
		return refused(ctx, dir, err, name)
	}
	return nil
}

// refused adds what the kernel says of the mount context to its error number.
// Where it says alias it means what.
func refused(ctx int, what string, err error, alias ...string) error {
	var said []string
	for buf := make([]byte, 1024); ; {
		n, rerr := unix.Read(ctx, buf)
		if rerr != nil || n <= 0 {
			break
		}
		// "e overlay: text": a letter for how bad it is.
		line := strings.TrimSpace(string(buf[:n]))
		for _, a := range alias {
			line = strings.ReplaceAll(line, a, what)
		}
		said = append(said, strings.TrimPrefix(line, "e overlay: "))
	}
	if len(said) == 0 {
		return fmt.Errorf("overlayfs: %s: %w", what, err)
	}
	return fmt.Errorf("overlayfs: %s: %w (%s)", what, err, strings.Join(said, "; "))
}

// mountOptions mounts by mount(2), whose options must fit into a page. Folders are
// named by file descriptor, which is short and needs no escapes.
func (k stack) mountOptions(target string) error {
	folders := k.lowers
	if k.upper != "" {
		folders = slices.Concat(k.lowers, []string{k.upper, k.work})
	}
	names := make([]string, len(folders))
	for i, dir := range folders {
		fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("open %s: %w", dir, err)
		}
		defer unix.Close(fd)
		names[i] = fmt.Sprintf("/proc/self/fd/%d", fd)
	}
	n := len(k.lowers)
	options := strings.Join(append(settings(), "lowerdir="+strings.Join(names[:n], ":")), ",")
	flags, volatile := uintptr(unix.MS_RDONLY), ""
	if k.upper != "" {
		options += ",upperdir=" + names[n] + ",workdir=" + names[n+1]
		flags, volatile = 0, ",volatile"
	}
	if page := os.Getpagesize(); len(options+volatile) >= page {
		return tooMany(n-1, n*page/len(options)-2)
	}
	err := unix.Mount("layerbuild", target, "overlay", flags, options+volatile)
	if errors.Is(err, unix.EINVAL) && volatile != "" { // it came with Linux 5.10
		err = unix.Mount("layerbuild", target, "overlay", flags, options)
	}
	if err != nil {
		return fmt.Errorf("overlayfs: mount on %s: %w", target, err)
	}
	return nil
}

// unmountWait is how long unmount waits for the last process that uses a mount:
// one that was killed needs a moment to be gone.
const unmountWait = 500 * time.Millisecond

// unmount unmounts the folder target, which is ErrLocked if something goes on
// using it. It is no error if nothing is mounted there.
func (s *Store) unmount(target string) error {
	deadline := time.Now().Add(unmountWait)
	for {
		err := s.do(func() error { return unix.Unmount(target, unix.UMOUNT_NOFOLLOW) })
		if err == nil || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) {
			return nil
		}
		if !errors.Is(err, unix.EBUSY) {
			return fmt.Errorf("unmount %s: %w", target, err)
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("unmount %s: %w by a process (fuser -vm shows it)", target, ErrLocked)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// detach unmounts the folder target whoever uses it: for what nobody will look
// at again. A process that still has something of it open goes on reading it.
func (s *Store) detach(target string) error {
	err := s.unmount(target)
	if errors.Is(err, ErrLocked) {
		err = s.do(func() error { return unix.Unmount(target, unix.UMOUNT_NOFOLLOW|unix.MNT_DETACH) })
	}
	return err
}
