package layers

import (
	"path"
	"regexp"
	"slices"
	"strings"

	"gopkg.in/yaml.v3"
)

// secretsFolder is where the files of secrets are that have no target.
const secretsFolder = "/run/secrets"

var (
	secretID     = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]*$`)
	variableName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)
)

func (p *parser) secrets(l *Layer, n *yaml.Node) {
	for _, item := range items(n) {
		s := Secret{Pos: p.position(item)}
		id := item
		if item.Kind == yaml.MappingNode {
			id = p.secretFields(&s, item)
		}
		if id == nil {
			continue
		}
		if s.ID = p.nonEmpty(id, "a secret"); s.ID != "" && !isName(s.ID, secretID) {
			p.fail(id, "secret %s is no id: it has up to 128 letters, digits and any of _ . - and begins with a letter, a digit or _", quote(s.ID))
		}
		if s.Target == "" && s.Env == "" {
			s.Target = path.Join(secretsFolder, s.ID)
		}
		l.Secrets = append(l.Secrets, s)
	}
}

// secretFields reads all of a secret but its id, which it returns.
func (p *parser) secretFields(s *Secret, n *yaml.Node) (id *yaml.Node) {
	for name, v := range p.fields(n, "a secret", "id", "target", "env", "required") {
		switch name {
		case "id":
			id = v
		case "target":
			s.Target = p.mountPath(v, "target")
		case "env":
			if s.Env = p.text(v, "env"); s.Env != "" && !variableName.MatchString(s.Env) {
				p.fail(v, "env %s is no name of a variable: it has letters, digits and _, and does not begin with a digit", quote(s.Env))
			}
		case "required":
			s.Optional = !p.truth(v, "required")
		}
	}
	if id == nil {
		p.fail(n, "the secret has no id: give what --secret id=… calls it")
	}
	return id
}

func (p *parser) caches(l *Layer, n *yaml.Node) {
	for _, item := range items(n) {
		c := CacheMount{Pos: p.position(item), Sharing: SharingShared}
		place := item
		if item.Kind == yaml.MappingNode {
			place = p.cacheFields(&c, item)
		}
		if place == nil {
			continue
		}
		c.Path = p.mountPath(place, "path")
		if c.ID == "" {
			c.ID = c.Path
		}
		l.Caches = append(l.Caches, c)
	}
}

// cacheFields reads all of a cache but its path, which it returns.
func (p *parser) cacheFields(c *CacheMount, n *yaml.Node) (place *yaml.Node) {
	for name, v := range p.fields(n, "a cache", "path", "id", "sharing") {
		switch name {
		case "path":
			place = v
		case "id":
			c.ID = p.text(v, "id")
		case "sharing":
			c.Sharing = p.text(v, "sharing")
			if !slices.Contains([]string{SharingShared, SharingPrivate, SharingLocked}, c.Sharing) {
				p.wrong(v, "sharing", "shared, private or locked")
			}
		}
	}
	if place == nil {
		p.fail(n, "the cache has no path: name the folder that is kept between builds")
	}
	return place
}

// mountPath reads where in the rootfs something is mounted that each run sees anew.
func (p *parser) mountPath(n *yaml.Node, what string) string {
	text := p.nonEmpty(n, what)
	if text == "" {
		return ""
	}
	clean := path.Clean(text)
	switch {
	case !path.IsAbs(text):
		p.fail(n, "%s %s must be absolute: write %s", what, quote(text), quote("/"+text))
	case climbs(text):
		p.fail(n, "%s %s climbs: write a path without ..", what, quote(text))
	case clean == "/" || OfEachRun(clean):
		p.fail(n, ofEachRunText, what, quote(text))
	}
	return clean
}

// OfEachRun reports whether a clean absolute path is in a folder that each run has anew.
// What an image has there no run sees.
func OfEachRun(at string) bool {
	top, _, _ := strings.Cut(at[1:], "/")
	return slices.Contains([]string{"dev", "proc", "stacker", "sys"}, top)
}

const ofEachRunText = "%s %s is layerbuild's own in each run: choose another place"

// checkMounts refuses what would hide each other in a run, or has one name.
func (p *parser) checkMounts(l *Layer) {
	seen := map[string]Position{}
	once := func(what, name string, pos Position) {
		if name == "" {
			return
		}
		if first, ok := seen[what+name]; ok {
			p.errs.add(pos, l.Name, "the %s %s is given twice, first at line %d: remove one", what, quote(name), first.Line)
		}
		seen[what+name] = pos
	}
	for i, b := range l.Binds {
		at := slices.IndexFunc(l.Binds[:i], func(before Bind) bool { return before.Dest == b.Dest && (before.Track || b.Track) })
		if at >= 0 { // without track, the last bind at one place is seen
			p.errs.add(b.Pos, l.Name, "the bind at %s is given twice, first at line %d: remove one", quote(b.Dest), l.Binds[at].Pos.Line)
		}
		seen["mount at"+b.Dest] = b.Pos
	}
	for _, s := range l.Secrets {
		once("mount at", s.Target, s.Pos)
		once("variable", s.Env, s.Pos)
		if _, ok := l.BuildEnv[s.Env]; ok {
			p.errs.add(s.Pos, l.Name, "the variable %s is in build_env, too: remove one", quote(s.Env))
		}
	}
	for _, i := range l.Imports {
		once("mount at", i.Mount, i.Pos)
	}
	for _, dir := range l.Tmpfs {
		once("mount at", dir, l.Pos)
	}
	for _, c := range l.Caches {
		once("mount at", c.Path, c.Pos)
		once("cache", c.ID, c.Pos)
	}
}
