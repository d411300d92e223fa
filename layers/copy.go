package layers

import (
	"path"
	"regexp"
	"strings"

	"gopkg.in/yaml.v3"
)

// importKinds are the fields of which an import has one: what it is, and which of the
// others it may have.
var importKinds = []struct {
	field  string
	others []string
}{
	{"path", []string{"hash", "dest", "mount", "mode", "uid", "gid", "owner", "normalize", "ignore"}},
	{"copy", []string{"from", "dest", "mount", "mode", "uid", "gid", "owner", "normalize", "exclude", "ignore_file", "parents"}},
	{"text", []string{"dest", "mode", "uid", "gid", "owner"}},
	{"folder", []string{"mode", "uid", "gid", "owner"}},
}

// importKind finds out what an import is, and returns what it is read from: nothing for a
// text or a folder, or after a fault.
func (p *parser) importKind(i *Import, n *yaml.Node, fields map[string]*yaml.Node) (source *yaml.Node) {
	kind := -1
	for k, of := range importKinds {
		switch {
		case fields[of.field] == nil:
		case kind >= 0:
			p.fail(n, "the import has %s and %s: leave out one", importKinds[kind].field, of.field)
		default:
			kind = k
		}
	}
	if kind < 0 {
		p.fail(n, "the import has no path: name a file, folder or URL")
		return nil
	}
	of := importKinds[kind]
	allowed := strings.Join(append([]string{of.field}, of.others...), " ") + " "
	for name, v := range fields {
		if _, other := p.kindOf(name); !other && !strings.Contains(allowed, name+" ") {
			p.fail(v, "an import with %s has no %s: it can have %s", of.field, name, strings.Join(of.others, ", "))
		}
	}
	p.checkImport(i, n, fields, of.field)
	switch of.field {
	case "path":
		return fields["path"]
	case "copy":
		p.copyFields(i, fields)
		return fields["copy"]
	}
	return nil
}

// kindOf reports whether a field says what an import is.
func (p *parser) kindOf(field string) (kind int, is bool) {
	for k, of := range importKinds {
		if of.field == field {
			return k, true
		}
	}
	return 0, false
}

func (p *parser) checkImport(i *Import, n *yaml.Node, fields map[string]*yaml.Node, kind string) {
	switch {
	case i.Dest != "" && i.Mount != "":
		p.fail(n, "the import has dest and mount: leave out one")
	case kind != "path" && i.Dest == "" && i.Mount == "":
		p.fail(n, "the import has no dest: say where in the image it goes")
	case i.Owner != "" && (i.UID != nil || i.GID != nil):
		p.fail(fields["owner"], "the import has owner beside uid or gid: leave out one")
	case i.Legacy && i.Mount != "":
		p.fail(n, "mount is for imports, not for import")
	}
}

// copyFields reads what an import with copy has.
func (p *parser) copyFields(i *Import, fields map[string]*yaml.Node) {
	c := &Copy{}
	for _, item := range items(fields["copy"]) {
		pattern := p.nonEmpty(item, "copy")
		if _, err := path.Match(pattern, ""); err != nil {
			p.fail(item, "copy %s is no pattern: close its [", quote(pattern))
		}
		c.Patterns = append(c.Patterns, pattern)
	}
	i.Source = Source{Raw: ".", Path: p.file.Dir}
	if v := fields["from"]; v != nil {
		i.Source, _ = p.source(v, "from")
		if i.Source.Scheme == SchemeHTTP || i.Source.Scheme == SchemeHTTPS {
			p.fail(v, "from %s is a URL: name a folder, or a layer by stacker://LAYER/", quote(i.Source.Raw))
		}
	}
	if v := fields["exclude"]; v != nil {
		c.Exclude = p.texts(v, "exclude")
	}
	if v := fields["ignore_file"]; v != nil {
		c.IgnoreFile = p.absolute(p.localPath(v, "ignore_file"))
	}
	if v := fields["parents"]; v != nil {
		c.Parents = p.truth(v, "parents")
	}
	if i.Mount != "" && (len(c.Patterns) != 1 || strings.ContainsAny(c.Patterns[0], "*?[")) {
		p.fail(fields["copy"], "what is seen at mount is one file or folder: name it without wildcards")
	}
	i.Copy = c
}

// ownerText is USER or USER:GROUP.
var ownerText = regexp.MustCompile(`^[^:\s]+(:[^:\s]+)?$`)

// IsOwner reports whether a text may name a user, or a user and a group.
func IsOwner(text string) bool { return ownerText.MatchString(text) }

func (p *parser) owner(n *yaml.Node, what string) string {
	text := p.nonEmpty(n, what)
	if text != "" && !ownerText.MatchString(text) {
		p.wrong(n, what, "USER or USER:GROUP, each a name or a number")
	}
	return text
}
