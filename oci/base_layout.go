package oci

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"strings"

	"github.com/opencontainers/go-digest"
	ispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/opencontainers/umoci/oci/cas"
	"github.com/opencontainers/umoci/oci/cas/dir"
	"golang.org/x/sys/unix"

	"github.com/layerbuild/layerbuild/inroot"
)

// ResolveLayout returns the manifest that a tag of an OCI layout stands for on a
// platform. It reads index.json and, if there are, indexes below it; nothing is
// taken in. A tag is the annotation org.opencontainers.image.ref.name.
func ResolveLayout(ctx context.Context, path, tag string, p ispec.Platform) (Descriptor, error) {
	_, d, err := resolveLayout(ctx, path, tag, p)
	return d, err
}

func resolveLayout(ctx context.Context, path, tag string, p ispec.Platform) (*layoutSource, Descriptor, error) {
	src, err := openLayoutSource(path)
	if err != nil {
		return nil, Descriptor{}, err
	}
	roots, err := src.tagged(tag)
	if err != nil {
		return nil, Descriptor{}, err
	}
	d, err := resolve(ctx, src, roots, p)
	if err != nil {
		return nil, Descriptor{}, fmt.Errorf("%s:%s: %w", path, tag, err)
	}
	return src, d, nil
}

// BaseFromLayout takes in the image that a tag of an OCI layout stands for on a
// platform. Blobs that the store has are not read again.
func (s *Store) BaseFromLayout(ctx context.Context, path, tag string, p ispec.Platform) (*Base, error) {
	src, d, err := resolveLayout(ctx, path, tag, p)
	if err != nil {
		return nil, err
	}
	return s.takeIn(ctx, src, path+":"+tag, d, nil)
}

// A layoutSource is an OCI layout that images are read from: a folder, or an archive.
type layoutSource struct {
	path  string
	index ispec.Index
	files interface {
		// open opens a regular file below the layout. It fails with fs.ErrNotExist.
		open(name string) (io.ReadCloser, error)
	}
}

// openLayoutSource opens the layout at path.
func openLayoutSource(path string) (*layoutSource, error) {
	if fi, err := os.Stat(path); err == nil && fi.Mode().IsRegular() {
		return openArchive(path)
	}
	if err := checkLayout(path); err != nil {
		return nil, err
	}
	src := &layoutSource{path: path, files: folder(path)}
	data, err := src.read(ispec.ImageIndexFile)
	if err != nil {
		return nil, fmt.Errorf("OCI layout %s: %w", path, err)
	}
	if err := json.Unmarshal(data, &src.index); err != nil {
		return nil, fmt.Errorf("OCI layout %s: index.json is not JSON of an index: %w", path, err)
	}
	return src, nil
}

// A folder contains the files of a layout.
type folder string

func (f folder) open(name string) (io.ReadCloser, error) {
	return openRegular(filepath.Join(string(f), name))
}

// read returns a small file of the layout.
func (l *layoutSource) read(name string) ([]byte, error) {
	f, err := l.files.open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return readSmall(f, name)
}

// readSmall reads a document, and refuses a larger one.
func readSmall(r io.Reader, name string) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(r, maxDocument+1))
	if err == nil && len(data) > maxDocument {
		err = fmt.Errorf("%s: more than %d bytes", name, maxDocument)
	}
	return data, err
}

// checkLayout says in the user's words why path is not an OCI layout. The error
// of a missing one is fs.ErrNotExist.
func checkLayout(path string) error {
	fi, err := os.Stat(path)
	if err != nil {
		return fmt.Errorf("OCI layout %s: %w", path, errors.Unwrap(err))
	}
	if !fi.IsDir() {
		return fmt.Errorf("%s is not an OCI layout: it is not a folder", path)
	}
	// umoci reads oci-layout as it comes: a fifo there would hang it.
	if _, err := readRegular(filepath.Join(path, ispec.ImageLayoutFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s is not an OCI layout: %w", path, err)
	}
	engine, err := dir.Open(path)
	if errors.Is(err, cas.ErrInvalid) {
		return fmt.Errorf("%s is not an OCI layout: it lacks %s of version %s, %s or %s",
			path, ispec.ImageLayoutFile, ispec.ImageLayoutVersion, ispec.ImageIndexFile, ispec.ImageBlobsDir)
	}
	if err != nil {
		return fmt.Errorf("%s is not an OCI layout: %w", path, err)
	}
	return engine.Close()
}

// readRegular reads a small regular file; a fifo or device is an error, never a wait.
func readRegular(path string) ([]byte, error) {
	f, err := openRegular(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return readSmall(f, path)
}

// openRegular opens a regular file for reading; a fifo, socket, device or folder
// is an error, never a wait.
func openRegular(path string) (*os.File, error) {
	fi, err := os.Stat(path)
	if err == nil && !fi.Mode().IsRegular() {
		err = &os.PathError{Op: "open", Path: path, Err: inroot.ErrNotRegular}
	}
	if err != nil {
		return nil, err
	}
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0) // it may have changed since
	if err != nil {
		return nil, err
	}
	if fi, err = f.Stat(); err == nil && !fi.Mode().IsRegular() {
		err = &os.PathError{Op: "open", Path: path, Err: inroot.ErrNotRegular}
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// tagged returns the entries of a tag. Without a tag it returns the only image.
func (l *layoutSource) tagged(tag string) ([]Descriptor, error) {
	var roots, ofDocker []Descriptor
	var tags []string
	for _, d := range l.index.Manifests {
		name, ok := d.Annotations[ispec.AnnotationRefName]
		full := d.Annotations[dockerName]
		switch {
		case tag == "" && full != "":
			ofDocker = append(ofDocker, d)
		case tag == "" || ok && (name == tag || full == fullImageName(tag)):
			roots = append(roots, d)
		}
		if ok {
			tags = append(tags, name)
		}
	}
	if roots = distinct(roots); len(roots) == 0 { // else an archive lists its images twice
		roots = distinct(ofDocker)
	}
	if len(roots) == 1 || len(roots) > 1 && tag != "" {
		return roots, nil
	}
	what := fmt.Sprintf("has no tag %q", tag)
	if tag == "" {
		what = fmt.Sprintf("has %d images: name one by its tag", len(roots))
	}
	if len(tags) == 0 {
		return nil, fmt.Errorf("OCI layout %s %s: it has no tags", l.path, what)
	}
	sort.Strings(tags)
	const most = 20
	more := ""
	if len(tags) > most {
		more = fmt.Sprintf(" and %d more", len(tags)-most)
		tags = tags[:most]
	}
	return nil, fmt.Errorf("OCI layout %s %s; it has %s%s", l.path, what, strings.Join(tags, ", "), more)
}

func (l *layoutSource) open(d Descriptor) (io.ReadCloser, error) {
	if err := checkDigest(d.Digest); err != nil {
		return nil, err
	}
	f, err := l.files.open(blobName(d.Digest))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("OCI layout %s lacks the blob %s: %w", l.path, d.Digest, fs.ErrNotExist)
	}
	return f, err
}

// blobName returns the path of a blob within a layout.
func blobName(d digest.Digest) string {
	return filepath.Join(ispec.ImageBlobsDir, d.Algorithm().String(), d.Encoded())
}

func (l *layoutSource) document(_ context.Context, d Descriptor) ([]byte, error) {
	f, err := l.open(d)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, maxDocument+1))
}

func (l *layoutSource) far() bool { return false }

func (l *layoutSource) fetch(_ context.Context, d Descriptor, w *Writer) error {
	f, err := l.open(d)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = io.CopyBuffer(w, io.LimitReader(f, d.Size+1), make([]byte, 1<<20))
	return err
}
