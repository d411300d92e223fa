package oci

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/moby/sys/userns"
	"github.com/opencontainers/go-digest"
	ispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/opencontainers/umoci/oci/casext"
	"golang.org/x/sys/unix"

	"github.com/layerbuild/layerbuild/locks"
	"github.com/layerbuild/layerbuild/statedir"
)

// A Layout is an OCI layout of the user's, which other tools and other processes
// of layerbuild write too.
//
// index.json is replaced under an exclusive flock on the file oci-layout, whole, so that of parallel writers none loses a tag; entries and fields of other tools
// are kept as they are. Blobs are there before the index names them.
type Layout struct{ path string }

// OpenLayout opens an existing layout. The error of a missing one is
// fs.ErrNotExist; what is there but is no layout is left alone.
func OpenLayout(path string) (*Layout, error) {
	if err := checkLayout(path); err != nil {
		return nil, err
	}
	l := &Layout{path}
	if _, err := l.readIndex(); err != nil {
		return nil, err
	}
	return l, nil
}

// CreateLayout opens the layout at path, or makes one where there is nothing, an
// empty folder, or what a killed process left of making one. Anything else is
// refused and left alone.
func CreateLayout(path string) (*Layout, error) {
	if l, err := OpenLayout(path); err == nil {
		return l, nil
	}
	if !canFill(path) {
		return OpenLayout(path) // another process may have made it just now
	}
	if err := fillLayout(path); err != nil {
		return nil, fmt.Errorf("making the OCI layout %s: %w", path, err)
	}
	return OpenLayout(path)
}

// canFill tells whether fillLayout would add to nothing but its own work.
func canFill(path string) bool {
	err := filepath.WalkDir(path, func(name string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(path, name)
		dir := rel == "." || rel == ispec.ImageBlobsDir || rel == filepath.Join(ispec.ImageBlobsDir, digest.SHA256.String())
		if dir && e.IsDir() || e.Type().IsRegular() && (rel == ispec.ImageLayoutFile || strings.HasPrefix(rel, tempPrefix)) {
			return err
		}
		return fs.ErrExist
	})
	return err == nil || errors.Is(err, fs.ErrNotExist)
}

// fillLayout makes what a folder lacks to be a layout, index.json last. Processes
// may do it at the same time: what is there is kept.
func fillLayout(dir string) error {
	if err := os.MkdirAll(filepath.Join(dir, ispec.ImageBlobsDir, digest.SHA256.String()), 0o755); err != nil {
		return err
	}
	index := ispec.Index{MediaType: ispec.MediaTypeImageIndex, Manifests: []Descriptor{}}
	index.SchemaVersion = 2
	made := false
	for _, file := range []struct {
		name    string
		content any
	}{{ispec.ImageLayoutFile, ispec.ImageLayout{Version: ispec.ImageLayoutVersion}}, {ispec.ImageIndexFile, index}} {
		path := filepath.Join(dir, file.name)
		if _, err := os.Lstat(path); err == nil {
			continue
		}
		data, err := json.Marshal(file.content)
		if err != nil {
			return err
		}
		if err := born(dir, path, os.Link, content(data)); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
		made = true
	}
	if !made {
		return nil
	}
	return statedir.Sync(dir)
}

// A Tag is a name in a layout's index.
type Tag struct {
	Name     string
	Manifest Descriptor
	Missing  []Descriptor // blobs of the image that are not there, or have another size
}

// Tags returns the layout's tags in the index's order. A tag of an index of
// images is there too; what is below the index is not looked at.
func (l *Layout) Tags() ([]Tag, error) {
	index, err := l.readIndex()
	if err != nil {
		return nil, err
	}
	var tags []Tag
	for _, e := range index.entries {
		if name, ok := e.Annotations[ispec.AnnotationRefName]; ok {
			tags = append(tags, Tag{Name: name, Manifest: e.Descriptor, Missing: l.missing(e.Descriptor)})
		}
	}
	return tags, nil
}

// Has reports whether a tag stands for that manifest and all the image's blobs
// are there with the right sizes. Contents are not read, but the manifest.
func (l *Layout) Has(tag string, manifest digest.Digest) (bool, error) {
	index, err := l.readIndex()
	if err != nil {
		return false, err
	}
	i := index.find(tag)
	return i >= 0 && index.count(tag) == 1 && index.entries[i].Digest == manifest && len(l.missing(index.entries[i].Descriptor)) == 0, nil
}

// Find returns the manifest that a tag stands for, and false where there is no such tag.
func (l *Layout) Find(tag string) (Descriptor, bool, error) {
	index, err := l.readIndex()
	if err != nil {
		return Descriptor{}, false, err
	}
	i := index.find(tag)
	if i < 0 {
		return Descriptor{}, false, nil
	}
	return index.entries[i].Descriptor, true, nil
}

// missing returns which of an image's blobs are not there: the manifest itself
// when it is that or is damaged.
func (l *Layout) missing(manifest Descriptor) []Descriptor {
	if !l.has(manifest) {
		return []Descriptor{manifest}
	}
	if !isManifest(manifest.MediaType) {
		return nil
	}
	var m ispec.Manifest
	data, err := l.ReadDocument(manifest)
	if err != nil || json.Unmarshal(data, &m) != nil {
		return []Descriptor{manifest}
	}
	var missing []Descriptor
	for _, d := range distinct(append([]Descriptor{m.Config}, m.Layers...)) {
		if !l.has(d) {
			missing = append(missing, d)
		}
	}
	return missing
}

// blobPath returns where a blob is; its digest must be valid.
func (l *Layout) blobPath(d digest.Digest) string {
	return filepath.Join(l.path, ispec.ImageBlobsDir, d.Algorithm().String(), d.Encoded())
}

// HasBlob reports whether a blob is in the layout, with the descriptor's size. Its content
// is not read.
func (l *Layout) HasBlob(d Descriptor) bool { return l.has(d) }

func (l *Layout) has(d Descriptor) bool {
	if checkDigest(d.Digest) != nil {
		return false
	}
	fi, err := os.Lstat(l.blobPath(d.Digest))
	return err == nil && fi.Mode().IsRegular() && fi.Size() == d.Size
}

// ReadDocument returns the content of a manifest or config of the layout, checked.
func (l *Layout) ReadDocument(d Descriptor) ([]byte, error) {
	if err := checkDescriptor(d); err != nil {
		return nil, err
	}
	if d.Size > maxDocument {
		return nil, fmt.Errorf("blob %s: %d bytes are too many for a manifest or config", d.Digest, d.Size)
	}
	f, err := openSized(l.blobPath(d.Digest), d)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(verified(f, d))
}

// Open opens a blob of the layout for reading. Its size is checked, its content
// is not.
func (l *Layout) Open(d Descriptor) (*os.File, error) {
	if err := checkDescriptor(d); err != nil {
		return nil, err
	}
	return openSized(l.blobPath(d.Digest), d)
}

// PutAside takes a damaged blob out of the way, so that the next build brings a sound
// one. GC removes it.
func (l *Layout) PutAside(d digest.Digest) error {
	return os.Rename(l.blobPath(d), filepath.Join(l.path, tempPrefix+"damaged-"+d.Encoded()))
}

// Image returns an image of the layout, whose blobs are there, without its layers'
// DiffIDs.
func (l *Layout) Image(manifest Descriptor) (*Image, error) {
	i := &Image{Manifest: manifest}
	var err error
	if i.ManifestBytes, err = l.ReadDocument(manifest); err != nil {
		return nil, err
	}
	m, err := readManifest(i.ManifestBytes)
	if err != nil {
		return nil, err
	}
	i.Config = m.Config
	if i.ConfigBytes, err = l.ReadDocument(m.Config); err != nil {
		return nil, err
	}
	for _, d := range m.Layers {
		i.Layers = append(i.Layers, Layer{Descriptor: d})
	}
	return i, l.hasAll(m.Layers)
}

func (l *Layout) hasAll(layers []Descriptor) error {
	for _, d := range layers {
		if !l.has(d) {
			return fmt.Errorf("its layer %s is not in the OCI layout: build again to restore it", d.Digest)
		}
	}
	return nil
}

// readManifest reads a manifest of the layout as it is.
func readManifest(data []byte) (m ispec.Manifest, err error) {
	if err := json.Unmarshal(data, &m); err != nil {
		return m, fmt.Errorf("its manifest is not JSON of a manifest: %w", err)
	}
	return m, nil
}

// Blobs are what images are put into a layout from: the store, another layout.
type Blobs interface {
	// Open opens a blob whose size is checked.
	Open(Descriptor) (*os.File, error)
	// PutAside takes a blob that is damaged out of the way.
	PutAside(digest.Digest) error
}

// Put makes tags stand for images, all at once. Blobs that the layout lacks are
// copied from the others, the documents are written, and then the index names
// them. Other tags are not touched; a tag that stands for its image already is
// no change.
func (l *Layout) Put(ctx context.Context, s Blobs, images map[string]*Image) error {
	for tag := range images {
		if !casext.IsValidReferenceName(tag) {
			return fmt.Errorf("%q cannot be a tag of an OCI layout: use letters, digits and single separators -._:@+/", tag)
		}
	}
	// Long copies go on side by side. What another process removes as unused
	// before the index names it is copied again below.
	if err := l.locked(ctx, locks.Shared, func() error { return l.copyBlobs(ctx, s, images) }); err != nil {
		return fmt.Errorf("writing to the OCI layout %s: %w", l.path, err)
	}
	err := l.locked(ctx, locks.Exclusive, func() error {
		if err := l.copyBlobs(ctx, s, images); err != nil {
			return err
		}
		return l.setTags(images)
	})
	if err != nil {
		return fmt.Errorf("writing to the OCI layout %s: %w", l.path, err)
	}
	return nil
}

func (l *Layout) setTags(images map[string]*Image) error {
	index, err := l.readIndex()
	if err != nil {
		return err
	}
	changed := false
	for _, tag := range slices.Sorted(maps.Keys(images)) {
		changed = index.set(tag, images[tag].Manifest) || changed
	}
	if !changed {
		return nil
	}
	return l.writeIndex(index)
}

// Remove removes tags; those that are not there are no error. Blobs stay.
func (l *Layout) Remove(ctx context.Context, tags ...string) error {
	return l.locked(ctx, locks.Exclusive, func() error {
		index, err := l.readIndex()
		if err != nil {
			return err
		}
		n := len(index.entries)
		index.entries = slices.DeleteFunc(index.entries, func(e indexEntry) bool {
			name, ok := e.Annotations[ispec.AnnotationRefName]
			return ok && slices.Contains(tags, name)
		})
		if len(index.entries) == n {
			return nil
		}
		return l.writeIndex(index)
	})
}

// copyBlobs brings the blobs of images that are missing into the layout, the
// manifests last.
func (l *Layout) copyBlobs(ctx context.Context, s Blobs, images map[string]*Image) error {
	seen := map[digest.Digest]bool{}
	wrote := ""
	add := func(d Descriptor, write func(*os.File) error) error {
		if seen[d.Digest] {
			return nil
		}
		seen[d.Digest] = true
		if l.has(d) {
			return nil
		}
		if err := context.Cause(ctx); err != nil {
			return err
		}
		wrote = l.blobPath(d.Digest)
		return l.writeBlob(d, write)
	}
	for _, image := range images {
		for _, layer := range image.Layers {
			d := layer.Descriptor
			if err := add(d, func(to *os.File) error { return copyBlob(ctx, to, s, d) }); err != nil {
				return err
			}
		}
		if err := add(image.Config, content(image.ConfigBytes)); err != nil {
			return err
		}
		if err := add(image.Manifest, content(image.ManifestBytes)); err != nil {
			return err
		}
	}
	if wrote == "" {
		return nil
	}
	return statedir.Sync(filepath.Dir(wrote))
}

func content(data []byte) func(*os.File) error {
	return func(f *os.File) error { _, err := f.Write(data); return err }
}

// copyBlob copies a blob into a file: by reference where the filesystem can,
// otherwise within the kernel.
func copyBlob(ctx context.Context, to *os.File, s Blobs, d Descriptor) error {
	from, err := s.Open(d)
	if err != nil {
		return err
	}
	defer from.Close()
	if unix.IoctlFileClone(int(to.Fd()), int(from.Fd())) == nil {
		return checkCopy(ctx, to, s, d)
	}
	for {
		_, err := io.CopyN(to, from, 64<<20) // copy_file_range
		if err == io.EOF {
			return checkCopy(ctx, to, s, d)
		}
		if err == nil {
			err = context.Cause(ctx)
		}
		if err != nil {
			return err
		}
	}
}

// checkCopy compares a copy with the digest, since what leaves may be trusted by
// others. A damaged blob is put aside. What a Store has written itself was digested
// just now, and is not read again.
func checkCopy(ctx context.Context, to *os.File, from Blobs, d Descriptor) error {
	if store, ok := from.(*Store); ok && store.wrote(d.Digest) {
		return nil
	}
	sum := sha256.New()
	n, err := io.Copy(sum, ctxReader{ctx, io.NewSectionReader(to, 0, d.Size+1)})
	if err != nil {
		return err
	}
	if err := compare(d, sumDigest(sum), n); err != nil {
		return errors.Join(err, from.PutAside(d.Digest))
	}
	return nil
}

// PutBlob copies a blob into the layout unless it is there. The error is ErrCorrupt where
// the content is not what d says. Until a tag leads to it, GC may remove the blob.
func (l *Layout) PutBlob(ctx context.Context, d Descriptor, open func() (io.ReadCloser, error)) error {
	err := l.locked(ctx, locks.Shared, func() error {
		if l.has(d) {
			return nil
		}
		from, err := open()
		if err != nil {
			return err
		}
		defer from.Close()
		write := func(to *os.File) error {
			_, err := io.Copy(to, ctxReader{ctx, verified(from, d)})
			return err
		}
		if err := l.writeBlob(d, write); err != nil {
			return err
		}
		return statedir.Sync(filepath.Dir(l.blobPath(d.Digest)))
	})
	if err != nil {
		return fmt.Errorf("writing to the OCI layout %s: %w", l.path, err)
	}
	return nil
}

// writeBlob makes a blob seen once it is written, has the right size and is
// synced; its folder is not.
func (l *Layout) writeBlob(d Descriptor, write func(*os.File) error) error {
	if err := checkDigest(d.Digest); err != nil {
		return err
	}
	return born(l.path, l.blobPath(d.Digest), os.Rename, func(f *os.File) error {
		if err := write(f); err != nil {
			return err
		}
		fi, err := f.Stat()
		if err == nil && fi.Size() != d.Size {
			err = fmt.Errorf("blob %s: %d bytes were written, its descriptor says %d: %w", d.Digest, fi.Size(), d.Size, ErrCorrupt)
		}
		return err
	})
}

// locked runs do under a flock on the layout's oci-layout file, which is never
// replaced. (A folder cannot be locked on NFS.) It waits until ctx is cancelled.
func (l *Layout) locked(ctx context.Context, how int, do func() error) error {
	path := filepath.Join(l.path, ispec.ImageLayoutFile)
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if errors.Is(err, fs.ErrPermission) {
		f, err = os.Open(path)
	}
	if err != nil {
		return fmt.Errorf("OCI layout: %w", err)
	}
	defer f.Close() // unlocks
	if err := locks.Wait(ctx, f, how, "has had the OCI layout "+l.path, nil); err != nil {
		return err
	}
	return do()
}

// tempPrefix begins the names of files that are being written to a layout. They
// stand beside index.json: what is among the blobs is taken for one by umoci.
const tempPrefix = ".layerbuild-"

// born makes what write writes seen at path through os.Rename or os.Link, synced
// and whole. It has the owner of the layout's folder dir, so that a layout of a
// user stays theirs when root writes to it.
func born(dir, path string, publish func(from, to string) error, write func(*os.File) error) error {
	f, err := os.CreateTemp(dir, tempPrefix)
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // gone already if it was renamed
	defer f.Close()
	if err := write(f); err != nil {
		return err
	}
	if err := f.Chmod(0o644); err != nil {
		return err
	}
	var st unix.Stat_t
	if os.Geteuid() == 0 && !userns.RunningInUserNS() && unix.Stat(dir, &st) == nil {
		if err := f.Chown(int(st.Uid), int(st.Gid)); err != nil {
			return err
		}
	}
	if err := f.Sync(); err != nil {
		return err
	}
	return publish(f.Name(), path)
}

// An indexFile is index.json with all that other tools wrote into it.
type indexFile struct {
	fields  map[string]json.RawMessage // all but manifests
	entries []indexEntry
}

type indexEntry struct {
	Descriptor
	raw json.RawMessage
}

// readIndex reads index.json. A broken one is an error, and is left as it is.
func (l *Layout) readIndex() (*indexFile, error) {
	path := filepath.Join(l.path, ispec.ImageIndexFile)
	data, err := readRegular(path)
	if err != nil {
		return nil, fmt.Errorf("OCI layout: %w", err)
	}
	index, err := parseIndex(data)
	if err != nil {
		return nil, fmt.Errorf("%s is broken: %w", path, err)
	}
	return index, nil
}

func parseIndex(data []byte) (*indexFile, error) {
	index := &indexFile{}
	if err := json.Unmarshal(data, &index.fields); err != nil {
		return nil, err
	}
	if index.fields == nil {
		return nil, errors.New("it is not a JSON object")
	}
	var raws []json.RawMessage
	if field, ok := index.fields["manifests"]; ok {
		if err := json.Unmarshal(field, &raws); err != nil {
			return nil, fmt.Errorf("manifests: %w", err)
		}
	}
	delete(index.fields, "manifests")
	for i, raw := range raws {
		e := indexEntry{raw: raw}
		if err := json.Unmarshal(raw, &e.Descriptor); err != nil {
			return nil, fmt.Errorf("manifests, entry %d: %w", i+1, err)
		}
		index.entries = append(index.entries, e)
	}
	return index, nil
}

// find returns the place of a tag's first entry, or -1.
func (x *indexFile) find(tag string) int {
	return slices.IndexFunc(x.entries, func(e indexEntry) bool { return e.hasTag(tag) })
}

func (x *indexFile) count(tag string) (n int) {
	for _, e := range x.entries {
		if e.hasTag(tag) {
			n++
		}
	}
	return n
}

func (e indexEntry) hasTag(tag string) bool {
	name, ok := e.Annotations[ispec.AnnotationRefName]
	return ok && name == tag
}

// set makes tag stand for a manifest and nothing else; false when that is so.
func (x *indexFile) set(tag string, d Descriptor) bool {
	at := x.find(tag)
	if at >= 0 && x.count(tag) == 1 && x.entries[at].Digest == d.Digest && x.entries[at].Size == d.Size {
		return false
	}
	d.Annotations = map[string]string{ispec.AnnotationRefName: tag}
	if at < 0 {
		x.entries = append(x.entries, indexEntry{Descriptor: d})
		return true
	}
	x.entries[at] = indexEntry{Descriptor: d}
	rest := slices.DeleteFunc(x.entries[at+1:], func(e indexEntry) bool { return e.hasTag(tag) })
	x.entries = x.entries[:at+1+len(rest)]
	return true
}

// writeIndex replaces index.json.
func (l *Layout) writeIndex(index *indexFile) error {
	data, err := index.marshal()
	if err != nil {
		return err
	}
	if err := born(l.path, filepath.Join(l.path, ispec.ImageIndexFile), os.Rename, content(data)); err != nil {
		return err
	}
	return statedir.Sync(l.path)
}

func (x *indexFile) marshal() ([]byte, error) {
	raws := []json.RawMessage{}
	for _, e := range x.entries {
		if e.raw == nil {
			var err error
			if e.raw, err = json.Marshal(e.Descriptor); err != nil {
				return nil, err
			}
		}
		raws = append(raws, e.raw)
	}
	manifests, err := json.Marshal(raws)
	if err != nil {
		return nil, err
	}
	fields := map[string]json.RawMessage{"manifests": manifests}
	for name, value := range x.fields {
		fields[name] = value
	}
	return json.Marshal(fields)
}
