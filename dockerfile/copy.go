package dockerfile

import (
	"fmt"
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
	at           int
	what         string // its name, for notes
	from         string // --from: "" for the build context
	chown, chmod string
	hash         string
	unpack       bool // archives of the build context are unpacked
	unpackURL    bool // those behind URLs, too
}

func (s *stage) copy(c *instructions.CopyCommand) error {
	return s.transfer(c.SourcesAndDest, transfer{
		at: line(c.Location()), what: "COPY", from: c.From, chown: c.Chown, chmod: c.Chmod,
	})
}

func (s *stage) add(c *instructions.AddCommand) error {
	return s.transfer(c.SourcesAndDest, transfer{
		at: line(c.Location()), what: "ADD", chown: c.Chown, chmod: c.Chmod,
		hash:   strings.TrimPrefix(c.Checksum, "sha256:"),
		unpack: c.Unpack == nil || *c.Unpack, unpackURL: c.Unpack != nil && *c.Unpack,
	})
}

func (s *stage) transfer(c instructions.SourcesAndDest, t transfer) error {
	dest := s.absolute(c.DestPath)
	if len(c.SourcePaths)+len(c.SourceContents) > 1 && !strings.HasSuffix(dest, "/") {
		dest += "/"
	}
	if len(c.SourcePaths) > 0 {
		s.importing()
	}
	for _, source := range c.SourcePaths {
		if err := s.transferAll(source, dest, t); err != nil {
			return err
		}
	}
	for _, content := range c.SourceContents {
		s.write(content, dest, t)
	}
	return nil
}

var archive = regexp.MustCompile(`\.(tar|tar\.(gz|bz2|xz)|tgz|tbz2|txz)$`)

// transferAll transfers what a source stands for: one that has wildcards, what
// matches it now.
func (s *stage) transferAll(source, dest string, t transfer) error {
	switch {
	case strings.HasPrefix(source, "git@") || layers.IsURL(source) && strings.HasSuffix(strings.SplitN(source, "#", 2)[0], ".git"):
		s.c.note(t.at, "%s %s is left out: a stackerfile imports no git repositories", t.what, source)
		return nil
	case layers.IsURL(source) || !strings.ContainsAny(source, "*?["):
		return s.transferOne(source, dest, t)
	case t.from != "":
		s.copyMatches(source, dest, t)
		return nil
	}
	found, err := s.c.files.glob(source)
	if err != nil {
		return err
	}
	if len(found) == 0 {
		s.c.note(t.at, "%s %s is left out: nothing in the build context matches it", t.what, source)
		return nil
	}
	s.c.note(t.at, "%s %s: an import names one file or folder, so it is what matches now: %s", t.what, source, strings.Join(found, ", "))
	if !strings.HasSuffix(dest, "/") && len(found) > 1 {
		dest += "/"
	}
	for _, file := range found {
		if err := s.transferOne(file, dest, t); err != nil {
			return err
		}
	}
	return nil
}

// transferOne makes an import of one source.
func (s *stage) transferOne(source, dest string, t transfer) error {
	if archive.MatchString(source) && (t.unpack && t.what == "ADD" && !layers.IsURL(source) || t.unpackURL) {
		return s.unpack(source, dest, t)
	}
	var i mapping
	target := dest
	switch {
	case t.from != "":
		i.put("path", "stacker://"+s.c.layerFor(t.from)+path.Join("/", source))
		if strings.HasSuffix(dest, "/") {
			target = path.Join(dest, path.Base(source))
			if strings.HasSuffix(source, "/") || path.Clean("/"+source) == "/" {
				target = strings.TrimSuffix(dest, "/")
			} else {
				s.c.note(t.at, "%s is taken to be a file: if it is a folder, its content belongs in %s", source, dest)
			}
		}
	case layers.IsURL(source):
		i.put("path", source)
		if t.chmod == "" {
			t.chmod = "600" // ADD's
		}
	default:
		file, folder := s.local(source, t)
		if folder {
			file, target = strings.TrimSuffix(file, "/")+"/", strings.TrimSuffix(dest, "/")
		} else if strings.HasSuffix(dest, "/") {
			target = path.Join(dest, path.Base(source))
		}
		i.put("path", s.c.inContext(file))
		if folder {
			patterns, lost := s.c.files.ignoreIn(file)
			for _, kept := range lost {
				s.c.note(t.at, "!%s of .dockerignore is left out: what is in a folder that is ignored cannot be kept", kept)
			}
			if len(patterns) > 0 {
				i.put("ignore", patterns)
			}
		}
	}
	if target == "" {
		target = "/"
	}
	if t.hash != "" {
		i.put("hash", t.hash)
	}
	i.put("dest", target)
	s.dress(&i, target, t)
	s.layer.imports = append(s.layer.imports, i)
	return nil
}

// copyMatches has a run copy what matches in another stage: only there the wildcards
// mean something.
func (s *stage) copyMatches(source, dest string, t transfer) {
	parts := split(source)
	wild := slices.IndexFunc(parts, func(part string) bool { return strings.ContainsAny(part, "*?[") })
	folder := path.Join("/", path.Join(parts[:wild]...))
	seen := "/stacker/imports"
	if folder != "/" {
		seen = path.Join(seen, path.Base(folder))
	}
	s.layer.imports = append(s.layer.imports, mapping{{"path", "stacker://" + s.c.layerFor(t.from) + folder}})
	copying := "cp -R " + seen + "/" + path.Join(parts[wild:]...) + " " + quote(dest)
	if t.chown == "" && t.chmod == "" {
		s.running("mkdir -p "+quote(dest), copying)
		return
	}
	// Elsewhere first, so that only these files change hands.
	s.running("mkdir -p "+quote(dest)+" /.copied", strings.TrimSuffix(copying, quote(dest))+"/.copied")
	if t.chmod != "" {
		s.running(quoteAll([]string{"chmod", "-R", t.chmod, "/.copied"}))
	}
	if t.chown != "" {
		s.running(quoteAll([]string{"chown", "-R", t.chown, "/.copied"}))
	}
	s.running("cp -a /.copied/. "+quote(dest), "rm -r /.copied")
}

// local is a path of the build context, and whether it is a folder.
func (s *stage) local(source string, t transfer) (file string, folder bool) {
	file = strings.TrimPrefix(path.Join("/", source), "/")
	if file == "" {
		file = "."
	}
	folder, err := s.c.files.isDir(s.c.byDefault(file))
	if err != nil {
		s.c.note(t.at, "%s %s: %v: it is taken to be a file", t.what, source, err)
	}
	return file, folder
}

// inContext is a path of the build context as the stackerfile names it.
func (c *converter) inContext(file string) string {
	joined := path.Join(c.Context, file)
	if strings.HasSuffix(file, "/") {
		joined += "/"
	}
	return joined
}

// dress gives an import its mode and owner. Names of users mean something in the
// image only, so that a run changes the owner.
func (s *stage) dress(i *mapping, target string, t transfer) {
	if t.chmod != "" {
		if _, err := strconv.ParseUint(t.chmod, 8, 16); err == nil {
			i.put("mode", "0"+strings.TrimLeft(t.chmod, "0"))
		} else {
			s.running(quoteAll([]string{"chmod", "-R", t.chmod, target}))
		}
	}
	if t.chown == "" {
		return
	}
	user, group, hasGroup := strings.Cut(t.chown, ":")
	if !hasGroup {
		group = user
	}
	if digits.MatchString(user) && digits.MatchString(group) {
		i.put("uid", user)
		i.put("gid", group)
		return
	}
	s.running(quoteAll([]string{"chown", "-R", t.chown, target}))
}

// unpack unpacks an archive: as the base of a stage that had none, or by a run that
// sees it as an import. Without a base there is no tar to do that: then it is the
// base of a layer to import from.
func (s *stage) unpack(source, dest string, t transfer) error {
	place := source
	if !layers.IsURL(source) {
		file, folder := s.local(source, t)
		if folder {
			return fmt.Errorf("%s is a folder", source)
		}
		place = s.c.inContext(file)
	}
	base := mapping{{"type", "tar"}, {"url", place}}
	scratch := s.layer.from[0].value == "scratch"
	switch {
	case scratch && t.hash != "":
		s.c.note(t.at, "--checksum of %s is left out: the base of a layer has no hash", source)
	case scratch && t.chown != "":
		s.c.note(t.at, "--chown of an archive is left out")
	}
	switch {
	case scratch && dest == "/" && len(s.layer.imports) == 0:
		s.layer.from = base
		return nil
	case scratch:
		l := &layer{name: s.c.free(s.name + "-" + notInFrom.ReplaceAllString(path.Base(source), "-")), from: base, buildOnly: true}
		s.c.layers = append(s.c.layers, l)
		s.layer.imports = append(s.layer.imports, mapping{{"path", "stacker://" + l.name + "/"}, {"dest", strings.TrimSuffix(dest, "/")}})
		s.c.note(t.at, "what %s holds is root's", source)
		return nil
	}
	imported := mapping{{"path", place}}
	if t.hash != "" {
		imported.put("hash", t.hash)
	}
	s.layer.imports = append(s.layer.imports, imported)
	s.running("mkdir -p "+quote(dest), quoteAll([]string{"tar", unpackFlags(source), "/stacker/imports/" + path.Base(source), "-C", dest}))
	if t.chown != "" {
		s.c.note(t.at, "--chown of an archive is left out")
	}
	return nil
}

// unpackFlags are those of tar: that of busybox does not look into an archive to
// see how it is compressed.
func unpackFlags(source string) string {
	switch strings.TrimPrefix(path.Ext(source), ".") {
	case "gz", "tgz":
		return "-xzf"
	case "bz2", "tbz2":
		return "-xjf"
	case "xz", "txz":
		return "-xJf"
	}
	return "-xf"
}

// write has a run write what stands in the Dockerfile.
func (s *stage) write(content instructions.SourceContent, dest string, t transfer) {
	target := dest
	if strings.HasSuffix(dest, "/") {
		target = path.Join(dest, content.Path)
	}
	end := "EOF"
	for strings.Contains(content.Data, end) {
		end += "_"
	}
	quoted := end
	if !content.Expand {
		quoted = "'" + end + "'"
	}
	s.running("mkdir -p "+quote(path.Dir(target)), "cat >"+quote(target)+" <<"+quoted+"\n"+content.Data+end)
	var i mapping
	s.dress(&i, target, t)
	for _, pair := range i {
		switch pair.key {
		case "mode":
			s.running("chmod " + pair.value.(string) + " " + quote(target))
		case "uid":
			s.running("chown " + t.chown + " " + quote(target))
		}
	}
}

// layerFor returns the layer that a --from names: that of a stage, or one made of
// an image.
func (c *converter) layerFor(name string) string {
	if n, err := strconv.Atoi(name); err == nil && n < len(c.stageNames) {
		name = c.stageNames[n]
	}
	base := baseOf(c, name)
	if built := base.built(); built != "" {
		return built
	}
	layer := &layer{name: c.free("from-" + strings.Trim(notInFrom.ReplaceAllString(name, "-"), "-")), from: base, buildOnly: true}
	c.layers = append(c.layers, layer)
	c.finals[name] = layer.name
	return layer.name
}
