package oci

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"maps"
	"path"
	"strings"

	"github.com/opencontainers/go-digest"
)

// A Node is a file of an image's root filesystem as its layers have it, without anything being
// unpacked.
type Node struct {
	Header   *tar.Header // nil for a folder that no layer names
	Sum      [sha256.Size]byte
	Children map[string]*Node // of a folder; otherwise nil

	layer int // the last one that made it, or something in it
}

// IsDir reports whether the node is a folder.
func (n *Node) IsDir() bool { return n.Children != nil }

// Rootfs reads layers, which must be tars, and returns the folder that they make together, by
// the rules of the OCI image specification (layer.md, "Applying Changesets").
func (l *Layout) Rootfs(ctx context.Context, layers []Layer) (*Node, error) {
	t := &rootfsReader{root: newFolderNode()}
	for _, layer := range layers {
		t.layer++
		if err := t.read(ctx, l, layer); err != nil {
			return nil, fmt.Errorf("layer %s: %w", layer.Digest, err)
		}
	}
	return t.root, nil
}

func newFolderNode() *Node { return &Node{Children: map[string]*Node{}} }

type rootfsReader struct {
	root  *Node
	layer int // the one that is read, from 1
}

func (t *rootfsReader) read(ctx context.Context, from *Layout, layer Layer) error {
	if _, ok := layerCompressions[layer.MediaType]; !ok {
		return fmt.Errorf("it is no tar, but %s", layer.MediaType)
	}
	f, err := from.Open(layer.Descriptor)
	if err != nil {
		return err
	}
	defer f.Close()
	magic, err := magicOf(f)
	if err != nil {
		return err
	}
	z, err := decompressor(f, compressionOf(magic))
	if err != nil {
		return err
	}
	defer z.Close()
	count := &tally{Bounds: DefaultBounds, blob: layer.Size}
	sum := sha256.New()
	content := io.TeeReader(count.reader(z), sum)
	entries := tar.NewReader(content)
	for ctx.Err() == nil {
		hdr, err := entries.Next()
		if err == io.EOF {
			break
		}
		if err == nil {
			err = count.entry(hdr)
		}
		if err == nil {
			err = t.entry(hdr, entries)
		}
		if err != nil {
			return err
		}
	}
	if _, err := io.Copy(io.Discard, content); err != nil {
		return err
	}
	if got := digest.NewDigest(digest.SHA256, sum); ctx.Err() == nil && got != layer.DiffID {
		return fmt.Errorf("its uncompressed content is %s, not %s: %w", got, layer.DiffID, ErrCorrupt)
	}
	return context.Cause(ctx)
}

func (t *rootfsReader) entry(hdr *tar.Header, content io.Reader) error {
	dir, base := path.Split(clean(hdr.Name))
	if base == "" {
		t.root.Header = hdr
		return nil
	}
	in, err := t.folder(clean(dir), true, 0)
	if err != nil {
		return fmt.Errorf("%q: %w", hdr.Name, err)
	}
	if removed, ok := strings.CutPrefix(base, ".wh."); ok {
		if removed == ".wh..opq" {
			t.empty(in)
		} else if was := in.Children[removed]; was != nil && was.layer < t.layer {
			delete(in.Children, removed)
		}
		return nil
	}
	made := &Node{Header: hdr, layer: t.layer}
	switch hdr.Typeflag {
	case tar.TypeDir:
		made.Children = map[string]*Node{}
		if was := in.Children[base]; was != nil && was.IsDir() {
			made.Children = was.Children
		}
	case tar.TypeLink:
		target, err := t.target(clean(hdr.Linkname))
		if err != nil {
			return fmt.Errorf("%q: link it to %q: %w", hdr.Name, hdr.Linkname, err)
		}
		made.Header, made.Sum = target.Header, target.Sum
	case tar.TypeReg:
		sum := sha256.New()
		if _, err := io.Copy(sum, content); err != nil {
			return err
		}
		sum.Sum(made.Sum[:0])
	}
	in.Children[base] = made
	return nil
}

// empty removes from a folder what layers below have in it.
func (t *rootfsReader) empty(folder *Node) {
	maps.DeleteFunc(folder.Children, func(_ string, n *Node) bool { return n.layer < t.layer })
	for _, n := range folder.Children {
		if n.IsDir() {
			t.empty(n)
		}
	}
}

// target returns the file that a hardlink is to.
func (t *rootfsReader) target(at string) (*Node, error) {
	dir, base := path.Split(at)
	in, err := t.folder(clean(dir), false, 0)
	if err != nil {
		return nil, err
	}
	if n := in.Children[base]; n != nil && !n.IsDir() {
		return n, nil
	}
	return nil, errors.New("there is no such file")
}

// mostLinks is how many symlinks are followed to find a folder, as Linux has it.
const mostLinks = 40

// folder returns the folder at a clean path, through symlinks, which lead nowhere but within the
// root. To fill it, folders that are not there are made, and it and those above are this layer's now.
func (t *rootfsReader) folder(at string, fill bool, links int) (*Node, error) {
	in, to := t.root, ""
	for name := range strings.SplitSeq(at, "/") {
		if name == "" {
			continue
		}
		next := in.Children[name]
		if next != nil && next.Header != nil && next.Header.Typeflag == tar.TypeSymlink {
			if links++; links > mostLinks {
				return nil, errors.New("too many levels of symbolic links")
			}
			target := next.Header.Linkname
			if !path.IsAbs(target) {
				target = path.Join("/", to, target)
			}
			var err error
			if next, err = t.folder(clean(target), fill, links); err != nil {
				return nil, err
			}
			in, to = next, clean(target)
			continue
		}
		if next == nil || !next.IsDir() {
			if !fill {
				return nil, fmt.Errorf("there is no folder %q", at)
			}
			next = newFolderNode()
			in.Children[name] = next
		}
		if fill {
			next.layer = t.layer
		}
		in, to = next, path.Join(to, name)
	}
	return in, nil
}
