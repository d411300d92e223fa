package oci

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"regexp"
	"strings"

	"github.com/layerbuild/layerbuild/program"
)

// A Filesystem is a type of layer that can be mounted as it is.
type Filesystem string

// The filesystems of PackFilesystem.
const (
	Squashfs Filesystem = "squashfs"
	Erofs    Filesystem = "erofs"
)

// VerityAnnotation is the annotation of a layer's descriptor that holds the root
// hash of its dm-verity data, in hexadecimal. It is that of stacker's atomfs, as
// the media types are.
const VerityAnnotation = "io.stackeroci.stacker.atomfs_verity_root_hash"

// filesystemTime is the time of a filesystem and its root folder, in seconds since
// 1970: 1980-01-01. Of an erofs, whose tools set the time of all files or of none,
// it is that of all.
const filesystemTime = "315532800"

// A maker is the program that makes a type of filesystem.
type maker struct {
	program, pkg string
	version      []string // arguments that make it say its version
	mediaType    string
	args         func(dir, file string) []string
}

func (f Filesystem) maker() (maker, error) {
	switch f {
	case Squashfs:
		return maker{
			program: "mksquashfs", pkg: "squashfs-tools",
			version:   []string{"-version"},
			mediaType: "application/vnd.stacker.image.layer.squashfs+zstd",
			args: func(dir, file string) []string {
				return []string{dir, file, "-noappend", "-no-recovery", "-no-progress", "-quiet", "-comp", "zstd",
					"-mkfs-time", filesystemTime, "-root-time", filesystemTime}
			},
		}, nil
	case Erofs:
		return maker{
			program: "mkfs.erofs", pkg: "erofs-utils",
			mediaType: "application/vnd.stacker.image.layer.erofs+lz4hc",
			args: func(dir, file string) []string {
				return []string{"--quiet", "-zlz4hc", "-T" + filesystemTime, "-U00000000-0000-0000-0000-000000000000", file, dir}
			},
		}, nil
	}
	return maker{}, fmt.Errorf("unknown filesystem %q", f)
}

var makerVersion = regexp.MustCompile(`(?:version|mkfs\.erofs) ([0-9][0-9A-Za-z.+~-]*)`)

// Version returns the version of the program that makes the filesystem, which
// decides the bytes of a layer. The error says what to install.
func (f Filesystem) Version(ctx context.Context) (string, error) {
	m, err := f.maker()
	if err != nil {
		return "", err
	}
	// mkfs.erofs of some versions says it only when it is called wrongly.
	out, err := program.Command(ctx, m.program, m.version...).CombinedOutput()
	if errors.Is(err, exec.ErrNotFound) {
		return "", fmt.Errorf("%s layers need %s: run `apt-get install %s`", f, m.program, m.pkg)
	}
	if found := makerVersion.FindSubmatch(out); found != nil {
		return string(found[1]), nil
	}
	return "", fmt.Errorf("%s does not say its version: install it anew", m.program)
}

// PackFilesystem makes a layer of dir, the upper folder of an overlay, that can be
// mounted as it is on those below it: whiteouts and opaque folders are as overlayfs
// has them. With verity, dm-verity data is appended, and the descriptor has the
// VerityAnnotation. Equal content and equal versions of the program give equal
// bytes. The DiffID is the blob's digest, as in stacker's images. The warnings are
// what the program said, such as which attributes it has left out.
func (s *Store) PackFilesystem(ctx context.Context, dir string, f Filesystem, withVerity bool) (layer Layer, warnings []string, err error) {
	layer, warnings, err = s.packFilesystem(ctx, dir, f, withVerity)
	if err != nil {
		return Layer{}, nil, fmt.Errorf("packing as %s: %w", f, err)
	}
	return layer, warnings, nil
}

func (s *Store) packFilesystem(ctx context.Context, dir string, f Filesystem, withVerity bool) (layer Layer, warnings []string, err error) {
	m, err := f.maker()
	if err != nil {
		return layer, nil, err
	}
	if err := checkOpaque(dir); err != nil {
		return layer, nil, err
	}
	w, err := s.NewWriter(ctx)
	if err != nil {
		return layer, nil, err
	}
	defer w.Close()
	if warnings, err = m.run(ctx, dir, w.f.Name()); err != nil {
		return layer, nil, err
	}
	if w.size, err = io.Copy(w.sum, w.f); err != nil {
		return layer, nil, err
	}
	layer.MediaType = m.mediaType
	if withVerity {
		root, err := verity(w.f, w.size, [sha256.Size]byte(w.sum.Sum(nil)), w)
		if err != nil {
			return layer, nil, err
		}
		layer.MediaType += "+verity"
		layer.Annotations = map[string]string{VerityAnnotation: hex.EncodeToString(root[:])}
	}
	d, err := w.Commit()
	layer.Digest, layer.Size, layer.DiffID = d.Digest, d.Size, d.Digest
	return layer, warnings, err
}

// run makes a filesystem of dir in file, which exists and keeps its inode.
func (m maker) run(ctx context.Context, dir, file string) (warnings []string, err error) {
	var said bytes.Buffer
	cmd := program.Command(ctx, m.program, m.args(dir, file)...) // without SOURCE_DATE_EPOCH, which mksquashfs refuses beside times
	cmd.Stderr = &said
	err = cmd.Run()
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	for line := range strings.Lines(said.String()) {
		if line = strings.TrimSpace(line); line != "" {
			warnings = append(warnings, m.program+": "+line)
		}
	}
	switch {
	case errors.Is(err, exec.ErrNotFound):
		return nil, fmt.Errorf("%s is not installed: run `apt-get install %s`", m.program, m.pkg)
	case err != nil && len(warnings) > 0:
		return nil, fmt.Errorf("%s: %w", warnings[len(warnings)-1], err)
	case err != nil:
		return nil, fmt.Errorf("%s: %w", m.program, err)
	}
	return warnings, nil
}
