package engine

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	"github.com/layerbuild/layerbuild/imports"
	"github.com/layerbuild/layerbuild/layers"
)

// Grab copies a file or folder out of a layer as it was last built, to dest on this machine:
// a file into it if it is a folder, anything if it ends in a slash. A folder is merged with
// what is there. Nothing is written outside of dest, whatever links are in it. Owners are
// root's and times are now, as cp has them; what could do harm here is left out.
func Grab(ctx context.Context, o Options, layer, file, dest string) (err error) {
	defer func() { err = inside(err) }()
	l, err := o.unread(layer)
	if err != nil {
		return err
	}
	b, err := openMounting(ctx, o, &layers.Graph{})
	if err != nil {
		return err
	}
	defer b.close()
	id, err := b.lastBuilt(ctx, l)
	if err != nil {
		return err
	}
	view, err := b.Snapshots.View(ctx, id)
	if err != nil {
		return err
	}
	defer view.Release()
	from := imports.Source{Root: view.Root, Path: path.Join("/", file)}
	tree, err := b.Sources.Digest(ctx, from)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("layer %q has no %s", layer, from.Path)
	}
	if err != nil {
		return err
	}
	root, place, err := destination(dest, tree.Dir)
	if err != nil {
		return err
	}
	from.Content = tree.Dir && place == ""
	return b.Sources.Copy(ctx, from, tree, root, place, imports.CopyOptions{Epoch: time.Now(), Outside: true})
}

// destination returns the folder that a file or folder is copied into, and the place there:
// "/" where it keeps its name, "" where the content of a folder is merged. The folder is
// made to exist. How the user gets there is the user's: links on the way are followed.
func destination(dest string, folder bool) (root, place string, err error) {
	whole, err := filepath.Abs(dest)
	if err != nil {
		return "", "", err
	}
	info, err := os.Stat(whole)
	exists := err == nil && info.IsDir()
	switch {
	case strings.HasSuffix(dest, "/"), dest == ".", exists && !folder:
		root, place = whole, "/"
	case exists:
		root, place = whole, ""
	default:
		root, place = filepath.Dir(whole), "/"+filepath.Base(whole)
	}
	return root, place, os.MkdirAll(root, 0o755)
}
