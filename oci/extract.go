package oci

import (
	"archive/tar"
	"cmp"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/opencontainers/umoci/oci/layer"
	"golang.org/x/sys/unix"

	"github.com/layerbuild/layerbuild/inroot"
)

// An extractor applies the entries of one layer to a folder, as umoci's TarExtractor
// does with layer.DirRootfs, but looks at nothing twice: folders stay open, small files
// are written side by side, and folders get their times once, at the end. Rare entries
// go to umoci itself: devices, fifos, and whatever has extended attributes.
//
// The kernel resolves each path within the root (openat2(2), RESOLVE_IN_ROOT), so no
// symlink of this layer, or of one below it, leads out. A folder that the layer does
// not name keeps its attributes; one that it implies without naming is root's, 0755, from 1970.
//
// It belongs to one goroutine. finish completes the layer, close frees what it holds.
type extractor struct {
	path  string // of the root
	root  *openFolder
	umoci *layer.TarExtractor
	files *fileWriter
	open  map[string]*openFolder // by their path
	other *openFolder            // one that a symlink led to
	made  map[string]bool        // paths that this layer has made, and the folders above them
	times map[string]times       // what folders have in the end, by their path
}

// An openFolder is a folder below the root.
type openFolder struct {
	fd      int
	path    string // from the root, without symlinks
	touched bool   // its times are in extractor.times
	acl     bool   // it has a default ACL, which new files inherit
}

// mostOpen bounds the folders that are open at a time.
const mostOpen = 128

// errUnusual says that a folder is reached in a way that is left to umoci.
var errUnusual = errors.New("an unusual path")

// newExtractor returns an extractor to root. It fails with unix.ENOSYS or unix.EPERM
// where openat2 is not to be had.
func newExtractor(root string) (*extractor, error) {
	fd, err := unix.Openat2(unix.AT_FDCWD, root, &unix.OpenHow{Flags: unix.O_DIRECTORY | unix.O_CLOEXEC})
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", root, err)
	}
	return &extractor{
		path:  root,
		root:  &openFolder{fd: fd},
		umoci: newUmociExtractor(),
		files: newFileWriter(),
		open:  map[string]*openFolder{},
		made:  map[string]bool{},
		times: map[string]times{},
	}, nil
}

func newUmociExtractor() *layer.TarExtractor {
	return layer.NewTarExtractor(&layer.UnpackOptions{OnDiskFormat: layer.DirRootfs{}})
}

// close ends the writers and closes the folders.
func (x *extractor) close() {
	x.files.close()
	x.forget()
	unix.Close(x.root.fd)
}

// finish waits until all is written, and gives folders their times.
func (x *extractor) finish() error {
	if err := x.settle(); err != nil {
		return err
	}
	for _, at := range slices.Sorted(maps.Keys(x.times)) {
		if err := x.tidy(); err != nil {
			return err
		}
		in, name := x.root, "."
		if at != "" {
			dir, base := path.Split(at)
			var err error
			if in, err = x.folder(clean(dir)); err != nil {
				return err
			}
			name = base
		}
		if err := x.times[at].set(in.fd, name); err != nil {
			return fmt.Errorf("set the times of %q: %w", at, err)
		}
	}
	return nil
}

// entry applies one entry, whose content is read from r. The error may be of an entry
// before it, whose file was written meanwhile.
func (x *extractor) entry(hdr *tar.Header, r io.Reader) error {
	name := hdr.Name // umoci changes it
	err := x.apply(hdr, r)
	if failed := x.files.failed(); failed != nil {
		return failed
	}
	if err != nil {
		return fmt.Errorf("%.200q: %w", name, err)
	}
	return nil
}

func (x *extractor) apply(hdr *tar.Header, r io.Reader) error {
	if err := x.tidy(); err != nil {
		return err
	}
	name := clean(hdr.Name)
	if name == "" {
		return x.byUmoci(hdr, r)
	}
	dir, base := path.Split(name)
	if removed, ok := strings.CutPrefix(base, ".wh."); ok {
		return x.whiteout(hdr, clean(dir), removed)
	}
	in, err := x.folderToFill(clean(dir))
	if errors.Is(err, errUnusual) || err == nil && (in.acl || rare(hdr)) {
		return x.byUmoci(hdr, r)
	}
	if err != nil {
		return err
	}
	at := path.Join(in.path, base)
	if x.made[at] { // perhaps it is still being written
		if err := x.settle(); err != nil {
			return err
		}
	}
	x.mark(in, base)
	if _, folder := x.times[at]; hdr.Typeflag != tar.TypeDir && (folder || x.open[at] != nil) {
		x.gone(at)
	}
	switch hdr.Typeflag {
	case tar.TypeDir:
		return x.makeFolder(in, base, hdr)
	case tar.TypeSymlink:
		return x.makeSymlink(in, base, hdr)
	case tar.TypeLink:
		return x.makeLink(in, base, hdr)
	}
	f := &newFile{in: in, name: base, hdr: hdr}
	if hdr.Size > smallFile {
		return x.put(in, base, func() error { return f.create(r) })
	}
	return x.files.write(f, r)
}

// rare reports whether an entry is left to umoci.
func rare(hdr *tar.Header) bool {
	for name := range hdr.Xattrs { //nolint:staticcheck // what umoci reads
		if !hostXattrs[name] {
			return true
		}
	}
	switch hdr.Typeflag {
	case tar.TypeReg, tar.TypeDir, tar.TypeSymlink, tar.TypeLink:
		return false
	}
	return true
}

// byUmoci has umoci apply an entry.
func (x *extractor) byUmoci(hdr *tar.Header, r io.Reader) error {
	if err := x.settle(); err != nil {
		return err
	}
	name, when := clean(hdr.Name), timesOf(hdr)
	in := above(name)
	if at, err := inroot.Resolve(x.path, in); err == nil { // a symlink may lead to folders that are missing
		in = clean(at)
	}
	there, err := x.deepest(in)
	if err != nil {
		return err
	}
	if err := x.umoci.UnpackEntry(x.path, hdr, r); err != nil {
		return err
	}
	x.forget() // a folder may have been replaced
	if err := x.implied(in, there); err != nil {
		return err
	}
	if name == "" {
		x.times[""] = when
		return nil
	}
	dir, base := path.Split(name)
	folder, err := x.folder(clean(dir))
	if err != nil {
		return err
	}
	x.mark(folder, base)
	if at := path.Join(folder.path, base); hdr.Typeflag == tar.TypeDir {
		x.times[at] = when
	} else {
		x.gone(at)
	}
	return nil
}

// deepest returns how many of the folders that a path leads through are there. The last of
// them keeps its times.
func (x *extractor) deepest(at string) (int, error) {
	for {
		in, err := x.folder(at)
		if err == nil {
			return depth(at), x.touch(in)
		}
		if at == "" {
			return 0, err
		}
		at = above(at)
	}
}

// implied gives those folders that a path leads through beyond the first ones the times of
// what a layer does not name.
func (x *extractor) implied(at string, first int) error {
	for ; depth(at) > first; at = above(at) {
		in, err := x.folder(at)
		if err != nil {
			return err
		}
		if _, ok := x.times[in.path]; !ok {
			x.times[in.path] = impliedTimes
		}
	}
	return nil
}

// depth is how many elements a path has.
func depth(at string) int {
	if at == "" {
		return 0
	}
	return strings.Count(at, "/") + 1
}

func (x *extractor) makeFolder(in *openFolder, base string, hdr *tar.Header) error {
	err := unix.Mkdirat(in.fd, base, 0o700)
	if errors.Is(err, unix.EEXIST) {
		var st unix.Stat_t
		if err := unix.Fstatat(in.fd, base, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return err
		}
		if st.Mode&unix.S_IFMT != unix.S_IFDIR {
			err = x.put(in, base, func() error { return unix.Mkdirat(in.fd, base, 0o700) })
		} else if names, listed := xattrNames(filepath.Join(fdPath(in.fd), base)); len(names) > 0 { // which are not the layer's
			return x.byUmoci(hdr, nil)
		} else {
			err = listed
		}
	}
	if err != nil {
		return err
	}
	if err := unix.Fchownat(in.fd, base, hdr.Uid, hdr.Gid, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	x.times[path.Join(in.path, base)] = timesOf(hdr)
	return unix.Fchmodat(in.fd, base, permissions(hdr), 0)
}

func (x *extractor) makeSymlink(in *openFolder, base string, hdr *tar.Header) error {
	if err := x.put(in, base, func() error { return unix.Symlinkat(hdr.Linkname, in.fd, base) }); err != nil {
		return err
	}
	if err := unix.Fchownat(in.fd, base, hdr.Uid, hdr.Gid, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	return timesOf(hdr).set(in.fd, base)
}

// makeLink makes a hardlink, which has the attributes of its target, whatever hdr says.
func (x *extractor) makeLink(in *openFolder, base string, hdr *tar.Header) error {
	if err := x.settle(); err != nil {
		return err
	}
	dir, target := path.Split(clean(hdr.Linkname))
	from, err := x.openAt(clean(dir), 0)
	if err == nil {
		defer unix.Close(from.fd)
		err = x.put(in, base, func() error { return unix.Linkat(from.fd, target, in.fd, base, 0) })
	}
	if err != nil {
		return fmt.Errorf("link it to %.200q: %w", hdr.Linkname, err)
	}
	return nil
}

// put calls create; if something else has the name, once more without that.
func (x *extractor) put(in *openFolder, base string, create func() error) error {
	err := create()
	if !errors.Is(err, unix.EEXIST) {
		return err
	}
	if err := removeAll(in.fd, base); err != nil {
		return err
	}
	x.gone(path.Join(in.path, base))
	return create()
}

// whiteout removes a name from a folder, or all that is in it if that is "" or the rest
// of ".wh..wh..opq": what layers below have there. What this layer has made stays,
// wherever the whiteout stands in it (OCI image spec, layer.md, "Whiteouts").
func (x *extractor) whiteout(hdr *tar.Header, dir, name string) error {
	if err := x.settle(); err != nil {
		return err
	}
	in, err := x.folder(dir)
	switch {
	case errors.Is(err, unix.ENOENT):
		return nil
	case errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.ELOOP):
		return x.umoci.UnpackEntry(x.path, hdr, nil)
	case err != nil:
		return err
	}
	if err := x.touch(in); err != nil {
		return err
	}
	if name == "" || name == ".wh..opq" {
		err = x.empty(in)
	} else {
		err = x.remove(in, name)
	}
	x.forget()
	return err
}

// empty removes from a folder all that this layer has not made.
func (x *extractor) empty(in *openFolder) error {
	entries, err := os.ReadDir(fdPath(in.fd))
	for _, e := range entries {
		err = cmp.Or(err, x.remove(in, e.Name()))
	}
	return err
}

func (x *extractor) remove(in *openFolder, name string) error {
	at := path.Join(in.path, name)
	if !x.made[at] {
		x.gone(at)
		return removeAll(in.fd, name)
	}
	folder, err := x.openAt(at, unix.RESOLVE_NO_SYMLINKS)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) {
		return nil // a file of this layer
	}
	if err != nil {
		return err
	}
	defer unix.Close(folder.fd)
	return cmp.Or(x.touch(folder), x.empty(folder))
}

// removeAll removes a file, or a folder with all that is in it. That there is none is
// no error.
func removeAll(dir int, name string) error {
	err := unix.Unlinkat(dir, name, 0)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if !errors.Is(err, unix.EISDIR) {
		return err
	}
	root, err := os.OpenRoot(fdPath(dir))
	if err != nil {
		return err
	}
	defer root.Close()
	return root.RemoveAll(name)
}

// settle waits until every file so far is written.
func (x *extractor) settle() error {
	inTheWay, err := x.files.wait()
	for _, f := range inTheWay { // of folders
		err = cmp.Or(err, x.put(f.in, f.name, f.createSmall))
	}
	return err
}

// mark notes that the layer has made a name in a folder.
func (x *extractor) mark(in *openFolder, base string) {
	for at := path.Join(in.path, base); !x.made[at]; at = above(at) {
		x.made[at] = true
	}
}

// gone forgets what was known of a path and of those below it.
func (x *extractor) gone(at string) {
	below := func(p string) bool { return p == at || strings.HasPrefix(p, at+"/") }
	maps.DeleteFunc(x.times, func(p string, _ times) bool { return below(p) })
	maps.DeleteFunc(x.open, func(_ string, d *openFolder) bool {
		if below(d.path) {
			unix.Close(d.fd)
			return true
		}
		return false
	})
}

// forget closes the folders. No file is being written.
func (x *extractor) forget() {
	for _, d := range x.open {
		unix.Close(d.fd)
	}
	clear(x.open)
	if x.other != nil {
		unix.Close(x.other.fd)
		x.other = nil
	}
}

// tidy closes the folders if there are many.
func (x *extractor) tidy() error {
	if len(x.open) < mostOpen {
		return nil
	}
	err := x.settle()
	x.forget()
	return err
}

// folderToFill returns a folder that something is about to be made in, which will keep
// its times. It is made if it is not there. The error is errUnusual where that is umoci's.
func (x *extractor) folderToFill(at string) (*openFolder, error) {
	in, err := x.folder(at)
	if errors.Is(err, unix.ENOENT) {
		if err = x.imply(at); err == nil {
			in, err = x.folder(at)
		}
	}
	switch {
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.EEXIST), errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.ELOOP):
		return nil, errUnusual
	case err != nil:
		return nil, err
	}
	return in, x.touch(in)
}

// imply makes a folder that the layer does not name, or not yet.
func (x *extractor) imply(at string) error {
	dir, base := path.Split(at)
	in, err := x.folderToFill(clean(dir))
	if err != nil {
		return err
	}
	if err := unix.Mkdirat(in.fd, base, 0o755); err != nil {
		return err
	}
	if !in.acl {
		var st unix.Stat_t
		if err := unix.Fstatat(in.fd, base, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return err
		}
		if err := unix.Fchmodat(in.fd, base, st.Mode&unix.S_ISGID|0o755, 0); err != nil { // whatever the umask
			return err
		}
	}
	x.mark(in, base)
	x.times[path.Join(in.path, base)] = impliedTimes
	return nil
}

// touch has a folder keep the times that it has now, unless the layer says others.
func (x *extractor) touch(in *openFolder) error {
	if in.touched {
		return nil
	}
	in.touched = true
	if _, ok := x.times[in.path]; ok {
		return nil
	}
	// While a file is written, overlayfs may copy folders up: those above have the time of
	// now until it sets them back.
	if err := x.settle(); err != nil {
		return err
	}
	var st unix.Stat_t
	err := unix.Fstat(in.fd, &st)
	x.times[in.path] = times{st.Atim, st.Mtim}
	return err
}

// folder returns an open folder. It stays open until the next entry.
func (x *extractor) folder(at string) (*openFolder, error) {
	if at == "" {
		return x.root, nil
	}
	if d := x.open[at]; d != nil {
		return d, nil
	}
	if x.written(at) {
		if err := x.settle(); err != nil {
			return nil, err
		}
	}
	d, err := x.openAt(at, unix.RESOLVE_NO_SYMLINKS)
	if err == nil {
		x.open[at] = d
		return d, nil
	}
	if !errors.Is(err, unix.ELOOP) {
		return nil, err
	}
	if err := x.settle(); err != nil {
		return nil, err
	}
	if d, err = x.openAt(at, 0); err != nil {
		return nil, err
	}
	if x.other != nil {
		unix.Close(x.other.fd)
	}
	x.other = d
	return d, nil
}

// written reports whether a path, or one above it, may be that of a file which is being
// written.
func (x *extractor) written(at string) bool {
	for ; at != ""; at = above(at) {
		if _, folder := x.times[at]; x.made[at] && !folder {
			return true
		}
	}
	return false
}

func (x *extractor) openAt(at string, resolve uint64) (*openFolder, error) {
	fd, err := unix.Openat2(x.root.fd, "./"+at, &unix.OpenHow{
		Flags:   unix.O_RDONLY | unix.O_DIRECTORY | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS | resolve,
	})
	if err != nil {
		return nil, fmt.Errorf("open the folder %.200q: %w", at, err)
	}
	d := &openFolder{fd: fd, path: at}
	if resolve&unix.RESOLVE_NO_SYMLINKS == 0 {
		if d.path, err = x.resolved(fd); err != nil {
			unix.Close(fd)
			return nil, err
		}
	}
	size, err := unix.Fgetxattr(fd, "system.posix_acl_default", nil)
	d.acl = err == nil && size > 0
	return d, nil
}

// resolved returns the path of an open folder from the root.
func (x *extractor) resolved(fd int) (string, error) {
	at, err := os.Readlink(fdPath(fd))
	if err != nil {
		return "", err
	}
	root, err := os.Readlink(fdPath(x.root.fd))
	return clean(strings.TrimPrefix(at, root)), err
}

// above is the path of the folder that a path is in.
func above(at string) string { return at[:max(strings.LastIndexByte(at, '/'), 0)] }

// fdPath is a path of an open file, for calls that take no descriptor.
func fdPath(fd int) string { return fmt.Sprintf("/proc/self/fd/%d", fd) }
