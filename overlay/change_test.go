package overlay

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

// everything makes one of each kind of file that an image can hold.
const everything = `
	echo plain >plain
	mkdir -p dir/sub private opaque/old removed/sub empty; chmod 700 private; chmod 1777 empty
	echo x >dir/sub/x; echo x >private/x; echo x >opaque/old/x; echo x >removed/sub/x
	echo link >linked; ln linked dir/linked
	echo pair >pair1; ln pair1 pair2
	ln -s plain symlink; ln -s /nowhere/at/all dangling; ln -sn dir tofolder
	echo attr >attr; setfattr -n user.test -v value attr; setfattr -n trusted.test -v secret attr
	setfattr -n user.empty attr; setfattr -n user.dir -v value dir
	setfattr -n user.large -v $(head -c 2000 /dev/zero | tr '\0' x) attr
	cp /bin/true capable; setcap cap_net_bind_service=ep capable
	echo suid >suid; chown 1000:1001 suid; chmod 6755 suid
	mknod null c 1 3; mknod block b 7 0; mkfifo fifo; chmod 640 fifo
	truncate -s 100M sparse; echo end >>sparse
	mkdir "$(printf '\377\376 bad\nname')"; : >"$(printf '\377\376 bad\nname/\t')"
	: >"$(head -c 255 /dev/zero | tr '\0' n)"
	: >.wh.name; : >'a:b,c\d'
	chmod 0 plain`

// TestEveryKindOfChange makes files on nothing, changes them in a second layer,
// and compares what the view shows with what the commands saw.
func TestEveryKindOfChange(t *testing.T) {
	s := newStore(t)
	var parent digest.Digest
	for i, script := range []string{everything, `
		rm plain symlink; ln -s elsewhere symlink; mkdir plain
		rm -r removed; rm -r opaque; mkdir opaque; echo new >opaque/new
		echo more >>linked
		ln pair1 pair3
		setfattr -n user.test -v other attr; setfattr -x user.empty attr
		setcap -r capable; chmod 755 suid; chown 0:5 fifo
		rm null; mknod null c 1 5
		echo more >>sparse
		mv dir moved; mv "$(printf '\377\376 bad\nname')" good
		mkdir new new/empty; touch -d @5.123456789 new/old
		cp -a private/x private/y`, `
		rm -r moved/sub; mkdir removed; rmdir new/empty; rm -r plain; echo again >plain
		chmod 711 private; mv opaque/new opaque/newer`,
	} {
		m, err := s.Prepare(t.Context(), parent)
		ok(t, err)
		defer m.Drop()
		root, err := m.Mount(t.Context())
		ok(t, err)
		shell(t, root, script)
		// What is older than the epoch keeps its time, to the second.
		shell(t, root, `find . ! -type d -newermt @`+"1000000000"+` -exec touch -h -d @1000000000 {} +
			test ! -e new/old || touch -d @5 new/old`)
		seen := list(t, root)
		shell(t, root, `test ! -e new/old || touch -d @5.987 new/old; test ! -e attr || touch attr; touch -h symlink`)
		ok(t, m.Unmount())
		diff, err := m.Normalize(t.Context(), epoch)
		ok(t, err)
		if diff.Empty || len(diff.Sockets) > 0 {
			t.Errorf("layer %d: %+v", i, diff)
		}
		snap, err := m.Commit(t.Context(), digest.FromString(script), Label{})
		ok(t, err)
		ok(t, m.Drop())
		v, err := s.View(t.Context(), snap.ID)
		ok(t, err)
		equalLines(t, "view of layer "+string(rune('0'+i)), list(t, v.Root), seen)
		ok(t, v.Release())
		parent = snap.ID
	}
	leavesNothing(t, s)
}

func TestSparseFilesStaySparse(t *testing.T) {
	s := newStore(t)
	snap := commit(t, s, "", "truncate -s 1G sparse")
	if snap.Size > 1<<20 {
		t.Errorf("takes %d bytes", snap.Size)
	}
}

// A rename of a folder of the parents must be refused, so that it is copied: a
// redirect would be packed as a folder without its children. And a chmod must
// copy the content: a metacopy would be packed as zeros.
func TestNoRedirectNoMetacopy(t *testing.T) {
	s := newStore(t)
	base := commit(t, s, "", "mkdir d; echo x >d/x; echo content >file")
	m, err := s.Prepare(t.Context(), base.ID)
	ok(t, err)
	defer m.Drop()
	root, err := m.Mount(t.Context())
	ok(t, err)
	is(t, unix.Rename(filepath.Join(root, "d"), filepath.Join(root, "e")), syscall.EXDEV)
	shell(t, root, "mv d e; chmod 600 file")
	ok(t, m.Unmount())
	_, err = m.Normalize(t.Context(), epoch)
	ok(t, err)
	if got := names(t, m.Upper()); got != "d -, e/, e/x, file" {
		t.Errorf("upper holds %s", got)
	}
	if got := shell(t, m.Upper(), "cat e/x file"); got != "x\ncontent\n" {
		t.Errorf("read %q", got)
	}
}

func TestHardlinksAcrossCopyUp(t *testing.T) {
	s := newStore(t)
	base := commit(t, s, "", "echo x >a; ln a b")
	m, _ := change(t, s, base.ID, "echo y >>a; ln a c")
	if got := shell(t, m.Upper(), "ls; stat -c %h a c; cat c"); got != "a\nc\n2\n2\nx\ny\n" {
		t.Errorf("upper holds %q", got)
	}
	snap, err := m.Commit(t.Context(), digest.FromString("x"), Label{})
	ok(t, err)
	if snap.Inodes != 2 {
		t.Errorf("%d inodes, not a folder and a file", snap.Inodes)
	}
	v, err := s.View(t.Context(), snap.ID)
	ok(t, err)
	defer v.Release()
	if got := shell(t, v.Root, "cat a b c"); got != "x\ny\nx\nx\ny\n" {
		t.Errorf("view shows %q", got)
	}
}

// The root folder of a snapshot is that of its parent, unless it was changed.
func TestRootFolderIsInherited(t *testing.T) {
	s := newStore(t)
	base := commit(t, s, "", "chmod 1711 .; chown 3:4 .; setfattr -n user.x -v y .; echo x >x; touch -d @7 .")
	_, diff := change(t, s, base.ID, "true")
	if !diff.Empty {
		t.Error("a run that did nothing left something")
	}
	top := commit(t, s, base.ID, "mkdir y; touch -d @8 y")
	v, err := s.View(t.Context(), top.ID)
	ok(t, err)
	defer v.Release()
	if got := shell(t, v.Root, "stat -c '%a %u:%g %Y' . y; getfattr -n user.x --only-values ."); got != "1711 3:4 1000000000\n755 0:0 8\ny" {
		t.Errorf("got %q", got)
	}
	if _, diff := change(t, s, base.ID, "chmod 755 ."); diff.Empty {
		t.Error("a chmod of the root folder is lost")
	}
	if _, diff := change(t, s, "", "chmod 700 ."); diff.Empty {
		t.Error("a chmod of the root folder of an empty layer is lost")
	}
	if _, diff := change(t, s, "", "setfattr -n user.x -v y ."); diff.Empty {
		t.Error("an attribute of the root folder of an empty layer is lost")
	}
}

// TestNormalize runs scripts on a base and says what is left of them.
func TestNormalize(t *testing.T) {
	s := newStore(t)
	base := commit(t, s, "", `
		mkdir -p a/b full/sub none; chmod 750 a; echo x >a/b/x; echo x >full/x; echo x >full/sub/x
		echo same >file; echo old >old; touch -d @100.5 old; ln -s to link; mkfifo fifo; mknod dev c 1 3
		setfattr -n user.x -v y file; echo h >h1; ln h1 h2; touch -d @100 a a/b`)
	for _, c := range []struct{ name, script, left string }{
		{"nothing", "true", ""},
		{"reading", "cat file; ls -lR .", ""},
		{"a file comes and goes", "echo x >a/b/new; rm a/b/new", ""},
		{"a folder comes and goes", "mkdir a/new; rmdir a/new", ""},
		{"a file is removed and written again", "rm file; echo same >file; setfattr -n user.x -v y file", ""},
		{"a file is copied over itself", "cp -a file a/f; mv a/f file", ""},
		{"mode there and back", "chmod 600 file; chmod 644 file; chmod 700 a; chmod 750 a", ""},
		{"owner there and back", "chown 5 file a/b; chown 0 file a/b; chown -h 5 link; chown -h 0 link; chown 5 fifo dev; chown 0 fifo dev", ""},
		{"attribute there and back", "setfattr -n user.x -v z file; setfattr -n user.x -v y file", ""},
		{"an older file is opened and left", "exec 3>>old", ""},
		{"touch of what has the epoch's time", "touch file", ""},
		{"touch of an older file", "touch old", "old"},
		{"touch of a folder", "touch a a/b", ""},
		{"another mtime", "touch -d @50 file", "file"},
		{"content of one size and mtime", "echo tame >file; touch -d @1000000000 file", "file"},
		{"an attribute less", "setfattr -x user.x file", "file"},
		{"mode of a file", "chmod 600 file", "file"},
		{"mode of a folder", "chmod 700 a/b", "a/, a/b/"},
		{"owner of a folder", "chown 5 a", "a/"},
		{"attribute of a folder", "setfattr -n user.x -v y a", "a/"},
		{"another target of a link", "ln -sfn ot link", "link"},
		{"another device", "rm dev; mknod dev c 1 5", "dev"},
		{"a link to a linked file", "ln h1 h3", "h1, h3"},
		{"a new folder", "mkdir new", "new/"},
		{"a new file in an old folder", "echo x >a/b/y", "a/, a/b/, a/b/y"},
		{"removed", "rm a/b/x", "a/, a/b/, a/b/x -"},
		{"removed folder", "rm -r a full/sub", "a -, full/, full/sub -"},
		{"a removed new file", "echo x >new; rm new", ""},
		{"removed and made again, empty", "rm -r full; mkdir full", "full/, full/sub -, full/x -"},
		{"an empty folder removed and made again", "rmdir none; mkdir none", ""},
		{"an empty folder removed and made otherwise", "rmdir none; mkdir -m 700 none", "none/"},
		{"an opaque folder in an opaque folder", "rm -r full; mkdir -p full/sub", "full/, full/sub/, full/sub/x -, full/x -"},
		{"a whiteout in a folder that becomes opaque", "rm full/x; rm -r full; mkdir full; echo y >full/y", "full/, full/sub -, full/x -, full/y"},
		{"a folder is moved away and back", "mv a m; mv m a; mv full m; mv m full", ""},
		{"a folder is removed and filled as it was", "rm -r full; mkdir -p full/sub; echo x >full/x; echo x >full/sub/x", ""},
		{"a folder is removed and filled otherwise", "rm -r full; mkdir -p full/sub; echo x >full/x; echo y >full/sub/x", "full/, full/sub/, full/sub/x"},
		{"linked names are removed and linked again", "rm h1 h2; echo h >h2; ln h2 h1", ""},
		{"linked names get other content", "echo i >h1; ln -f h1 h2", "h1, h2"},
		{"linked names are linked to another", "rm h1 h2; echo h >h1; ln h1 h2; ln h1 h3", "h1, h2, h3"},
		{"names of two files become links", "mkdir l; echo same >l/file; setfattr -n user.x -v y l/file; ln -f l/file file; rm -r l; ln file other", "file, other"},
		{"a folder in place of a file", "rm file; mkdir file; echo x >file/x", "file/, file/x"},
		{"a file in place of a folder", "rm -r a; echo x >a", "a"},
		{"a socket", socket("a/s"), ""},
		{"a socket in place of a file", "rm file; " + socket("file"), "file -"},
		{"a socket in a new folder", "mkdir new; " + socket("new/s"), "new/"},
	} {
		t.Run(c.name, func(t *testing.T) {
			m, diff := change(t, s, base.ID, c.script)
			defer m.Drop()
			if got := names(t, m.Upper()); got != c.left {
				t.Errorf("left is %q, not %q", got, c.left)
			}
			if diff.Empty != (c.left == "") || strings.Contains(c.script, "bind") != (len(diff.Sockets) == 1) {
				t.Errorf("got %+v", diff)
			}
			before := list(t, m.Upper())
			again, err := m.Normalize(t.Context(), epoch)
			ok(t, err)
			if again.Empty != diff.Empty {
				t.Errorf("the second time it is %+v", again)
			}
			equalLines(t, "after the second time", list(t, m.Upper()), before)
		})
	}
}

// socket is a script that leaves a socket.
func socket(path string) string {
	return `perl -MSocket -e 'socket(S, AF_UNIX, SOCK_STREAM, 0) and bind(S, sockaddr_un("` + path + `")) or die $!'`
}

// Whatever the parents hide of each other, a whiteout hides only what is seen.
func TestNormalizeLooksThroughAllParents(t *testing.T) {
	s := newStore(t)
	one := commit(t, s, "", "mkdir d e; echo x >x; echo x >d/x; echo x >e/x")
	two := commit(t, s, one.ID, "rm x; rm -r d; mkdir d; echo y >e/y")
	m, diff := change(t, s, two.ID, `
		echo x >x; rm x
		mkdir d/x; rmdir d/x; rmdir d; mkdir d
		rm e/x e/y; echo x >e/x`)
	if got := names(t, m.Upper()); got != "e/, e/y -" || diff.Empty {
		t.Errorf("left is %s", got)
	}
}

func TestTimes(t *testing.T) {
	s := newStore(t)
	const script = `
		mkdir d; echo x >d/new; echo x >old; touch -d @5.75 old; ln -s x link; mkfifo fifo; touch -d @-3.5 before
		touch -h -d @7.25 link; mkdir olddir; touch -d @9.5 olddir`
	for _, c := range []struct {
		name  string
		epoch time.Time
		want  string
	}{
		{"clamped", epoch, "1000000000 1000000000 1000000000 5 7 9 -4"},
		{"an early epoch", time.Unix(6, 0), "6 6 6 5 6 6 -4"},
	} {
		t.Run(c.name, func(t *testing.T) {
			m, _ := change(t, s, "", script)
			_, err := m.Normalize(t.Context(), c.epoch)
			ok(t, err)
			got := strings.Fields(shell(t, m.Upper(), `stat -c '%.9Y' d d/new fifo old link olddir before`))
			want := strings.Fields(c.want)
			for i := range want {
				if got[i] != want[i]+".000000000" {
					t.Errorf("got %v, not %v", got, want)
				}
			}
		})
	}
	t.Run("without an epoch", func(t *testing.T) {
		m, err := s.Prepare(t.Context(), "")
		ok(t, err)
		defer m.Drop()
		shell(t, m.Upper(), "echo x >new; touch -d '@4000000000.5' future")
		_, err = m.Normalize(t.Context(), time.Time{})
		ok(t, err)
		info, err := os.Stat(filepath.Join(m.Upper(), "new"))
		ok(t, err)
		if time.Since(info.ModTime()) > time.Hour || info.ModTime().Nanosecond() != 0 {
			t.Errorf("mtime is %v", info.ModTime())
		}
		if got := shell(t, m.Upper(), "stat -c %.9Y future"); got != "4000000000.000000000\n" {
			t.Errorf("mtime is %s", got)
		}
	})
}

// What is unpacked from a tar is committed without Normalize.
func TestCommitWithoutNormalize(t *testing.T) {
	s := newStore(t)
	base := commit(t, s, "", "mkdir same full; echo x >full/x; echo x >gone; echo x >file")
	m, err := s.Prepare(t.Context(), base.ID)
	ok(t, err)
	defer m.Drop()
	root, err := m.Mount(t.Context(), Mountpoint{Path: "/proc"}, Mountpoint{Path: "/full/file", File: true})
	ok(t, err)
	shell(t, root, `
		touch -d @5.5 same; rm -r full/x gone; chmod 600 file; chmod 644 file
		mkdir -p new/sub; touch -d @7000000000.25 new/sub; touch -d @6.5 new .`)
	seen := shell(t, root, "find . ! -path ./proc ! -path './full*' -printf '%p %m %T@\n' | sort")
	ok(t, m.Unmount())
	snap, err := m.Commit(t.Context(), digest.FromString("x"), Label{})
	ok(t, err)
	if got := names(t, m.Upper()); got != "file, full/, full/x -, gone -, new/, new/sub/, same/" || snap.Inodes != 8 {
		t.Errorf("it holds %s: %+v", got, snap)
	}
	if names, err := listXattrs(m.Upper()); err != nil || len(names) > 0 {
		t.Errorf("its root has the attributes %v, %v", names, err)
	}
	v, err := s.View(t.Context(), snap.ID)
	ok(t, err)
	defer v.Release()
	if got := shell(t, v.Root, "find . ! -path './full*' -printf '%p %m %T@\n' | sort"); got != seen {
		t.Errorf("the view shows\n%s, not\n%s", got, seen)
	}
}

// Folders may be deeper than any path can be long.
func TestDeepFolders(t *testing.T) {
	s := newStore(t)
	name := strings.Repeat("n", 250)
	m, err := s.Prepare(t.Context(), "")
	ok(t, err)
	defer m.Drop()
	dir, err := unix.Open(m.Upper(), unix.O_DIRECTORY|unix.O_RDONLY, 0)
	ok(t, err)
	for range 40 {
		ok(t, unix.Mkdirat(dir, name, 0o755))
		next, err := unix.Openat(dir, name, unix.O_DIRECTORY|unix.O_RDONLY, 0)
		ok(t, err)
		unix.Close(dir)
		dir = next
	}
	unix.Close(dir)
	_, err = m.Normalize(t.Context(), epoch)
	ok(t, err)
	if m.usage.inodes != 41 {
		t.Errorf("%d inodes", m.usage.inodes)
	}
	ok(t, m.Drop())
	leavesNothing(t, s)
}

// The names of one file, which has an attribute of overlayfs's own since it was
// copied up, are met in many folders at the same time.
func TestManyNamesOfOneFile(t *testing.T) {
	s := newStore(t)
	base := commit(t, s, "", "for i in $(seq 40); do : >$i; done")
	m, diff := change(t, s, base.ID, `
		for dir in $(seq 100 130); do
			mkdir $dir
			for i in $(seq 40); do test $dir != 100 || chmod 600 $i; ln $i $dir/$i; done
		done`)
	defer m.Drop()
	if diff.Empty {
		t.Error("nothing is left")
	}
}

func TestMountpoints(t *testing.T) {
	s := newStore(t)
	bare := commit(t, s, "", "mkdir usr")
	full := commit(t, s, "", `
		mkdir -p etc run var; chmod 700 run; ln -s ../run var/run
		ln -s ../run/systemd/resolve/stub-resolv.conf etc/resolv.conf; touch -d @100 etc run
		ln -s / slash; ln -s ../../../../../../../../../tmp up; : >file`)
	removed := commit(t, s, full.ID, "rm etc/resolv.conf; rm -r run; mkdir run")
	resolv := Mountpoint{Path: "/etc/resolv.conf", File: true}
	for _, c := range []struct {
		name   string
		base   Snapshot
		points []Mountpoint
		check  string // run in the mounted root
		left   string
	}{
		{"on nothing", Snapshot{}, []Mountpoint{{Path: "/proc"}, {Path: "/dev/shm"}, {Path: "/stacker/imports"}, resolv},
			"test -d dev/shm && test -d stacker/imports && test -f etc/resolv.conf && test $(stat -c %a etc) = 755 && test -z \"$(stat -c %Y dev dev/shm etc etc/resolv.conf stacker | grep -v ^0)\"", ""},
		{"on a base without etc", bare, []Mountpoint{resolv, {Path: "/usr/lib/x"}}, "test -f etc/resolv.conf && test -d usr/lib/x", ""},
		{"through a symlink", full, []Mountpoint{resolv}, "test -f run/systemd/resolve/stub-resolv.conf && test $(stat -c %Y etc) = 100 && test $(stat -c %Y run) = 100", ""},
		{"removed below", removed, []Mountpoint{resolv}, "test -f etc/resolv.conf && test ! -L etc/resolv.conf", ""},
		{"what is there", full, []Mountpoint{{Path: "/etc"}, {Path: "file", File: true}, {Path: "/"}, {Path: ""}}, "true", ""},
		{"never out of the root", full, []Mountpoint{{Path: "/up/a"}, {Path: "/slash/b"}, {Path: "/../../c"}, {Path: "var/run/d"}},
			"test -d tmp/a && test -d b && test -d c && test -d run/d", ""},
		{"a run writes there", bare, []Mountpoint{resolv, {Path: "/stacker/imports"}}, "echo x >etc/hosts; echo x >stacker/imports/x", "etc/, etc/hosts, stacker/, stacker/imports/, stacker/imports/x"},
		{"a run fills the file", bare, []Mountpoint{resolv}, "echo x >etc/resolv.conf", "etc/, etc/resolv.conf"},
		{"a run removes it", bare, []Mountpoint{resolv}, "rm -r etc", ""},
		{"a run makes a folder of its name", bare, []Mountpoint{{Path: "/a/b"}}, "mv a/b a/c", "a/, a/c/"},
	} {
		t.Run(c.name, func(t *testing.T) {
			m, diff := change(t, s, c.base.ID, c.check, c.points...)
			defer m.Drop()
			if got := names(t, m.Upper()); got != c.left || diff.Empty != (c.left == "") {
				t.Errorf("left is %q, not %q (%+v)", got, c.left, diff)
			}
		})
	}
	for _, p := range []Mountpoint{{Path: "/file"}, {Path: "/file/x"}, {Path: "/etc", File: true}} {
		m, err := s.Prepare(t.Context(), full.ID)
		ok(t, err)
		if _, err := m.Mount(t.Context(), p); err == nil || !strings.Contains(err.Error(), "mountpoint "+p.Path) {
			t.Errorf("%v: error is %v", p, err)
		}
		ok(t, m.Drop())
	}
	leavesNothing(t, s)
}

// What a run removes stays removed, even if a later mount of the same
// difference needs something in its place.
func TestMountpointsInPlaceOfWhatWasRemoved(t *testing.T) {
	s := newStore(t)
	base := commit(t, s, "", "mkdir -p etc a/b; echo x >etc/resolv.conf; echo x >a/b/x")
	m, err := s.Prepare(t.Context(), base.ID)
	ok(t, err)
	defer m.Drop()
	root, err := m.Mount(t.Context())
	ok(t, err)
	shell(t, root, "rm etc/resolv.conf; rm -r a/b")
	ok(t, m.Unmount())
	_, err = m.Mount(t.Context(), Mountpoint{Path: "/etc/resolv.conf", File: true}, Mountpoint{Path: "/a/b"})
	ok(t, err)
	ok(t, m.Unmount())
	_, err = m.Normalize(t.Context(), epoch)
	ok(t, err)
	if got := names(t, m.Upper()); got != "a/, a/b -, etc/, etc/resolv.conf -" {
		t.Errorf("left is %s", got)
	}
}

func TestNormalizeStops(t *testing.T) {
	s := newStore(t)
	m, _ := change(t, s, "", "mkdir -p a/b c; echo x >a/b/x")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := m.Normalize(ctx, epoch)
	is(t, err, context.Canceled)
	_, err = m.Commit(ctx, digest.FromString("x"), Label{})
	is(t, err, context.Canceled)
	ok(t, m.Drop())
	isEmpty(t, s.snapshots)
}

// What the process's umask is must not be seen in a root filesystem.
func TestUmask(t *testing.T) {
	s := newStore(t)
	defer unix.Umask(unix.Umask(0o077))
	for _, id := range []digest.Digest{"", commit(t, s, "", "true").ID} {
		m, err := s.Prepare(t.Context(), id)
		ok(t, err)
		defer m.Drop()
		root, err := m.Mount(t.Context(), Mountpoint{Path: "/etc/resolv.conf", File: true})
		ok(t, err)
		if got := shell(t, root, "stat -c %a . etc etc/resolv.conf"); got != "755\n755\n644\n" {
			t.Errorf("modes are %q", got)
		}
	}
	v, err := s.View(t.Context(), "")
	ok(t, err)
	defer v.Release()
	if got := shell(t, v.Root, "stat -c %a ."); got != "755\n" {
		t.Errorf("mode is %q", got)
	}
}
