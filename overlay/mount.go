package overlay

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

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

// settings are the same wherever we mount. index, redirect_dir and metacopy
// would have overlayfs write into the upper folder what is only understood
// together with these very lower folders: a rename of a folder would lose its
// children and a chmod of a file its content, in the packed layer.
func (k stack) settings() []string {
	return []string{"index=off", "redirect_dir=off", "metacopy=off"}
}

// mount mounts the stack on the folder target.
func (k stack) mount(target string) error {
	if len(k.lowers) > maxLowers {
		return tooMany(len(k.lowers)-1, maxLowers-1)
	}
	err := k.mountFsconfig(target)
	if errors.Is(err, errNoFsconfig) {
		err = k.mountOptions(target)
	}
	return err
}

// tooMany counts layers: lower folders less the empty one that lies below all.
func tooMany(layers, most int) error {
	return fmt.Errorf("a chain of %d layers is more than the %d that overlayfs takes here: "+
		"join some of them into one, for example by taking a base as `tar`", layers, most)
}

// mountFsconfig mounts by fsopen(2) and its relatives, where each lower folder is
// given on its own (Linux 6.5). A value may have 255 bytes at most, so folders
// are named by file descriptor.
func (k stack) mountFsconfig(target string) error {
	ctx, err := unix.Fsopen("overlay", unix.FSOPEN_CLOEXEC)
	if errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EPERM) {
		return errNoFsconfig
	}
	if err != nil {
		return fmt.Errorf("overlayfs: %w", err)
	}
	defer unix.Close(ctx)
	for i, dir := range k.lowers {
		err := setFolder(ctx, "lowerdir+", dir)
		if i == 0 && errors.Is(err, unix.EINVAL) {
			return errNoFsconfig
		}
		if err != nil {
			return err
		}
	}
	for _, s := range append([]string{"source=layerbuild"}, k.settings()...) {
		name, value, _ := strings.Cut(s, "=")
		if err := unix.FsconfigSetString(ctx, name, value); err != nil {
			return refused(ctx, s, err)
		}
	}
	attrs := unix.MOUNT_ATTR_RDONLY
	if k.upper != "" {
		attrs = 0
		if err := setFolder(ctx, "upperdir", k.upper); err != nil {
			return err
		}
		if err := setFolder(ctx, "workdir", k.work); err != nil {
			return err
		}
		if err := unix.FsconfigSetFlag(ctx, "volatile"); err != nil {
			return refused(ctx, "volatile", err)
		}
	}
	if err := unix.FsconfigCreate(ctx); err != nil {
		return refused(ctx, target, err)
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
		if len(line) > 2 && line[1] == ' ' {
			line = line[2:]
		}
		said = append(said, strings.TrimPrefix(line, "overlay: "))
	}
	if len(said) == 0 {
		return fmt.Errorf("overlayfs: %s: %w", what, err)
	}
	text := strings.Join(said, "; ")
	for _, a := range alias {
		text = strings.ReplaceAll(text, a, what)
	}
	return fmt.Errorf("overlayfs: %s: %w (%s)", what, err, text)
}

// mountOptions mounts by mount(2), whose options must fit into a page. Folders are
// named by file descriptor, which is short and needs no escapes.
func (k stack) mountOptions(target string) error {
	var folders []*os.File
	defer func() {
		for _, f := range folders {
			f.Close()
		}
	}()
	name := func(dir string) (string, error) {
		fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			return "", fmt.Errorf("open %s: %w", dir, err)
		}
		folders = append(folders, os.NewFile(uintptr(fd), dir))
		return fmt.Sprintf("/proc/self/fd/%d", fd), nil
	}
	var lowers []string
	for _, dir := range k.lowers {
		n, err := name(dir)
		if err != nil {
			return err
		}
		lowers = append(lowers, n)
	}
	options := append(k.settings(), "lowerdir="+strings.Join(lowers, ":"))
	flags := uintptr(unix.MS_RDONLY)
	if k.upper != "" {
		flags = 0
		upper, err := name(k.upper)
		if err != nil {
			return err
		}
		work, err := name(k.work)
		if err != nil {
			return err
		}
		options = append(options, "upperdir="+upper, "workdir="+work, "volatile")
	}
	text := strings.Join(options, ",")
	if page := os.Getpagesize(); len(text) >= page {
		return tooMany(len(lowers)-1, len(lowers)*page/len(text)-2)
	}
	err := unix.Mount("layerbuild", target, "overlay", flags, text)
	if errors.Is(err, unix.EINVAL) && k.upper != "" { // volatile came with Linux 5.10
		err = unix.Mount("layerbuild", target, "overlay", flags, strings.TrimSuffix(text, ",volatile"))
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
func unmount(target string) error {
	deadline := time.Now().Add(unmountWait)
	for {
		err := unix.Unmount(target, unix.UMOUNT_NOFOLLOW)
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
func detach(target string) error {
	err := unmount(target)
	if errors.Is(err, ErrLocked) {
		err = unix.Unmount(target, unix.UMOUNT_NOFOLLOW|unix.MNT_DETACH)
	}
	return err
}
