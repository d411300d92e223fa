package oci

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"net/url"
	"strings"

	"golang.org/x/sys/unix"
)

// hostXattrs belong to the machine, not to the image: umoci and podman do not
// carry them either.
var hostXattrs = map[string]bool{
	"security.selinux": true,
	"security.ima":     true,
	"security.evm":     true,
	"system.nfs4_acl":  true,
}

// upperXattrs are the extended attributes of a file in an overlay's upper folder.
type upperXattrs struct {
	records map[string]string // pax records of those that belong to the image
	opaque  bool              // overlayfs: what is below this folder is hidden
}

// overlayXattrs reads the extended attributes of a file, of the link itself if
// it is one, and tells overlayfs's own from the image's.
func overlayXattrs(path string) (upperXattrs, error) {
	var x upperXattrs
	names, err := xattrNames(path)
	if err != nil {
		return x, fmt.Errorf("listing its extended attributes: %w", err)
	}
	for _, name := range names {
		own, isOverlay := cutOverlay(name)
		if hostXattrs[name] || isOverlay && own != "opaque" && own != "redirect" && own != "metacopy" {
			continue
		}
		value, err := xattrValue(path, name)
		if errors.Is(err, unix.ENODATA) {
			continue
		}
		if err != nil {
			return x, fmt.Errorf("reading its extended attribute %q: %w", name, err)
		}
		switch {
		case isOverlay && own == "opaque":
			x.opaque = x.opaque || string(value) == "y"
		case isOverlay:
			return x, fmt.Errorf("its content is in another layer (%s): mount overlays with redirect_dir and metacopy off", name)
		default:
			if x.records == nil {
				x.records = map[string]string{}
			}
			key, value := xattrRecord(name, value)
			x.records[key] = value
		}
	}
	return x, nil
}

// cutOverlay returns the name that an attribute of overlayfs has there. The
// attributes are user.overlay.* where it is mounted with userxattr.
func cutOverlay(name string) (string, bool) {
	if own, ok := strings.CutPrefix(name, "trusted.overlay."); ok {
		return own, true
	}
	return strings.CutPrefix(name, "user.overlay.")
}

// xattrRecord returns the pax record that says an extended attribute. A record's
// key ends at its first '=', so a name with one goes into libarchive's form,
// which bsdtar and Unpack read; other tools leave it out.
func xattrRecord(name string, value []byte) (key, record string) {
	if !strings.Contains(name, "=") {
		return paxXattr + name, string(value)
	}
	var b strings.Builder
	for _, c := range []byte(name) {
		if c < 33 || c > 126 || c == '%' || c == '=' {
			fmt.Fprintf(&b, "%%%02X", c)
		} else {
			b.WriteByte(c)
		}
	}
	return paxXattrURL + b.String(), base64.RawStdEncoding.EncodeToString(value)
}

// decodeXattr is the way back from libarchive's form.
func decodeXattr(encoded, value string) (string, string, error) {
	name, err := url.PathUnescape(encoded)
	if err != nil {
		return "", "", fmt.Errorf("extended attribute %q: %w", encoded, err)
	}
	decoded, err := base64.RawStdEncoding.DecodeString(strings.TrimRight(value, "="))
	if err != nil {
		return "", "", fmt.Errorf("extended attribute %q: %w", name, err)
	}
	return name, string(decoded), nil
}

// xattrNames lists the extended attributes of a file; none where the filesystem
// has none.
func xattrNames(path string) ([]string, error) {
	list, err := growing(func(b []byte) (int, error) { return unix.Llistxattr(path, b) })
	if err != nil || len(list) == 0 {
		if errors.Is(err, unix.ENOTSUP) {
			err = nil
		}
		return nil, err
	}
	var names []string
	for _, name := range bytes.Split(bytes.TrimSuffix(list, []byte{0}), []byte{0}) {
		names = append(names, string(name))
	}
	return names, nil
}

func xattrValue(path, name string) ([]byte, error) {
	return growing(func(b []byte) (int, error) { return unix.Lgetxattr(path, name, b) })
}

// growing calls read with a buffer that is large enough.
func growing(read func([]byte) (int, error)) ([]byte, error) {
	for size := 256; ; {
		b := make([]byte, size)
		n, err := read(b)
		if !errors.Is(err, unix.ERANGE) {
			if err != nil {
				return nil, err
			}
			return b[:n], nil
		}
		if size, err = read(nil); err != nil {
			return nil, err
		}
	}
}
