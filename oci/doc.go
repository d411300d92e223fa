// Package oci is where layerbuild meets the OCI image specification: bases come
// in (from layouts, registries and tar files), layers are unpacked and packed,
// images are composed, and layouts are written for other tools to read.
//
// The nouns are the specification's. A [Store] keeps blobs by digest in the
// state folder and is written by every build of a user at once; a [Base] is an
// image that was taken in, found again by its manifest's digest; a [Layout] is
// the folder the user gets, which other tools write too.
//
// A layer goes through here twice. [Store.Unpack] applies a blob to a mounted
// rootfs, and [Store.Stage] to a folder where what is below it is still missing;
// [Store.Pack] makes a blob of what a step changed:
//
//	base, err := store.BaseFromLayout(ctx, "./debian", "12", platform)
//	for each layer of base.Layers: store.Unpack(ctx, layer, root, nil)
//	… a step runs …
//	packed, err := store.Pack(ctx, upper, oci.PackOptions{Epoch: epoch})
//	image, err := oci.Compose(oci.ImageSpec{Base: base, Layers: …})
//	err = layout.Put(ctx, store, map[string]*oci.Image{"app": image})
//
// # What umoci does here, and what it does not
//
// Layers are unpacked by umoci's layer package as far as their entries are rare, or
// Store.ByUmoci says so: it restores the attributes of a folder after each file in it,
// on one goroutine, which takes two to four times as long as an extractor. Packing, the
// index and the blobs are ours, because umoci 0.6.0 bites there: it takes files of different
// filesystems with one inode number for hardlinks, fails a whole layer over a
// socket, drops empty xattrs and fails on names with '=', writes and reads the
// holes of sparse files, loses references when processes update index.json at
// the same time, rewrites blobs that exist and refuses Docker's media types.
package oci
