package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"unicode"

	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	ispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// What a stranger's stackerfile, image or tar may try. HOST is a folder of this
// machine with a file named sentinel; STATE is the state folder. The names of all are
// in docs/security.md.

// runEscapes are scripts that end well where their way is barred.
var runEscapes = []struct{ name, script string }{
	{"reads the build's environment", "! env | grep hunter2\n! tr '\\0' '\\n' </proc/1/environ | grep hunter2"},
	{"reads files of the host by their path", "test ! -e HOST\ntest ! -e STATE\ntest ! -e /stacker/../HOST"},
	{"looks for files of the host in /proc", "test ! -e /proc/1/rootHOST\ntest ! -e /proc/self/cwd/../../../../../..HOST\n! grep HOST /proc/1/cmdline"},
	{"looks for processes of the host", "test $(ls -d /proc/[0-9]* | wc -l) -lt 8\n! kill -0 12345 2>/dev/null"},
	{"uses inherited descriptors", "for fd in /proc/$$/fd/*; do case $(readlink $fd) in pipe:*|/dev/null|/proc/*|/stacker/*|'') ;; *) exit 1;; esac; done"},
	{"types into the terminal", "! (: </dev/tty) 2>/dev/null"},
	{"reads the session's keyring", "test ! -s /proc/keys"},
	{"mounts over what is there", "mkdir /m\n! mount -t tmpfs x /m 2>/dev/null\n! mount --bind / /m 2>/dev/null\n! mount -o remount,rw /sys 2>/dev/null\nrmdir /m"},
	{"makes a user namespace", "! unshare -U true 2>/dev/null"},
	{"reads a disk through a device of its own", "mknod /d b 8 0 && ! head -c 1 /d 2>/dev/null\nmknod /e b 254 0 && ! head -c 1 /e 2>/dev/null\nrm /d /e"},
	{"makes a network device", "mkdir -p /dev/net && mknod /dev/net/tun c 10 200 && ! tunctl -b -t escape 2>/dev/null\n! grep escape /proc/net/dev"},
	{"reads the kernel's memory", "mknod /k c 1 1 && ! head -c 1 /k 2>/dev/null\nrm /k\ntest ! -s /proc/kcore"},
	{"changes the kernel", "for f in sys/kernel/core_pattern sys/vm/drop_caches sysrq-trigger irq/default_smp_affinity; do ! (echo 1 >/proc/$f) 2>/dev/null || exit 1; done"},
	{"reads the kernel's log", "! dmesg 2>/dev/null"},
	{"gains privileges", "grep '^NoNewPrivs:.1$' /proc/self/status\ngrep '^CapBnd:.00000000a80425fb$' /proc/self/status\ngrep '^Seccomp:.2$' /proc/self/status"},
	{"changes what it imports", "! (echo x >>/stacker/imports/word) 2>/dev/null\n! rm -f /stacker/imports/word 2>/dev/null"},
	{"lives on after its run", "(trap '' HUP TERM; exec setsid sleep 424242) &"},
	{"leaves a setuid program", "cp /bin/busybox /su\nchmod 6777 /su"},
	{"leaves links to the host", "ln -s HOST /link\nln -s HOST/sentinel /sentinel\nmkdir -p /run\nln -s HOST /run/secrets"},
	{"makes the labels' folder a link to the host", "ln -s HOST /oci-labels"},
	{"writes codes for terminals", `printf '\033]0;title\a\033]52;c;eA==\a\033[2J\033[1A\302\2332J\342\200\256\rforged | \033[31mred\n'`},
}

// An entry is one of a crafted tar.
type entry struct {
	tar.Header
	text string
}

func file(name string) entry { return entry{tar.Header{Name: name, Mode: 0o644, Size: 7}, "escaped"} }

func link(kind byte, name, target string) entry {
	return entry{tar.Header{Typeflag: kind, Name: name, Linkname: target, Mode: 0o777}, ""}
}

func folder(name string) entry {
	return entry{tar.Header{Typeflag: tar.TypeDir, Name: name, Mode: 0o777}, ""}
}

func times(n int, one func(int) entry) (all []entry) {
	for i := range n {
		all = append(all, one(i))
	}
	return all
}

func attribute(e entry, name, value string) entry {
	e.PAXRecords = map[string]string{"SCHILY.xattr." + name: value}
	return e
}

// A layerEscape is a layer of an image. One without an error is unpacked, and then
// the script runs in the result.
type layerEscape struct {
	name    string
	entries []entry
	script  string
	fails   string
	asTar   string // the error when a tar of it is the base
}

// layerEscapes is no variable: each layerbuild of a script would make it as it starts.
func layerEscapes() []layerEscape {
	return []layerEscape{
		{"a name with ..", []entry{file("../../../../../../../../../..HOST/sentinel"), file("a/../../b")}, "test -e HOST/sentinel && test -e /b", "", "climbs out with \"..\""},
		{"an absolute name", []entry{file("HOST/sentinel")}, "test -e HOST/sentinel", "", "is an absolute name"},
		{"a file through a link", []entry{link(tar.TypeSymlink, "l", "HOST"), file("l/sentinel")}, "test -e HOST/sentinel", "", ""},
		{"a file through a link that climbs", []entry{link(tar.TypeSymlink, "l", "../../../../../../../..HOST"), file("l/sentinel")}, "test -e HOST/sentinel", "", ""},
		{"a folder in place of a link", []entry{link(tar.TypeSymlink, "l", "HOST"), folder("l"), file("l/sentinel")}, "test -f /l/sentinel", "", ""},
		{"a hard link to an absolute name", []entry{link(tar.TypeLink, "h", "HOST/sentinel")}, "", "no such file", "is an absolute name"},
		{"a hard link with ..", []entry{link(tar.TypeLink, "h", "../../../../../../../..HOST/sentinel")}, "", "no such file", "climbs out with \"..\""},
		{"a hard link through a link", []entry{link(tar.TypeSymlink, "l", "/"), link(tar.TypeLink, "h", "lHOST/sentinel")}, "", "no such file", "no such file"},
		{"a hard link to a link", []entry{link(tar.TypeSymlink, "l", "HOST/sentinel"), link(tar.TypeLink, "h", "l"), file("h")}, "test -f /h", "", ""},
		{"a whiteout with ..", []entry{file("../../../../../../../../..HOST/.wh.sentinel")}, "", "", "climbs out with \"..\""},
		{"a whiteout of ..", []entry{file(".wh...")}, "", "which is no file of its folder", "is a whiteout"},
		{"a whiteout through a link", []entry{link(tar.TypeSymlink, "l", "HOST"), file("l/.wh.sentinel")}, "", "", "is a whiteout"},
		{"an opaque folder through a link", []entry{link(tar.TypeSymlink, "l", "HOST"), file("l/.wh..wh..opq")}, "", "", "is a whiteout"},
		{"a disk", []entry{{tar.Header{Typeflag: tar.TypeBlock, Name: "disk", Devmajor: 254, Mode: 0o666}, ""}}, "! head -c 1 /disk 2>/dev/null", "", ""},
		{"overlayfs's own attributes", []entry{folder("o"), attribute(folder("o/d"), "trusted.overlay.redirect", "/etc"), attribute(folder("o/e"), "trusted.overlay.opaque", "y")}, "test ! -e /o/d/passwd", "", ""},
		{"a huge attribute", []entry{attribute(file("f"), "user.x", strings.Repeat("x", 100<<10))}, "", "argument list too long", "argument list too long"},
		{"deep folders", []entry{file(strings.Repeat("d/", 5000) + "f")}, "", "file name too long", "file name too long"},
		{"a long name", []entry{file(strings.Repeat("n", 300))}, "", "file name too long", "file name too long"},
		{"an unknown kind of file", []entry{{tar.Header{Typeflag: 'Z', Name: "z"}, ""}}, "", "unknown", "unknown type"},
		{"too many files", times(20_000, func(i int) entry { return file(fmt.Sprint(i)) }), "", "more than 10000 files: more than a layer may have", "more than a layer may have"},
		{"too large", []entry{{tar.Header{Name: "zeros", Size: 20 << 20, Mode: 0o644}, strings.Repeat("\x00", 20<<20)}}, "", "larger than 10MB when it is unpacked: more than a layer may have", "more than a layer may have"},
	}
}

// linkEscapes are what layerbuild itself reads and writes in a root filesystem: what a layer
// says, and the place. LAYOUT is an image that has a link to HOST there or on the way.
var linkEscapes = []struct{ name, layer, place string }{
	{"has labels read", "{from: {type: oci, url: 'LAYOUT:evil'}, generate_labels: 'true'}", "oci-labels"},
	{"has an import put in", "{from: {type: oci, url: 'LAYOUT:evil'}, imports: {path: word, dest: /way/new}}", "way/new"},
	{"has a folder laid over", "{from: {type: oci, url: 'LAYOUT:evil'}, overlay_dirs: [{source: d, dest: /way/new}]}", "way/new"},
	{"has a file imported by another layer", "{from: {type: oci, url: 'BUSYBOX:latest'}, imports: {path: 'stacker://NAME-base/way/sentinel', dest: /}}", "way/sentinel"},
	{"has a tar taken by another layer", "{from: {type: tar, url: 'stacker://NAME-base/way/sentinel'}}", "way/sentinel"},
	{"has its shell looked at", "{from: {type: oci, url: 'LAYOUT:evil'}, run: '#!/way/sentinel'}", "way/sentinel"},
	{"is run in", "{from: {type: oci, url: 'LAYOUT:evil'}, run: 'true'}", "proc"},
	{"is run in with imports", "{from: {type: oci, url: 'LAYOUT:evil'}, imports: word, run: 'true'}", "stacker/imports"},
	{"is run in with a resolver", "{from: {type: oci, url: 'LAYOUT:evil'}, network: host, run: 'true'}", "etc/resolv.conf"},
	{"is run in with a cache", "{from: {type: oci, url: 'LAYOUT:evil'}, caches: /way/cache, run: 'true'}", "way/cache"},
	{"is run in with a secret", "{from: {type: oci, url: 'LAYOUT:evil'}, secrets: s, run: 'true'}", "run/secrets/s"},
	{"is run in with a bind", "{from: {type: oci, url: 'LAYOUT:evil'}, binds: d -> /way/bind, run: 'true'}", "way/bind"},
}

// linked is a layer with a link at an element of place that leads to the same elements below
// HOST: that of the last leads to the sentinel.
func linked(place string, element int) (entries []entry) {
	names := strings.Split(place, "/")
	for i := range names[:element] {
		entries = append(entries, folder(strings.Join(names[:i+1], "/")))
	}
	target := "HOST"
	if element == len(names)-1 && element > 0 {
		target = "HOST/sentinel"
	}
	return append(entries, link(tar.TypeSymlink, strings.Join(names[:element+1], "/"), target))
}

// A craft is an image in the making.
type craft struct {
	t                testing.TB
	dir              string
	layer            []byte // the blob
	diffID           digest.Digest
	layerDescriptor  ispec.Descriptor
	config, manifest []byte // documents, when they are not those of the above
	manifestType     string
}

// imageEscapes are images that lie. The layer is a small, sound one.
var imageEscapes = []struct {
	name  string
	lie   func(*craft)
	fails string
}{
	{"another content of a layer", func(c *craft) { c.layerDescriptor.Digest = digest.FromString("x") }, "digest"},
	{"a layer of another size", func(c *craft) { c.layerDescriptor.Size++ }, "size|bytes"},
	{"a huge size", func(c *craft) { c.layerDescriptor.Size = 1 << 60 }, "more than a layer may have"},
	{"a negative size", func(c *craft) { c.layerDescriptor.Size = -1 }, "size"},
	{"another content of the uncompressed layer", func(c *craft) { c.diffID = digest.FromString("x") }, "its image says"},
	{"zstd that is called gzip", func(c *craft) { c.put(zstdOf(c.t, tarOf(c.t, file("f")))) }, "compressed with zstd, its media type"},
	{"a layer that is none", func(c *craft) { c.layerDescriptor.MediaType = "text/html" }, "text/html"},
	{"a manifest that is an index, too", func(c *craft) {
		c.manifest = []byte(`{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[],"config":{},"layers":[]}`)
	}, "."},
	{"a config that is a list", func(c *craft) { c.config = []byte("[]") }, "."},
	{"a config of 64 MiB", func(c *craft) { c.config = bytes.Repeat([]byte(" "), 64<<20) }, "has 16777217 bytes"},
	{"a digest that is a path", func(c *craft) { c.layerDescriptor.Digest = "sha256:../../../../../../etc/passwd" }, "digest"},
	{"a sparse file of 50 GiB", func(c *craft) {
		tarball := sparseTar(c.t)
		c.put(gzipOf(c.t, tarball))
		c.diffID = digest.FromBytes(tarball)
	}, "more than 1032 times that when they are unpacked"},
	{"endless zeros after the tar", func(c *craft) {
		c.layerDescriptor.MediaType = ispec.MediaTypeImageLayerZstd
		c.put(zstdOf(c.t, append(tarOf(c.t, file("f")), make([]byte, 1<<30)...)))
	}, "more than 1032 times that when they are unpacked"},
}

func tarOf(t testing.TB, entries ...entry) []byte {
	t.Helper()
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, e := range entries {
		e.Format = tar.FormatPAX
		if err := w.WriteHeader(&e.Header); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(e.text)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func sparseTar(t testing.TB) []byte {
	name := filepath.Join(t.TempDir(), "sparse")
	mustRun(t, exec.Command("truncate", "-s", "50G", name))
	out, err := exec.Command("tar", "--sparse", "--format=pax", "-C", filepath.Dir(name), "-cf", "-", "sparse").Output()
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func gzipOf(t testing.TB, data []byte) []byte {
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	if _, err := w.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func zstdOf(t testing.TB, data []byte) []byte {
	w, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	return w.EncodeAll(data, nil)
}

// newCraft begins an image of one layer.
func newCraft(t testing.TB, tarball []byte) *craft {
	c := &craft{t: t, dir: t.TempDir(), diffID: digest.FromBytes(tarball), manifestType: ispec.MediaTypeImageManifest}
	c.layerDescriptor.MediaType = ispec.MediaTypeImageLayerGzip
	c.put(gzipOf(t, tarball))
	return c
}

// put makes a blob the layer.
func (c *craft) put(blob []byte) {
	c.layer = blob
	c.layerDescriptor.Digest, c.layerDescriptor.Size = digest.FromBytes(blob), int64(len(blob))
}

func (c *craft) blob(mediaType string, data []byte) ispec.Descriptor {
	c.t.Helper()
	d := ispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(data), Size: int64(len(data))}
	if err := os.WriteFile(filepath.Join(c.dir, "blobs/sha256", d.Digest.Encoded()), data, 0o644); err != nil {
		c.t.Fatal(err)
	}
	return d
}

func (c *craft) json(v any) []byte {
	c.t.Helper()
	data, err := json.Marshal(v)
	if err != nil {
		c.t.Fatal(err)
	}
	return data
}

// layout writes the image as tag evil on busybox, and returns the layout's folder.
func (c *craft) layout(busybox string) string {
	c.t.Helper()
	if err := os.MkdirAll(filepath.Join(c.dir, "blobs/sha256"), 0o755); err != nil {
		c.t.Fatal(err)
	}
	base, err := readImage(busybox, "latest")
	if err != nil {
		c.t.Fatal(err)
	}
	var manifest ispec.Manifest
	var config ispec.Image
	if err := json.Unmarshal(base.manifest, &manifest); err != nil {
		c.t.Fatal(err)
	}
	if err := json.Unmarshal(base.config, &config); err != nil {
		c.t.Fatal(err)
	}
	for _, layer := range manifest.Layers {
		data, err := os.ReadFile(filepath.Join(busybox, "blobs/sha256", layer.Digest.Encoded()))
		if err != nil {
			c.t.Fatal(err)
		}
		c.blob(layer.MediaType, data)
	}
	name := c.layerDescriptor.Digest
	if name.Validate() != nil {
		name = digest.FromBytes(c.layer)
	}
	if err := os.WriteFile(filepath.Join(c.dir, "blobs/sha256", name.Encoded()), c.layer, 0o644); err != nil {
		c.t.Fatal(err)
	}
	config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, c.diffID)
	config.History = nil
	manifest.Layers = append(manifest.Layers, c.layerDescriptor)
	if c.config == nil {
		c.config = c.json(config)
	}
	manifest.Config = c.blob(ispec.MediaTypeImageConfig, c.config)
	if c.manifest == nil {
		c.manifest = c.json(manifest)
	}
	d := c.blob(c.manifestType, c.manifest)
	d.Annotations = map[string]string{ispec.AnnotationRefName: "evil"}
	index := ispec.Index{Manifests: []ispec.Descriptor{d}}
	index.SchemaVersion = 2
	for name, text := range map[string][]byte{ispec.ImageIndexFile: c.json(index), ispec.ImageLayoutFile: []byte(`{"imageLayoutVersion":"1.0.0"}`)} {
		if err := os.WriteFile(filepath.Join(c.dir, name), text, 0o644); err != nil {
			c.t.Fatal(err)
		}
	}
	return c.dir
}

// A victim is a project and a folder of this machine that nothing may reach.
type victim struct {
	*project
	host string
}

func newVictim(t testing.TB) *victim {
	v := &victim{newProject(t), t.TempDir()}
	if err := os.WriteFile(filepath.Join(v.host, "sentinel"), []byte("sound"), 0o644); err != nil {
		t.Fatal(err)
	}
	t.Setenv("HOST_SECRET", "hunter2")
	t.Setenv("TERM", "xterm")
	return v
}

// fill puts the victim's folders into a text.
func (v *victim) fill(text string) string {
	return strings.NewReplacer("HOST", v.host, "STATE", v.state()).Replace(text)
}

func (v *victim) fillEntries(entries []entry) []entry {
	var filled []entry
	for _, e := range entries {
		e.Name, e.Linkname = v.fill(e.Name), v.fill(e.Linkname)
		filled = append(filled, e)
	}
	return filled
}

// sound fails when the folder of this machine is not as it was.
func (v *victim) sound() {
	v.t.Helper()
	entries, err := os.ReadDir(v.host)
	text, readErr := os.ReadFile(filepath.Join(v.host, "sentinel"))
	if err != nil || readErr != nil || len(entries) != 1 || string(text) != "sound" {
		v.t.Errorf("%s was changed: %v, %q", v.host, entries, text)
	}
}

// unread fails when what only a file of this machine has was printed, or is anywhere in what was built.
func (v *victim) unread(out string) {
	v.t.Helper()
	found, _ := exec.Command("grep", "-rl", "sound", v.state(), v.path("oci")).Output()
	if len(found) > 0 || strings.Contains(out, "sound") {
		v.t.Errorf("what only a file of the host has is in %s, or was printed", found)
	}
}

// build builds a stackerfile and returns what it printed.
func (v *victim) build(stackerfile string, flags ...string) (string, error) {
	v.t.Helper()
	v.write("evil.yaml", stackerfile)
	out, err := v.command(append([]string{"build", "-f", "evil.yaml", "--max-layer-files", "10000"}, flags...)...).CombinedOutput()
	return string(out), err
}

func indent(text string) string { return strings.ReplaceAll(text, "\n", "\n    ") }

func TestEscapesOfRuns(t *testing.T) {
	v := newVictim(t)
	var stackerfile strings.Builder
	for i, e := range runEscapes {
		fmt.Fprintf(&stackerfile, "run%d:\n  from: {type: oci, url: '%s:latest'}\n  imports: word\n  run: |\n    #!/bin/sh -e\n    %s\n", i, busyboxBase(t), indent(v.fill(e.script)))
	}
	// What the runs left in their layers lies in the way of what is put into others.
	for i, e := range runEscapes {
		switch e.name {
		case "makes the labels' folder a link to the host":
			fmt.Fprintf(&stackerfile, "linked:\n  from: {type: built, tag: run%d}\n  generate_labels: 'true'\n"+
				"linking:\n  from: {type: oci, url: '%s:latest'}\n  generate_labels: rm -r /oci-labels && ln -s %s /oci-labels\n", i, busyboxBase(t), v.host)
		case "leaves links to the host":
			fmt.Fprintf(&stackerfile, "after:\n  from: {type: built, tag: run%d}\n  imports: [{path: word, dest: /link/word}, {path: word, dest: /sentinel}]\n"+
				"  secrets: s\n  caches: /link/cache\n  run: test -e %s/word && touch /link/more\n  generate_labels: ln -s %s/sentinel /oci-labels/l || true\n", i, v.host, v.host)
		}
	}
	out, _ := v.build(stackerfile.String(), "--keep-going", "--secret", "id=s,src=word")
	for i, e := range runEscapes {
		if !strings.Contains(out, fmt.Sprintf("filesystem run%d built successfully", i)) {
			t.Errorf("%s: it was not barred", e.name)
		}
	}
	if !strings.Contains(out, `"after": generate_labels: /oci-labels/"l"`) {
		t.Error("a label was read through a link")
	}
	if !strings.Contains(out, `"linking": generate_labels: open /oci-labels: no such file`) {
		t.Error("labels were read through a link in place of their folder")
	}
	v.unread(out)
	if t.Failed() {
		t.Log(out)
	}
	if left, _ := exec.Command("pgrep", "-f", "sleep 424242").Output(); len(left) > 0 {
		t.Errorf("process %s lives on", left)
	}
	if text, _ := os.ReadFile(v.path("word")); string(text) != "one\n" {
		t.Errorf("the import was changed: %q", text)
	}
	checkObeyed(t, "build", strings.ReplaceAll(strings.ReplaceAll(out, "\x1b[31m", ""), "\x1b[0m", ""))
	if !strings.Contains(out, "forged | \x1b[31mred\x1b[0m") || strings.Contains(out, "\nforged") {
		t.Error("the colour is gone, or a line of another layer was forged")
	}
	v.sound()
	v.grabs()
}

// grabs takes files out of layers: what could do harm here is left there.
func (v *victim) grabs() {
	v.t.Helper()
	for i, e := range runEscapes {
		if e.name == "leaves a setuid program" {
			v.must("grab", "-f", "evil.yaml", fmt.Sprintf("run%d:/su", i), v.path("su"))
		}
	}
	// What one grab leaves is in the way of the next.
	for _, run := range []string{"mkdir /d && ln -s " + v.host + " /d/l && echo a > /d/a && ln /d/a /d/b", "mkdir -p /d/l && echo evil > /d/l/sentinel"} {
		v.write("grab.yaml", fmt.Sprintf("g: {from: {type: oci, url: '%s:latest'}, run: '%s'}\n", busyboxBase(v.t), run))
		v.must("build", "-f", "grab.yaml")
		v.must("grab", "-f", "grab.yaml", "g:/d", v.path("grabbed"))
	}
	if text, err := os.ReadFile(v.path("grabbed/l/sentinel")); string(text) != "evil\n" {
		v.t.Errorf("a folder in place of a link was grabbed as %q, %v", text, err)
	}
	a, errA := os.Stat(v.path("grabbed/a"))
	b, errB := os.Stat(v.path("grabbed/b"))
	if errA != nil || errB != nil || !os.SameFile(a, b) {
		v.t.Error("a hard link was grabbed as another file")
	}
	v.sound()
	info, err := os.Stat(v.path("su"))
	if err != nil || info.Mode() != 0o775 {
		v.t.Errorf("a setuid program that was grabbed is %v, %v", info.Mode(), err)
	}
	if info, err := os.Stat(v.state()); err != nil || info.Mode().Perm() != 0o700 {
		v.t.Errorf("the state folder, which holds it, is %v, %v", info.Mode(), err)
	}
}

func TestEscapesThroughLinks(t *testing.T) {
	v := newVictim(t)
	if err := os.Mkdir(v.path("d"), 0o755); err != nil {
		t.Fatal(err)
	}
	v.write("d/f", "1")
	var stackerfile strings.Builder
	var bases []string
	for i, e := range linkEscapes {
		for element := range strings.Count(e.place, "/") + 1 {
			layout := newCraft(t, tarOf(t, v.fillEntries(linked(e.place, element))...)).layout(busyboxBase(t))
			name := fmt.Sprintf("l%d-%d", i, element)
			bases = append(bases, name+"-base")
			text := fmt.Sprintf("NAME-base: {from: {type: oci, url: 'LAYOUT:evil'}}\nNAME: %s\n", e.layer)
			stackerfile.WriteString(strings.NewReplacer("NAME", name, "LAYOUT", layout, "BUSYBOX", busyboxBase(t)).Replace(text))
		}
	}
	out, err := v.build(stackerfile.String(), "--keep-going", "--secret", "id=s,src=word")
	if err == nil {
		t.Error("a file of the host was taken")
	}
	for _, base := range bases {
		if strings.Contains(out, base+": failed") {
			t.Errorf("%s was not built", base)
		}
		if out, err := v.command("grab", "-f", "evil.yaml", base+":/way/sentinel", v.path("grabbed")).CombinedOutput(); err == nil {
			t.Errorf("grab took a file of the host: %s", out)
		}
	}
	v.unread(out)
	if t.Failed() {
		t.Log(out)
	}
	v.sound()
}

func TestEscapesOfLayers(t *testing.T) {
	v := newVictim(t)
	for _, e := range layerEscapes() {
		layout := newCraft(t, tarOf(t, v.fillEntries(e.entries)...)).layout(busyboxBase(t))
		script := "true"
		if e.script != "" {
			script = indent(v.fill(e.script))
		}
		flags := []string{"--no-cache"}
		if e.name == "too large" {
			flags = append(flags, "--max-layer-size", "10MB")
		}
		out, err := v.build(fmt.Sprintf("x:\n  from: {type: oci, url: '%s:evil'}\n  run: |\n    #!/bin/sh -e\n    %s\n", layout, script), flags...)
		if failed := err != nil; failed != (e.fails != "") || !strings.Contains(out, e.fails) {
			t.Errorf("%s: %v, want %q\n%.2000s", e.name, err, e.fails, out)
		}
		v.sound()
	}
}

func TestEscapesOfTars(t *testing.T) {
	v := newVictim(t)
	for _, e := range layerEscapes() {
		if err := os.WriteFile(v.path("evil.tar"), tarOf(t, v.fillEntries(e.entries)...), 0o644); err != nil {
			t.Fatal(err)
		}
		out, err := v.build("x: {from: {type: tar, url: evil.tar}}\n", "--max-layer-size", "10MB", "--no-cache")
		if failed := err != nil; failed != (e.asTar != "") || !strings.Contains(out, e.asTar) {
			t.Errorf("%s: %v, want %q\n%s", e.name, err, e.asTar, out)
		}
		v.sound()
	}
}

func TestEscapesOfImages(t *testing.T) {
	v := newVictim(t)
	for _, e := range imageEscapes {
		c := newCraft(t, tarOf(t, file("f")))
		e.lie(c)
		layout := c.layout(busyboxBase(t))
		out, err := v.build(fmt.Sprintf("x: {from: {type: oci, url: '%s:evil'}, run: 'true'}\n", layout), "--no-cache")
		if err == nil || !regexp.MustCompile(`error: .*(?:`+e.fails+`)`).MatchString(out) {
			t.Errorf("%s: %v, want %q\n%.2000s", e.name, err, e.fails, out)
		}
		v.sound()
	}
}

// What is known of a layer by its DiffID makes no image sound that gives another content for
// it: the answer is that of a machine that knows nothing.
func TestEscapesOfImagesWhoseLayersAreKnown(t *testing.T) {
	v := newVictim(t)
	sound := newCraft(t, tarOf(t, file("f")))
	layout := sound.layout(busyboxBase(t))
	stackerfile := "x: {from: {type: oci, url: '%s:evil'}, run: 'true'}\nnothing: {from: {type: oci, url: '%s:evil'}}\n"
	if out, err := v.build(fmt.Sprintf(stackerfile, layout, layout)); err != nil {
		t.Fatal(out)
	}
	other := tarOf(t, file("g"))
	for name, blob := range map[string][]byte{
		"another content": gzipOf(t, other), "a cut blob": sound.layer[:len(sound.layer)-20], "another blob that is known": nil,
	} {
		c := newCraft(t, tarOf(t, file("f")))
		if blob == nil { // that of busybox, which is in the image as well
			base, err := readImage(busyboxBase(t), "latest")
			if err != nil {
				t.Fatal(err)
			}
			var manifest ispec.Manifest
			if err := json.Unmarshal(base.manifest, &manifest); err != nil {
				t.Fatal(err)
			}
			if blob, err = os.ReadFile(filepath.Join(busyboxBase(t), "blobs/sha256", manifest.Layers[0].Digest.Encoded())); err != nil {
				t.Fatal(err)
			}
		}
		c.put(blob)
		layout := c.layout(busyboxBase(t))
		for _, flag := range []string{"--keep-going", "--no-cache"} { // the first of which changes nothing here
			out, err := v.build(fmt.Sprintf(stackerfile, layout, layout), "--keep-going", flag)
			if err == nil || !strings.Contains(out, "2 layers failed") {
				t.Errorf("%s, %s: %v\n%.2000s", name, flag, err, out)
			}
		}
	}
	v.sound()
}

// checkObeyed fails when a terminal would obey something of a text.
func checkObeyed(t testing.TB, what, text string) {
	t.Helper()
	for i, r := range text {
		if r != '\n' && r != '\t' && (unicode.IsControl(r) || unicode.Is(unicode.Bidi_Control, r)) {
			t.Errorf("%s prints %q", what, text[max(0, i-40):min(len(text), i+20)])
			return
		}
	}
}

// Names that hold codes for terminals are shown without them, whatever shows them.
func TestEscapesInNames(t *testing.T) {
	v := newVictim(t)
	const evil = "e\x1b]0;t\a\x1b[2J\u009b\u202e"
	for _, dir := range []string{"d", evil} {
		if err := os.Mkdir(v.path(dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	v.write("d/"+evil, "1")
	v.write("d/"+evil+"\xff", "1")
	v.write("Dockerfile", "FROM "+evil+"\nRUN --mount=type="+evil+" x\n"+evil+"\n")
	name := fmt.Sprintf("%q", evil)
	v.write(evil+"/stacker.yaml", "x: {from: {type: oci, url: '"+busyboxBase(t)+":latest'}, imports: ../d, run: 'true', labels: {"+name+": "+name+"}, annotations: {"+name+": "+name+
		"}, environment: {A: "+name+"}, caches: {path: "+fmt.Sprintf("%q", "/"+evil)+", id: "+name+"}, build_env: {A: "+name+"}}\n")
	v.write("faults.yaml", name+": {from: "+name+", "+name+": 1, run: {"+name+": 1}, binds: ["+name+"], secrets: ["+name+"], caches: ["+name+"]}\n")
	file := evil + "/stacker.yaml"
	commands := [][]string{
		{"build", "-f", file}, {"build", "-f", file, "--progress", "json"}, {"explain", "-f", file}, {"explain", "-f", file, "--hit", "--debug", "--format", "json"},
		{"inspect"}, {"du", "--verbose"}, {"du", "--format", "json"}, {"history"}, {"graph", "-f", file}, {"validate", "-f", "faults.yaml"}, {"build", "-f", evil},
		{"convert", "-i", "Dockerfile"}, {"logs"}, {"grab", "-f", file, "x:" + evil}, {"explain", evil}, {"build", "-f", file, "--target", evil}, {"build", "--" + evil},
		{"build", "-f", file, "--secret", "id=" + evil}, {evil}, {"publish", "-f", file, "--url", evil}, {"prune", "--force", "--all"}, {"clean"},
	}
	for _, command := range commands {
		out, _ := v.command(command...).CombinedOutput()
		checkObeyed(t, strings.Join(command, " "), string(out))
		if command[0] == "explain" && len(command) == 3 { // a change of the file is told
			v.write("d/"+evil, "2")
			out, _ := v.command("build", "-f", file).CombinedOutput()
			checkObeyed(t, "build with a change", string(out))
		}
	}
	v.sound()
}

// The document has all that is tried.
func TestEscapesDocument(t *testing.T) {
	text, err := os.ReadFile("../../docs/security.md")
	if err != nil {
		t.Fatal(err)
	}
	want := func(name string) {
		if !strings.Contains(string(text), "\n| "+name+" |") {
			t.Errorf("docs/security.md does not have: %s", name)
		}
	}
	for _, e := range runEscapes {
		want(e.name)
	}
	for _, e := range linkEscapes {
		want(e.name)
	}
	for _, e := range layerEscapes() {
		want(e.name)
	}
	for _, e := range imageEscapes {
		want(e.name)
	}
}
