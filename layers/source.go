package layers

import (
	"net/url"
	"path"
	"path/filepath"
	"strings"

	"gopkg.in/yaml.v3"
)

// base reads from. Fields that mean nothing for its type are ignored, as stacker
// documents.
func (p *parser) base(l *Layer, n *yaml.Node) {
	l.From.Pos = p.position(n)
	fields := p.fields(n, "from", "type", "url", "tag", "insecure")
	if n.Kind != yaml.MappingNode {
		return
	}
	if v := fields["insecure"]; v != nil {
		l.From.Insecure = p.truth(v, "insecure")
	}
	types := []string{BaseDocker, BaseOCI, BaseTar, BaseScratch, BaseBuilt}
	kind := fields["type"]
	if kind == nil {
		p.fail(n, "from has no type: it can be %s", strings.Join(types, ", "))
		return
	}
	l.From.Type = p.nonEmpty(kind, "type")
	switch l.From.Type {
	case "":
	case BaseScratch:
	case BaseBuilt:
		if v := p.required(&l.From, n, fields, "tag", "the name of a layer"); v != nil {
			l.From.Tag = p.nonEmpty(v, "tag")
		}
	case BaseDocker:
		if v := p.required(&l.From, n, fields, "url", "docker://host/repository:tag"); v != nil {
			p.dockerURL(&l.From, v)
		}
	case BaseOCI:
		if v := p.required(&l.From, n, fields, "url", "folder:tag of an OCI layout"); v != nil {
			p.layoutURL(&l.From, v)
		}
	case BaseTar:
		if v := p.required(&l.From, n, fields, "url", "a tar file"); v != nil {
			p.tarURL(&l.From, v)
		}
	default:
		if hint := DidYouMean(l.From.Type, types); hint != "" {
			p.fail(kind, "unknown base type %s%s", quote(l.From.Type), hint)
		} else {
			p.fail(kind, "unknown base type %s: it can be %s", quote(l.From.Type), strings.Join(types, ", "))
		}
	}
}

// required returns the field that a base of this type cannot do without.
func (p *parser) required(b *Base, n *yaml.Node, fields map[string]*yaml.Node, name, example string) *yaml.Node {
	v := fields[name]
	if v == nil {
		p.fail(n, "from has no %s, which type %s needs: give %s", name, b.Type, example)
		return nil
	}
	b.Pos = p.position(v)
	return v
}

// dockerURL parses an image in a registry, or what stacker takes in its place: the other
// transports of skopeo, of which those to files are bases of type oci.
func (p *parser) dockerURL(b *Base, n *yaml.Node) {
	b.URL = p.nonEmpty(n, "url")
	transport, rest, _ := strings.Cut(b.URL, ":")
	switch transport {
	case "":
	case "oci", archiveOCI, archiveDocker:
		b.Type = BaseOCI
		p.layoutURL(b, n)
	case "docker-daemon", "containers-storage", "dir":
		p.fail(n, "url %s is for a program that layerbuild does not use: run `skopeo copy %s oci:FOLDER:TAG`, and write type: oci and url: FOLDER:TAG",
			quote(b.URL), b.URL)
	default:
		if !strings.HasPrefix(b.URL, "docker://") || rest == "//" {
			p.fail(n, "url %s is no image: write docker://host/repository:tag", quote(b.URL))
		}
	}
}

// The transports to archives, tar files that are read as OCI layouts are.
const (
	archiveOCI    = "oci-archive"
	archiveDocker = "docker-archive"
)

// layoutURL parses path:tag, oci:path:tag, and path or path:tag of an archive. In oci:tag
// the layout is the folder oci.
func (p *parser) layoutURL(b *Base, n *yaml.Node) {
	text := p.nonEmpty(n, "url")
	transport, rest, _ := strings.Cut(text, ":")
	isArchive := (transport == archiveOCI || transport == archiveDocker) && rest != ""
	if isArchive || transport == "oci" && strings.Contains(rest, ":") {
		text = rest
	}
	colon := strings.IndexByte(text, ':') // a tag may have more, as skopeo has it
	if isArchive && colon < 0 {
		colon, text = len(text), text+":" // its only image
	}
	switch {
	case text == "":
		return
	case strings.Contains(text, "://"):
		p.fail(n, "url %s is no folder: write folder:tag of an OCI layout on this machine", quote(n.Value))
		return
	case colon <= 0 || colon == len(text)-1 && !isArchive:
		p.fail(n, "url %s names no tag: write folder:tag of an OCI layout", quote(n.Value))
		return
	}
	b.URL, b.Tag = text[:colon], text[colon+1:]
	b.Source = Source{Raw: b.URL, Path: p.absolute(b.URL)}
}

func (p *parser) tarURL(b *Base, n *yaml.Node) {
	var ok bool
	if b.Source, ok = p.source(n, "url"); !ok {
		return
	}
	b.URL = b.Source.Raw
	if b.Source.base() == "" || b.Source.Content {
		p.fail(n, "url %s names no file: name a tar file", quote(b.URL))
	}
}

// source reads a path, an http(s) URL or a stacker:// path.
func (p *parser) source(n *yaml.Node, what string) (Source, bool) {
	raw := p.nonEmpty(n, what)
	if raw == "" {
		return Source{}, false
	}
	scheme, rest, isURL := strings.Cut(raw, "://")
	if !isURL {
		return Source{Raw: raw, Path: p.absolute(raw), Content: strings.HasSuffix(raw, "/")}, true
	}
	switch scheme {
	case SchemeHTTP, SchemeHTTPS:
		if u, err := url.Parse(raw); err != nil || u.Host == "" {
			p.fail(n, "%s is no URL: write %s://host/file", quote(raw), scheme)
			return Source{}, false
		}
		return Source{Raw: raw, Scheme: scheme}, true
	case SchemeStacker:
		return p.stackerSource(n, raw, rest)
	}
	p.fail(n, "unknown scheme in %s: write a path, or a URL that begins with http://, https:// or stacker://", quote(raw))
	return Source{}, false
}

func (p *parser) stackerSource(n *yaml.Node, raw, rest string) (Source, bool) {
	layer, file, ok := strings.Cut(rest, "/")
	switch {
	case layer == "" || !ok:
		p.fail(n, "%s names no file: write stacker://layer/path", quote(raw))
		return Source{}, false
	case climbs(file):
		p.fail(n, "%s climbs out of the layer: write a path without ..", quote(raw))
		return Source{}, false
	}
	return Source{
		Raw:     raw,
		Scheme:  SchemeStacker,
		Path:    path.Join("/", file),
		Layer:   layer,
		Content: strings.HasSuffix(raw, "/"),
	}, true
}

// base is the last element of the source's path, without an http(s) query; "" when
// there is none.
func (s Source) base() string {
	name := s.Path
	if s.Scheme == SchemeHTTP || s.Scheme == SchemeHTTPS {
		_, name, _ = strings.Cut(s.Raw, "://")
		if end := strings.IndexAny(name, "?#"); end >= 0 {
			name = name[:end]
		}
		_, name, _ = strings.Cut(name, "/")
		name = name[strings.LastIndexByte(name, '/')+1:]
	} else {
		name = filepath.Base(name)
	}
	if name == "/" || name == "." || name == ".." {
		return ""
	}
	return name
}

// same tells whether two sources are one, however they are written.
func (s Source) same(other Source) bool {
	if s.Scheme == SchemeHTTP || s.Scheme == SchemeHTTPS {
		return s.Raw == other.Raw
	}
	s.Raw = other.Raw
	return s == other
}

// climbs tells whether a slash-separated path has a .. element.
func climbs(file string) bool {
	for element := range strings.SplitSeq(file, "/") {
		if element == ".." {
			return true
		}
	}
	return false
}

// localPath reads a path of this machine.
func (p *parser) localPath(n *yaml.Node, what string) string {
	raw := p.nonEmpty(n, what)
	if strings.Contains(raw, "://") {
		p.fail(n, "%s %s is no path of this machine: name a file or folder", what, quote(raw))
	}
	return raw
}

// dest reads an absolute path in an image. A trailing slash is kept.
func (p *parser) dest(n *yaml.Node) string { return p.seen(n, p.destText(n, p.nonEmpty(n, "dest"))) }

// seen refuses a dest that no run would see.
func (p *parser) seen(n *yaml.Node, dest string) string {
	if dest != "" && OfEachRun(dest) {
		p.fail(n, ofEachRunText, "dest", quote(dest))
	}
	return dest
}

// bindDest returns a dest of a bind. Unlike files of an image, a bind is seen below /dev,
// /proc and /sys, but cannot take their places, nor that of imports.
func (p *parser) bindDest(n *yaml.Node, text string) string {
	dest := folder(p.destText(n, text))
	if dest == "/stacker" || strings.HasPrefix(dest, "/stacker/") || path.Dir(dest) == "/" && dest != "/" && OfEachRun(dest) {
		p.fail(n, ofEachRunText, "dest", quote(dest))
	}
	return dest
}

func (p *parser) destText(n *yaml.Node, text string) string {
	switch {
	case text == "":
		return ""
	case !path.IsAbs(text):
		p.fail(n, "dest %s must be absolute: write %s", quote(text), quote("/"+text))
		return ""
	case climbs(text):
		p.fail(n, "dest %s climbs: write a path without ..", quote(text))
		return ""
	}
	clean := path.Clean(text)
	if strings.HasSuffix(text, "/") && clean != "/" {
		clean += "/"
	}
	return clean
}

// folder is a dest that can only be a folder: a trailing slash says nothing more.
func folder(dest string) string {
	if dest == "/" {
		return dest
	}
	return strings.TrimSuffix(dest, "/")
}
