package main

import (
	"archive/tar"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"

	ispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/layerbuild/layerbuild/oci"
)

// baseLayers is how many layers the base of unpackingLayers has.
const baseLayers = 4

// unpackingLayers unpacks a base of several layers, the same Debian in parts, beside tar,
// which unpacks one after the other.
func unpackingLayers(b *bench) error {
	debian, err := fixture("scripts/base-debian", "large")
	if err != nil {
		return err
	}
	layout, root := filepath.Join(b.dir, "parts"), filepath.Join(b.dir, "unpacked")
	total, err := inParts(filepath.Join(debian, "rootfs.tar"), layout)
	if err != nil {
		return err
	}
	project, err := b.project("layers", fmt.Sprintf("app:\n  from: {type: oci, url: '%s:latest'}\n", layout))
	if err != nil {
		return err
	}
	if _, err := timed(b.layerbuild(project, "build")); err != nil {
		return err
	}
	store, err := oci.OpenStore(filepath.Join(b.dir, "store-layers"))
	if err != nil {
		return err
	}
	defer store.Close()
	base, err := store.BaseFromLayout(context.Background(), layout, "latest", ispec.Platform{OS: "linux", Architecture: runtime.GOARCH})
	if err != nil {
		return err
	}
	floor := "set -e; "
	for _, layer := range base.Layers {
		floor += fmt.Sprintf("tar -xzf %s -C %s; ", store.Path(layer.Digest), root)
	}
	snapshots := filepath.Join(b.dir, "state-layers", "layerbuild", "snapshots")
	return compareFresh(fmt.Sprintf("unpack %d layers of %d MB : tar -xzf of each", baseLayers, total/1e6),
		func() error { return errors.Join(fresh(root)(), fresh(snapshots)()) },
		b.layerbuild(project, "grab", "app:/etc/passwd"), []string{"sh", "-c", floor})
}

// inParts makes an image of several layers of about equal size of what is in a tar file,
// and returns their size in all.
func inParts(rootfs, layout string) (total int64, err error) {
	f, err := os.Open(rootfs)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	image := layout + ":latest"
	for _, args := range [][]string{{"init", "--layout", layout}, {"new", "--image", image}} {
		if _, err := timed(append([]string{"umoci"}, args...)); err != nil {
			return 0, err
		}
	}
	part := layout + ".tar"
	defer os.Remove(part)
	for r := tar.NewReader(f); err == nil; {
		if err = cut(r, part, info.Size()/baseLayers); err == nil || err == io.EOF {
			if _, err := timed([]string{"umoci", "raw", "add-layer", "--image", image, part}); err != nil {
				return 0, err
			}
		}
	}
	if err != io.EOF {
		return 0, err
	}
	return info.Size(), nil
}

// cut writes entries of a tar to another until that has some bytes; io.EOF says that
// there are no more.
func cut(r *tar.Reader, to string, size int64) error {
	out, err := os.Create(to)
	if err != nil {
		return err
	}
	defer out.Close()
	w := tar.NewWriter(out)
	for n := int64(0); n < size; {
		hdr, err := r.Next()
		if err != nil {
			return cmp.Or(w.Close(), err)
		}
		if err := w.WriteHeader(hdr); err != nil {
			return err
		}
		if _, err := io.Copy(w, r); err != nil {
			return err
		}
		n += hdr.Size
	}
	return w.Close()
}
