package oci

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/opencontainers/go-digest"
	ispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// An archive is a tar file of an OCI layout (oci-archive), of what docker save writes
// (docker-archive), or of both, as newer versions of docker write. Its files are read
// where they lie in the tar; nothing is unpacked.
type archive struct {
	path    string
	entries map[string]section
	made    map[string][]byte // files that are not in the tar
}

// A section is where the content of a file lies in the tar, or a link to another file.
type section struct {
	offset, size int64
	link         string
}

// maxEntries bounds how many files of an archive are remembered.
const maxEntries = 100_000

// dockerManifests is the file of a docker-archive that lists its images.
const dockerManifests = "manifest.json"

// dockerName annotates an image of a docker-archive with its full name.
const dockerName = "io.layerbuild.docker.name"

// openArchive opens a tar file as a layout. The images of a docker-archive are described
// as in an OCI layout.
func openArchive(path string) (*layoutSource, error) {
	a := &archive{path: path, entries: map[string]section{}, made: map[string][]byte{}}
	if err := a.scan(); err != nil {
		return nil, fmt.Errorf("%s is neither an OCI layout nor an archive of an image: %w", path, err)
	}
	src := &layoutSource{path: path, files: a}
	index, err := src.read(ispec.ImageIndexFile)
	if err == nil {
		err = json.Unmarshal(index, &src.index)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("archive %s: %s: %w", path, ispec.ImageIndexFile, err)
	}
	images, err := src.read(dockerManifests)
	switch {
	case errors.Is(err, fs.ErrNotExist) && src.index.Manifests == nil:
		return nil, fmt.Errorf("%s is no archive of an image: it has neither %s nor %s", path, ispec.ImageIndexFile, dockerManifests)
	case errors.Is(err, fs.ErrNotExist):
		return src, nil
	case err == nil:
		err = src.addDocker(a, images)
	}
	if err != nil {
		return nil, fmt.Errorf("archive %s: %s: %w", path, dockerManifests, err)
	}
	return src, nil
}

// scan finds the files in the tar.
func (a *archive) scan() error {
	f, err := openRegular(a.path)
	if err != nil {
		return err
	}
	defer f.Close()
	magic := make([]byte, 4)
	if _, err := io.ReadFull(f, magic); err == nil && compression(magic) != "" {
		return errors.New("it is compressed: uncompress it with gunzip or unzstd")
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return err
	}
	for r := tar.NewReader(f); ; {
		hdr, err := r.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		if len(a.entries) == maxEntries {
			return fmt.Errorf("it has more than %d files", maxEntries)
		}
		at, err := f.Seek(0, io.SeekCurrent) // tar reads no further than the header
		if err != nil {
			return err
		}
		switch name := path.Clean(hdr.Name); hdr.Typeflag {
		case tar.TypeReg:
			a.entries[name] = section{offset: at, size: hdr.Size}
		case tar.TypeSymlink: // docker save writes a layer once, and links to it
			a.entries[name] = section{link: path.Join(path.Dir(name), hdr.Linkname)}
		case tar.TypeLink:
			a.entries[name] = section{link: path.Clean(hdr.Linkname)}
		}
	}
}

// open is a method of a layoutSource's files.
func (a *archive) open(name string) (io.ReadCloser, error) {
	if made, ok := a.made[name]; ok {
		return io.NopCloser(bytes.NewReader(made)), nil
	}
	at, ok := a.entries[name]
	if at.link != "" {
		at, ok = a.entries[at.link]
	}
	if !ok || at.link != "" {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	}
	f, err := openRegular(a.path)
	if err != nil {
		return nil, err
	}
	return struct {
		io.Reader
		io.Closer
	}{io.NewSectionReader(f, at.offset, at.size), f}, nil
}

// addDocker adds the images that a docker-archive lists.
func (l *layoutSource) addDocker(a *archive, list []byte) error {
	var images []dockerImage
	if err := json.Unmarshal(list, &images); err != nil {
		return err
	}
	for _, image := range images {
		config, err := l.read(path.Clean(image.Config))
		if err != nil {
			return err
		}
		d, err := a.manifest(image, config)
		if err != nil {
			return fmt.Errorf("%q: %w", image.Config, err)
		}
		if len(image.RepoTags) == 0 {
			d.Annotations = map[string]string{dockerName: d.Digest.String()}
			l.index.Manifests = append(l.index.Manifests, d)
		}
		for _, tag := range image.RepoTags {
			d.Annotations = map[string]string{ispec.AnnotationRefName: tag, dockerName: fullImageName(tag)}
			l.index.Manifests = append(l.index.Manifests, d)
		}
	}
	return nil
}

// A dockerImage is an entry of a docker-archive's list.
type dockerImage struct {
	Config   string
	RepoTags []string
	Layers   []string
}

// manifest makes the manifest that an image of a docker-archive does not have.
func (a *archive) manifest(image dockerImage, config []byte) (Descriptor, error) {
	var c ispec.Image
	if err := json.Unmarshal(config, &c); err != nil {
		return Descriptor{}, err
	}
	if len(c.RootFS.DiffIDs) != len(image.Layers) {
		return Descriptor{}, fmt.Errorf("it has %d layers, not %d", len(c.RootFS.DiffIDs), len(image.Layers))
	}
	m := ispec.Manifest{MediaType: ispec.MediaTypeImageManifest, Config: a.make(ispec.MediaTypeImageConfig, config)}
	m.SchemaVersion = 2
	for i, file := range image.Layers {
		layer, err := a.layer(path.Clean(file), c.RootFS.DiffIDs[i])
		if err != nil {
			return Descriptor{}, err
		}
		m.Layers = append(m.Layers, layer)
	}
	text, err := json.Marshal(m)
	return a.make(ispec.MediaTypeImageManifest, text), err
}

// make adds a blob that is not in the tar.
func (a *archive) make(mediaType string, content []byte) Descriptor {
	d := descriptorOf(mediaType, content)
	a.made[blobName(d.Digest)] = content
	return d
}

// layer describes a layer of a docker-archive, and lets it be found as a blob. Its digest
// is the one that the config names, unless it is compressed.
func (a *archive) layer(file string, id digest.Digest) (Descriptor, error) {
	if err := checkDigest(id); err != nil {
		return Descriptor{}, err
	}
	f, err := a.open(file)
	if err != nil {
		return Descriptor{}, err
	}
	defer f.Close()
	at := a.entries[file]
	if at.link != "" {
		at = a.entries[at.link]
	}
	magic := make([]byte, 4)
	n, err := io.ReadFull(f, magic)
	if err != nil && err != io.EOF && err != io.ErrUnexpectedEOF {
		return Descriptor{}, err
	}
	d := Descriptor{MediaType: ispec.MediaTypeImageLayer + compression(magic[:n]), Digest: id, Size: at.size}
	if d.MediaType != ispec.MediaTypeImageLayer {
		if d.Digest, err = digest.SHA256.FromReader(io.MultiReader(bytes.NewReader(magic[:n]), f)); err != nil {
			return Descriptor{}, fmt.Errorf("%s: %w", file, err)
		}
	}
	a.entries[blobName(d.Digest)] = at
	return d, nil
}

// compression returns the suffix of the media type of a layer that begins so.
func compression(begin []byte) string {
	switch {
	case bytes.HasPrefix(begin, []byte{0x1f, 0x8b}):
		return "+gzip"
	case bytes.HasPrefix(begin, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		return "+zstd"
	}
	return ""
}

// fullImageName returns a name with its host and tag, or the text itself where it is no
// name of an image.
func fullImageName(text string) string {
	ref, err := name.ParseReference(strings.TrimPrefix(text, "docker://"), name.WeakValidation)
	if err != nil {
		return text
	}
	return ref.Name()
}
