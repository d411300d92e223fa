// Package overlay keeps snapshots: immutable differences between filesystems, in
// the form overlayfs itself reads and writes, stacked into root filesystems by
// real overlayfs mounts.
//
// # Names
//
// A snapshot is named by its OCI ChainID (image-spec, config.md): the digest of
// what its parent is called and of its own DiffID. So the name of a snapshot
// fixes everything below it as well, a snapshot that exists never has to be
// made again, and two images with the same bottom layers share them. The id of
// a snapshot without a parent is its DiffID; the empty id stands for no
// snapshot at all: an empty root filesystem.
//
// On disk, with every folder readable by its owner only, since a root
// filesystem may hold setuid programs:
//
//	snapshots/<id, hexadecimal>/fs             the upper folder of an overlayfs mount
//	snapshots/<id, hexadecimal>/snapshot.json  a Snapshot
//	tmp/overlay-*/                             what is being made, mounted or removed
//	failed/<name>/                             what Mutable.Keep kept
//	corrupt/                                   what PutAside moved away
//
// In fs a removed file is a character device 0/0, and a folder that hides what
// the parents have of it carries the attribute trusted.overlay.opaque=y
// (Documentation/filesystems/overlayfs.rst); in a user namespace, where that
// cannot be set, it is user.overlay.opaque. Any other difference is simply the new
// file.
//
// # From empty to committed
//
// Prepare makes an empty upper folder on a parent. Mount shows it as a writable
// root filesystem; whatever is done in there ends up in the upper folder:
//
//	store, err := overlay.Open(state)
//	m, err := store.Prepare(ctx, base)
//	defer m.Drop()
//	root, err := m.Mount(ctx, overlay.Mountpoint{Path: "/proc"})
//	// ... run something in root ...
//	err = m.Unmount()
//
// Normalize takes out of it what is no change of content, and tells whether
// anything is left. Then the folder Upper can be packed, which gives the DiffID,
// and Commit makes it a snapshot:
//
//	diff, err := m.Normalize(ctx, epoch)
//	if diff.Empty {
//		return base // nothing happened: no layer
//	}
//	snap, err := m.Commit(ctx, diffID, overlay.Label{Description: "layer web of stacker.yaml"})
//
// From now on snap.ID can be the parent of another Prepare, and be looked at:
//
//	view, err := store.View(ctx, snap.ID)
//	defer view.Release()
//	// ... read below view.Root ...
//
// Until Commit nothing is to be seen of it in snapshots/; after Commit it is
// never changed. Drop ends the Mutable either way: it removes what was not
// committed.
//
// Keep ends it otherwise: the difference of a step that failed stays under a name,
// and any process may Find, mount, and then drop or keep it again.
//
// A layer that comes as a tar is made the same way, but without Normalize: it is
// unpacked below the mounted root, and committed as it is, so that it stays
// exactly what the tar says. One whose parent is still being made can be unpacked
// meanwhile: see Staged.
//
// # Many processes, no server
//
// Any number of processes may use one Store at the same time. They agree by
// flock(2) on the folders themselves: who uses a folder of snapshots/ or tmp/
// holds it shared, who removes it holds it exclusive. A Mutable and a View hold
// their own folder and the snapshot they stand on; and since a snapshot that has
// children is never removed, that is enough to hold the whole chain.
//
// A lock ends with its process, however it ends. What a killed process leaves in
// tmp/ is therefore told from what a living one works on by trying to lock it:
// that is what Sweep does. Mounts, too, should end with their process: a program
// makes a mount namespace of its own before it mounts anything, its Space.
//
// # What can go wrong
//
// ErrNotFound: there is no such snapshot; make it. ErrLocked: it is in use, or
// stands below another; leave it. ErrInvalid: it is damaged; PutAside it, and it
// is not found from then on. Everything else is the machine: no room, no
// permission, no overlayfs. Supported says beforehand whether a folder can hold
// a Store at all.
package overlay
