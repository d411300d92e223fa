package dockerfile

import (
	"fmt"
	"path"
	"regexp"
	"strconv"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
)

// A transfer is one COPY or ADD.
type transfer struct {
	at           int
	what         string // its name, for notes
	from         string // --from: "" for the build context
	chown, chmod string
	hash         string
	unpack       bool // archives are unpacked
}

func (s *stage) copy(c *instructions.CopyCommand) error {
	at := line(c.Location())
	if c.Parents || len(c.ExcludePatterns) > 0 {
		s.c.note(at, "--parents and --exclude of a COPY are left out")
	}
	return s.transfer(c.SourcesAndDest, transfer{at: at, what: "COPY", from: c.From, chown: c.Chown, chmod: c.Chmod})
}

func (s *stage) add(c *instructions.AddCommand) error {
	at := line(c.Location())
	if len(c.ExcludePatterns) > 0 {
		s.c.note(at, "--exclude of an ADD is left out")
	}
	return s.transfer(c.SourcesAndDest, transfer{
		at: at, what: "ADD", chown: c.Chown, chmod: c.Chmod,
		hash:   strings.TrimPrefix(c.Checksum, "sha256:"),
		unpack: c.Unpack == nil || *c.Unpack,
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
		if err := s.transferOne(source, dest, t); err != nil {
			return err
		}
	}
	for _, content := range c.SourceContents {
		s.write(content, dest, t)
	}
	return nil
}

var archive = regexp.MustCompile(`\.(tar|tar\.(gz|bz2|xz)|tgz|tbz2|txz)$`)

// transferOne makes an import of one source.
func (s *stage) transferOne(source, dest string, t transfer) error {
	isURL := strings.HasPrefix(source, "http://") || strings.HasPrefix(source, "https://")
	switch {
	case strings.ContainsAny(source, "*?["):
		s.c.note(t.at, "%s %s is left out: an import names one file or folder", t.what, source)
		return nil
	case strings.HasPrefix(source, "git@") || isURL && strings.HasSuffix(strings.SplitN(source, "#", 2)[0], ".git"):
		s.c.note(t.at, "%s %s is left out: a stackerfile imports no git repositories", t.what, source)
		return nil
	case t.unpack && t.what == "ADD" && !isURL && archive.MatchString(source):
		return s.unpack(source, dest, t)
	}
	var i mapping
	target := dest
	switch {
	case t.from != "":
		i.put("path", "stacker://"+s.c.layerFor(t)+path.Join("/", source))
		if strings.HasSuffix(dest, "/") {
			target = path.Join(dest, path.Base(source))
			if strings.HasSuffix(source, "/") || path.Clean("/"+source) == "/" {
				target = strings.TrimSuffix(dest, "/")
			} else {
				s.c.note(t.at, "%s is taken to be a file: if it is a folder, its content belongs in %s", source, dest)
			}
		}
	case isURL:
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

// local is a path of the build context, and whether it is a folder.
func (s *stage) local(source string, t transfer) (file string, folder bool) {
	file = strings.TrimPrefix(path.Join("/", source), "/")
	if file == "" {
		file = "."
	}
	folder, err := s.c.IsDir(file)
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

// unpack imports an archive for the run to see, which unpacks it.
func (s *stage) unpack(source, dest string, t transfer) error {
	file, folder := s.local(source, t)
	if folder {
		return fmt.Errorf("%s is a folder", source)
	}
	s.layer.imports = append(s.layer.imports, mapping{{"path", s.c.inContext(file)}})
	s.running("mkdir -p "+quote(dest), quoteAll([]string{"tar", unpackFlags(source), "/stacker/imports/" + path.Base(file), "-C", dest}))
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
func (c *converter) layerFor(t transfer) string {
	name := t.from
	if n, err := strconv.Atoi(name); err == nil && n < len(c.stageNames) {
		name = c.stageNames[n]
	}
	base := baseOf(c, name)
	if built := base.built(); built != "" {
		return built
	}
	layer := &layer{name: "from-" + strings.Trim(notInName.ReplaceAllString(name, "-"), "-"), from: base, buildOnly: true}
	c.layers = append(c.layers, layer)
	c.finals[name] = layer.name
	return layer.name
}
