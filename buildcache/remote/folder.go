package remote

import (
	"context"
	"errors"
	"io"
	"io/fs"

	"github.com/opencontainers/go-digest"
	ispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/layerbuild/layerbuild/oci"
)

// A Folder is a Repository in a folder that machines share: an OCI layout. Processes
// may write to it at the same time if its filesystem knows flock(2).
type Folder struct{ path string }

// NewFolder returns the Repository in the folder at path. It is made by the first
// write.
func NewFolder(path string) *Folder { return &Folder{path} }

// Manifest is a method of Repository.
func (f *Folder) Manifest(_ context.Context, tag string) ([]byte, error) {
	layout, err := oci.OpenLayout(f.path)
	if err != nil {
		return nil, missing(err)
	}
	d, ok, err := layout.Find(tag)
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, ErrNotFound
	}
	data, err := layout.ReadDocument(d)
	return data, missing(err)
}

// Blob is a method of Repository.
func (f *Folder) Blob(_ context.Context, d ispec.Descriptor, to Sink) error {
	layout, err := oci.OpenLayout(f.path)
	if err != nil {
		return missing(err)
	}
	file, err := layout.Open(d)
	if err != nil {
		return missing(err)
	}
	defer file.Close()
	_, err = io.Copy(to, io.NewSectionReader(file, to.Size(), d.Size))
	return err
}

// PutBlob is a method of Repository.
func (f *Folder) PutBlob(ctx context.Context, d ispec.Descriptor, open func() (io.ReadCloser, error)) error {
	layout, err := oci.CreateLayout(f.path)
	if err != nil {
		return err
	}
	return layout.PutBlob(ctx, d, open)
}

// Tag is a method of Repository.
func (f *Folder) Tag(ctx context.Context, tag string, a *Artifact) error {
	layout, err := oci.CreateLayout(f.path)
	if err != nil {
		return err
	}
	describe := func(mediaType string, data []byte) ispec.Descriptor {
		return ispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(data), Size: int64(len(data))}
	}
	return layout.Put(ctx, nil, map[string]*oci.Image{tag: {
		Manifest:      describe(ispec.MediaTypeImageManifest, a.Manifest),
		ManifestBytes: a.Manifest,
		Config:        describe(a.Type, a.Config),
		ConfigBytes:   a.Config,
	}})
}

// missing makes an ErrNotFound of what is not there, and a damaged blob is as good as
// not there.
func missing(err error) error {
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, oci.ErrCorrupt) {
		return ErrNotFound
	}
	return err
}
