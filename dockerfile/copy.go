package dockerfile

import (
	"bytes"
	"cmp"
	"errors"
	"io"
	"io/fs"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"

	"github.com/layerbuild/layerbuild/layers"
)

// A transfer is one COPY or ADD.
type transfer struct {
	extraFlags
	here         int
	what         string // its name, for notes
	from         string // --from: "" for the build context
	chown, chmod string
	hash         string
	keepGit      bool
	unpack       bool // archives of the build context are unpacked
	unpackURL    bool // those behind URLs, too
}

func (s *stage) copy(c *instructions.CopyCommand, here int) error {
	return s.transfer(c.SourcesAndDest, transfer{
		extraFlags: s.c.flags[c], here: here, what: "COPY", from: c.From, chown: c.Chown, chmod: c.Chmod,
	})
}

func (s *stage) add(c *instructions.AddCommand, here int) error {
	return s.transfer(c.SourcesAndDest, transfer{
		extraFlags: s.c.flags[c], here: here, what: "ADD", chown: c.Chown, chmod: c.Chmod, hash: c.Checksum,
		keepGit: c.KeepGitDir != nil && *c.KeepGitDir,
		unpack:  c.Unpack == nil || *c.Unpack, unpackURL: c.Unpack != nil && *c.Unpack,
	})
}

func (s *stage) transfer(c instructions.SourcesAndDest, t transfer) error {
	s.enter()
	s.importing()
	dest := s.absolute(c.DestPath)
	if len(c.SourcePaths)+len(c.SourceContents) > 1 && !strings.HasSuffix(value(dest), "/") {
		dest += "/"
	}
	var plain []string
	for _, source := range c.SourcePaths {
		switch {
		case t.what == "ADD" && gitURL.MatchString(value(source)):
			s.clone(source, dest, t)
		case layers.IsURL(value(source)):
			s.download(source, dest, t)
		case s.isArchive(source, t):
			s.unpack(s.c.inContext(source), source, dest, t)
		case !isPattern(source):
			s.c.note(t.here, "%s %s is left out: it is no pattern", t.what, value(source))
		default:
			plain = append(plain, below(source))
		}
	}
	if len(plain) > 0 {
		i := mapping{{"copy", plain}}
		s.source(&i, t.from)
		i.put("dest", dest)
		if t.parents {
			i.put("parents", true)
		}
		if len(t.exclude) > 0 {
			i.put("exclude", literals(t.exclude))
		}
		s.put(i, t)
	}
	for _, content := range c.SourceContents {
		s.write(content, dest, t)
	}
	return nil
}

func isPattern(source string) bool {
	_, err := path.Match(value(source), "")
	return err == nil
}

// below is a path below a root, which .. does not leave. A /./ says what --parents keeps.
func below(source string) string {
	if value(source) != source {
		return source
	}
	parent, rest, pivot := strings.Cut(source, "/./")
	clean := func(p string) string { return strings.TrimPrefix(path.Clean("/"+p), "/") }
	switch {
	case pivot && clean(rest) != "":
		return clean(parent) + "/./" + clean(rest)
	case clean(source) == "":
		return "."
	}
	return clean(source)
}

// source says where an import with copy takes things from: the build context, a stage or
// an image.
func (s *stage) source(i *mapping, from string) {
	if from != "" {
		i.put("from", "stacker://"+s.c.layerOf(from, s.index)+"/")
		return
	}
	if s.c.Context != "." {
		i.put("from", s.c.Context)
	}
	if s.c.ignoreFile != "" {
		i.put("ignore_file", path.Join(s.c.Context, s.c.ignoreFile))
	}
}

var symbolicMode = regexp.MustCompile(`^[ugoa]*[-+=]`)

// put adds an import, with its mode and owner.
func (s *stage) put(i mapping, t transfer) {
	if dest, ok := i.get("dest"); ok && layers.OfEachRun(path.Clean("/"+value(dest.(string)))) {
		s.c.note(t.here, "%s to %s is left out: each run has that place anew", t.what, value(dest.(string)))
		return
	}
	mode := value(t.chmod)
	_, err := strconv.ParseUint(mode, 8, 16)
	switch {
	case mode == "":
	case err == nil && strings.HasPrefix(mode, "0"):
		i.put("mode", t.chmod)
	case err == nil:
		i.put("mode", "0"+t.chmod)
	}
	if t.chown != "" && layers.IsOwner(value(t.chown)) {
		i.put("owner", t.chown)
	} else if t.chown != "" {
		s.c.note(t.here, "--chown=%s is left out: it is no USER or USER:GROUP", value(t.chown))
	}
	s.layer.imports = append(s.layer.imports, i)
	if mode == "" || err == nil {
		return
	}
	if !symbolicMode.MatchString(mode) {
		s.c.note(t.here, "--chmod=%s is left out: it is no mode", mode)
		return
	}
	s.c.note(t.here, "--chmod=%s is done by a run: it counts for all of the destination, and needs a shell", mode)
	dest, _ := i.get("dest")
	s.running(quoteAll([]string{"chmod", "-R", t.chmod, dest.(string)}))
}

// download makes an import of what is behind a URL.
func (s *stage) download(source, dest string, t transfer) {
	if t.unpackURL {
		s.unpack(source, source, dest, t)
		return
	}
	i := mapping{{"path", source}, {"dest", dest}}
	if hash, ok := strings.CutPrefix(t.hash, "sha256:"); ok {
		i.put("hash", hash)
	} else if t.hash != "" {
		s.c.note(t.here, "--checksum=%s is left out: an import has a sha256", t.hash)
	}
	if t.chmod == "" {
		t.chmod = "600"
	}
	s.put(i, t)
}

// write makes a file of what stands in the Dockerfile.
func (s *stage) write(content instructions.SourceContent, dest string, t transfer) {
	if strings.HasSuffix(value(dest), "/") {
		dest = strings.TrimSuffix(dest, "/") + "/" + literal(content.Path)
	}
	text := content.Data
	if !content.Expand {
		text = literal(text)
	}
	s.put(mapping{{"text", text}, {"dest", dest}}, t)
}

// isArchive reports whether a source of the build context is one that ADD unpacks: by what
// is in it, as docker does.
func (s *stage) isArchive(source string, t transfer) bool {
	if t.from != "" || t.what != "ADD" || !t.unpack {
		return false
	}
	name := below(value(source))
	if strings.ContainsAny(name, "*?[") {
		if found, err := fs.Glob(s.c.Files, name); err == nil && slices.ContainsFunc(found, s.hasArchive) {
			s.c.note(t.here, "ADD %s does not unpack what matches: name the archive", name)
		}
		return false
	}
	return s.hasArchive(name)
}

// hasArchive reports whether a file begins like a tar, or like one that is compressed.
func (s *stage) hasArchive(name string) bool {
	f, err := s.c.Files.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return archiveName.MatchString(name)
	}
	if err != nil {
		return false
	}
	defer f.Close()
	head := make([]byte, 512)
	n, _ := io.ReadFull(f, head)
	head = head[:n]
	for _, magic := range []string{"\x1f\x8b", "BZh", "\xfd7zXZ\x00", "\x28\xb5\x2f\xfd"} {
		if bytes.HasPrefix(head, []byte(magic)) {
			return archiveName.MatchString(name) // otherwise it is one compressed file
		}
	}
	return n == 512 && string(head[257:262]) == "ustar"
}

var archiveName = regexp.MustCompile(`\.(tar(\.(gz|bz2|xz|zst))?|tgz|tbz2?|txz|tzst)$`)

// unpack makes a layer of an archive, to copy from, or the base of a stage that has none.
func (s *stage) unpack(url, source, dest string, t transfer) {
	if t.hash != "" {
		s.c.note(t.here, "--checksum of %s is left out: the base of a layer has no hash", value(source))
	}
	base := mapping{{"type", "tar"}, {"url", url}}
	if s.layer.from[0].value == "scratch" && value(dest) == "/" && len(s.layer.imports) == 0 && t.chown == "" {
		s.layer.from = base
		return
	}
	l := &layer{name: s.c.free(s.name + "-" + notInName.ReplaceAllString(path.Base(value(source)), "-")), from: base, buildOnly: true}
	last := len(s.c.layers) - 1
	s.c.layers = append(s.c.layers[:last:last], l, s.c.layers[last])
	i := mapping{{"copy", "."}, {"from", "stacker://" + l.name + "/"}, {"dest", dest}}
	t.chmod = ""
	s.put(i, t)
}

// gitURL finds git repositories as docker does; a # is followed by what is checked out.
var gitURL = regexp.MustCompile(`^(git@|git://|ssh://)|^https?://[^#?]*\.git([#?].*)?$`)

// clone has a run fetch a git repository.
func (s *stage) clone(source, dest string, t transfer) {
	s.c.note(t.here, "ADD %s is done by a run with git, which the image must have", value(source))
	remote, fragment, _ := strings.Cut(value(source), "#")
	ref, folder, _ := strings.Cut(fragment, ":")
	dest = strings.TrimSuffix(dest, "/")
	const place = "/dev/shm/repository"
	git := "git -C " + place + " "
	lines := []string{
		"git init -q " + place,
		git + "fetch -q --depth 1 " + quote(literal(remote)) + " " + quote(literal(cmp.Or(ref, "HEAD"))),
		git + "checkout -q FETCH_HEAD",
	}
	if t.hash != "" {
		lines = append(lines, "case $("+git+"rev-parse HEAD) in "+quote(t.hash)+"*) ;; *) exit 1 ;; esac")
	}
	if !t.keepGit {
		lines = append(lines, "rm -rf "+place+"/.git")
	}
	from := path.Join(place, folder)
	if t.chown != "" {
		lines = append(lines, quoteAll([]string{"chown", "-R", t.chown, from}))
	}
	s.running(append(lines, "mkdir -p "+quote(dest), "cp -a "+quote(from)+"/. "+quote(dest), "rm -rf "+place)...)
}

// inContext is a path of the build context as the stackerfile names it.
func (c *converter) inContext(file string) string {
	if value(file) != file {
		return strings.TrimSuffix(c.Context, "/") + "/" + file
	}
	return path.Join(c.Context, below(file))
}
