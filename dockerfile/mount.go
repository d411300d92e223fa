package dockerfile

import (
	"cmp"
	"fmt"
	"path"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"

	"github.com/layerbuild/layerbuild/layers"
)

// mount makes of the i-th --mount of a RUN what its layer has for it.
func (s *stage) mount(here, i int, m *instructions.Mount) {
	target := strings.TrimSuffix(s.absolute(m.Target), "/")
	if m.Type != instructions.MountTypeSecret && (target == "" || layers.OfEachRun(target)) {
		s.c.note(here, "--mount=type=%s is left out: nothing can be mounted on %s, which is layerbuild's own in each run", m.Type, cmp.Or(target, "/"))
		return
	}
	switch m.Type {
	case instructions.MountTypeBind:
		s.bind(here, i, m, target)
	case instructions.MountTypeCache:
		s.cache(here, m, target)
	case instructions.MountTypeSecret:
		s.secret(here, m)
	case instructions.MountTypeTmpfs:
		s.layer.tmpfs = append(s.layer.tmpfs, target)
	default:
		s.c.note(here, "--mount=type=%s is left out: a stackerfile has nothing for it", m.Type)
	}
}

// bind shows a path of the build context or of another stage. What a RUN writes there is
// lost, so one that may write has a copy in memory.
func (s *stage) bind(here, i int, m *instructions.Mount, target string) {
	shown := mapping{{"copy", strings.TrimPrefix(path.Clean("/"+m.Source), "/")}}
	if shown[0].value == "" {
		shown[0].value = "."
	}
	s.source(&shown, m.From)
	if m.ReadOnly {
		s.layer.imports = append(s.layer.imports, append(shown, pair{"mount", target}))
		return
	}
	place := fmt.Sprintf("/run/bind-%d", i)
	s.layer.imports = append(s.layer.imports, append(shown, pair{"mount", place}))
	s.layer.tmpfs = append(s.layer.tmpfs, target)
	s.layer.prepare = append(s.layer.prepare, "cp -R "+place+"/. "+quote(target))
	s.c.note(here, "--mount=type=bind,target=%s,rw is a copy in memory, and must be of a folder", m.Target)
}

func (s *stage) cache(here int, m *instructions.Mount, target string) {
	cache := mapping{{"path", target}}
	if m.CacheID != "" {
		cache.put("id", m.CacheID)
	}
	if m.CacheSharing != "" && m.CacheSharing != instructions.MountSharingShared {
		cache.put("sharing", string(m.CacheSharing))
	}
	if m.From != "" || m.Source != "" || m.UID != nil || m.GID != nil || m.Mode != nil || m.ReadOnly {
		s.c.note(here, "--mount=type=cache,target=%s begins empty, is root's, and can be written to", m.Target)
	}
	s.layer.caches = append(s.layer.caches, cache)
}

func (s *stage) secret(here int, m *instructions.Mount) {
	id := cmp.Or(m.CacheID, m.Source)
	if id == "" && m.Target != "" {
		id = path.Base(m.Target)
	}
	secret := mapping{{"id", id}, {"required", m.Required}}
	if m.Target != "" {
		secret.put("target", s.absolute(m.Target))
	}
	if m.Env != nil {
		secret.put("env", cmp.Or(*m.Env, id))
	}
	if m.UID != nil || m.GID != nil || m.Mode != nil {
		s.c.note(here, "--mount=type=secret,id=%s is root's, mode 0400", id)
	}
	s.layer.secrets = append(s.layer.secrets, secret)
}
