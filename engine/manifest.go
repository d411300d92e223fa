package engine

import (
	"archive/tar"
	"bufio"
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	gomtree "github.com/vbatts/go-mtree"

	"github.com/layerbuild/layerbuild/mtree"
	"github.com/layerbuild/layerbuild/oci"
)

// WriteManifest writes an mtree(5) manifest of an image's root filesystem, as go-mtree's
// `gomtree validate` reads it: types, owners, modes, times, sizes, sha256 digests, link targets and
// extended attributes. Nothing is unpacked. The layers of the image must be tars.
func WriteManifest(ctx context.Context, w io.Writer, ociDir, tag string) error {
	layout, err := openLayout(ociDir)
	if err != nil {
		return err
	}
	tags, err := layout.Tags()
	if err != nil {
		return err
	}
	at := slices.IndexFunc(tags, func(t oci.Tag) bool { return t.Name == tag })
	if at < 0 {
		return fmt.Errorf("%s has no tag %q: it has %s", ociDir, tag, tagNames(tags))
	}
	image, err := inspect(layout, tags[at])
	if err != nil {
		return err
	}
	root, err := layout.Rootfs(ctx, image.Layers)
	if err != nil {
		return fmt.Errorf("image %s: %w", tag, err)
	}
	out := bufio.NewWriter(w)
	_, _ = out.WriteString(mtree.Head) // the first error comes again at the end
	writeNode(out, ".", root)
	return out.Flush()
}

// writeNode writes the line of a file and, of a folder, all that is in it.
func writeNode(w *bufio.Writer, name string, n *oci.Node) {
	line := mtree.AppendName(nil, name)
	for _, kv := range keywords(n) {
		line = append(append(line, ' '), kv...)
	}
	_, _ = w.Write(append(mtree.Fold(line, 0), '\n'))
	if !n.IsDir() {
		return
	}
	for _, name := range slices.Sorted(maps.Keys(n.Children)) {
		writeNode(w, name, n.Children[name])
	}
	_, _ = w.WriteString("..\n")
}

// keywords returns what is known of a file, sorted. go-mtree has none for device numbers, and
// refuses a manifest with one that it does not have.
func keywords(n *oci.Node) (all []gomtree.KeyVal) {
	add := func(key gomtree.Keyword, format string, args ...any) {
		all = append(all, gomtree.KeyVal(string(key)+"="+fmt.Sprintf(format, args...)))
	}
	hdr := n.Header
	if hdr == nil { // a folder that no layer names has what unpacking gives it
		add(mtree.Type, "dir")
		return all
	}
	add(mtree.GID, "%d", hdr.Gid)
	if hdr.Typeflag == tar.TypeSymlink {
		add(mtree.Link, "%s", mtree.AppendName(nil, hdr.Linkname))
	} else {
		add(mtree.Mode, "%#o", hdr.Mode&0o7777)
	}
	if hdr.Typeflag == tar.TypeReg {
		add(mtree.SHA256, "%x", n.Sum)
		add(mtree.Size, "%d", hdr.Size)
	}
	add(mtree.Time, "%d.%09d", hdr.ModTime.Unix(), hdr.ModTime.Nanosecond())
	add(mtree.Type, "%s", typeOf(hdr))
	add(mtree.UID, "%d", hdr.Uid)
	for _, record := range slices.Sorted(maps.Keys(hdr.PAXRecords)) {
		if name, ok := strings.CutPrefix(record, "SCHILY.xattr."); ok {
			all = append(all, gomtree.KeyVal(mtree.AppendXattr(nil, name, hdr.PAXRecords[record])))
		}
	}
	return all
}

// typeOf is the type of a tar's entry as mtree(5) names it.
func typeOf(hdr *tar.Header) string {
	switch hdr.Typeflag {
	case tar.TypeDir:
		return "dir"
	case tar.TypeSymlink:
		return "link"
	case tar.TypeFifo:
		return "fifo"
	case tar.TypeChar:
		return "char"
	case tar.TypeBlock:
		return "block"
	}
	return "file"
}
