package dockerfile

import (
	"cmp"
	"path"
	"slices"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
)

// mount makes of a --mount what a layer has for it, and returns the line that takes
// it away after the RUN.
func (s *stage) mount(at int, m *instructions.Mount) (unmount string) {
	target := path.Clean(s.absolute(m.Target))
	switch {
	case m.Type == instructions.MountTypeBind && m.From == "":
		s.bindContext(at, m, target)
	case m.Type == instructions.MountTypeBind:
		return s.bindStage(at, m, target)
	case m.Type == instructions.MountTypeCache:
		s.cache(at, m, target)
	case m.Type == instructions.MountTypeSecret:
		s.secret(at, m)
	case m.Type == instructions.MountTypeTmpfs:
		s.c.note(at, "--mount=type=tmpfs,target=%s is left out: what the RUN leaves there is in the image", m.Target)
	default:
		s.c.note(at, "--mount=type=%s is left out: a stackerfile has nothing for it", m.Type)
	}
	return ""
}

func (s *stage) cache(at int, m *instructions.Mount, target string) {
	cache := mapping{{"path", target}}
	if m.CacheID != "" {
		cache.put("id", m.CacheID)
	}
	if m.CacheSharing != "" && m.CacheSharing != instructions.MountSharingShared {
		cache.put("sharing", string(m.CacheSharing))
	}
	if m.From != "" || m.Source != "" || m.UID != nil || m.GID != nil || m.Mode != nil || m.ReadOnly {
		s.c.note(at, "--mount=type=cache,target=%s begins empty, is root's, and can be written to", m.Target)
	}
	s.layer.caches = append(s.layer.caches, cache)
}

func (s *stage) secret(at int, m *instructions.Mount) {
	id := cmp.Or(m.CacheID, m.Source)
	if id == "" && m.Target != "" {
		id = path.Base(m.Target)
	}
	secret := mapping{{"id", id}, {"required", m.Required}}
	if m.Target != "" {
		secret.put("target", path.Clean(s.absolute(m.Target)))
	}
	if m.Env != nil {
		secret.put("env", cmp.Or(*m.Env, id))
	}
	if m.UID != nil || m.GID != nil || m.Mode != nil {
		s.c.note(at, "--mount=type=secret,id=%s is root's, mode 0400", id)
	}
	s.layer.secrets = append(s.layer.secrets, secret)
}

// bindContext binds a path of the build context, read-only and watched.
func (s *stage) bindContext(at int, m *instructions.Mount, target string) {
	if !m.ReadOnly {
		s.c.note(at, "--mount=type=bind,target=%s is read-only", m.Target)
	}
	if len(s.c.files.ignore) > 0 {
		s.c.note(at, ".dockerignore does not count for --mount=type=bind,target=%s", m.Target)
	}
	source := path.Clean("/" + m.Source)[1:]
	s.layer.binds = append(s.layer.binds, mapping{{"source", s.c.inContext(source)}, {"dest", target}, {"track", true}})
}

// bindStage imports a path of another stage, and has a link at the target lead to it.
func (s *stage) bindStage(at int, m *instructions.Mount, target string) (unmount string) {
	source := path.Clean("/" + m.Source)
	imported := mapping{{"path", "stacker://" + s.c.layerFor(m.From) + source}}
	seen := path.Join("/stacker/imports", path.Base(source))
	if slices.ContainsFunc(s.layer.imports, func(other mapping) bool {
		return len(other) == 1 && path.Base(other[0].value.(string)) == path.Base(source)
	}) {
		s.c.note(at, "--mount=type=bind,from=%s,target=%s is left out: something else of this RUN is named %s", m.From, m.Target, path.Base(source))
		return ""
	}
	if !m.ReadOnly {
		s.c.note(at, "--mount=type=bind,from=%s,target=%s is read-only", m.From, m.Target)
	}
	s.layer.imports = append(s.layer.imports, imported)
	s.running("mkdir -p "+quote(path.Dir(target)), "rmdir "+quote(target)+" 2>/dev/null || true", "ln -s "+quote(seen)+" "+quote(target))
	return "rm " + quote(target)
}
