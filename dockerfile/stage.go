package dockerfile

import (
	"cmp"
	"fmt"
	"maps"
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
)

// A stage is one that is being converted. Its texts are those of word.go.
type stage struct {
	c     *converter
	index int
	name  string // of its last layer
	vars  variables
	layer *layer // the last of it
	count int    // how many layers it has
	dir   string // WORKDIR
	made  bool   // dir is there
	user  string
	shell []string
	image config // what the image says

	onBuild  []string // triggers for stages that are built on it
	standing string   // the folder that the layer's run is in
}

// defaultPath is the PATH of an image that has none.
const defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// notInName is what the name of a layer does not have that is made of something else's.
var notInName = regexp.MustCompile(`[^A-Za-z0-9_.]+`)

// stage converts the i-th stage.
func (c *converter) stage(i int, from instructions.Stage) error {
	s := &stage{c: c, index: i, name: c.names[i], vars: variables{}, dir: "/", made: true, shell: []string{"/bin/sh", "-c"}}
	triggers, err := s.from(from)
	if err != nil {
		return at(line(from.Location), err)
	}
	for _, text := range triggers {
		trigger, err := parseTrigger(text)
		if err != nil {
			return at(line(from.Location), fmt.Errorf("ONBUILD of its base, %s: %w", text, err))
		}
		maps.Copy(c.flags, trigger.flags)
		for _, command := range trigger.stages[0].Commands {
			if err := s.command(command, line(from.Location)); err != nil {
				return at(line(from.Location), err)
			}
		}
	}
	for _, command := range from.Commands {
		if err := s.command(command, line(command.Location())); err != nil {
			return at(line(command.Location()), err)
		}
	}
	s.end(i == len(c.stages)-1)
	c.finals[strings.ToLower(cmp.Or(from.Name, s.name))] = s
	return nil
}

// from begins the stage's first layer, and returns the triggers of its base.
func (s *stage) from(from instructions.Stage) (triggers []string, err error) {
	base, err := s.c.words.word(from.BaseName, s.c.global)
	if err != nil {
		return nil, err
	}
	here := line(from.Location)
	s.begin(mapping{{"type", "scratch"}})
	s.c.noteFixed(here)
	if n, ok := s.c.stageNamed(value(base), s.index); ok {
		if value(base) != base {
			s.c.note(here, "FROM %s is taken to be the stage %s, whatever the build says", from.BaseName, value(base))
		}
		triggers = s.fromStage(s.c.finals[strings.ToLower(cmp.Or(s.c.stages[n].Name, s.c.names[n]))])
		return triggers, s.platform(from)
	}
	if err := s.platform(from); err != nil {
		return nil, err
	}
	if strings.EqualFold(value(base), "scratch") {
		s.vars["PATH"] = variable{text: defaultPath, set: true}
		return nil, nil
	}
	s.layer.from = image(s.c.require(here, base))
	return s.fromImage(here, value(base)), nil
}

// fromStage takes over what the stage below hands on.
func (s *stage) fromStage(below *stage) (triggers []string) {
	s.layer.from = mapping{{"type", "built"}, {"tag", below.name}}
	s.layer.os, s.layer.arch = below.layer.os, below.layer.arch
	s.vars, s.dir, s.user, s.shell = maps.Clone(below.vars), below.dir, below.user, below.shell
	return below.onBuild
}

// fromImage takes over what is known of an image.
func (s *stage) fromImage(here int, reference string) (triggers []string) {
	s.vars["PATH"] = variable{text: defaultPath, set: true}
	known, err := s.c.Image(reference, s.layer.os, s.layer.arch)
	if err != nil {
		s.c.note(here, "%s cannot be looked at (%v): its environment reaches the RUNs when they are built; if it has a USER, WORKDIR, SHELL "+
			"or ONBUILD, or this Dockerfile uses variables of it, say them here, or convert again where it can be had", reference, err)
		return nil
	}
	for _, entry := range known.Env {
		name, text, _ := strings.Cut(entry, "=")
		s.vars[name] = variable{text: literal(text), set: true}
	}
	s.dir, s.user = cmp.Or(literal(known.WorkingDir), "/"), literal(known.User)
	if len(known.Shell) > 0 {
		s.shell = literals(known.Shell)
	}
	return known.OnBuild
}

// platform notes which one the stage is for, if that is not this machine's.
func (s *stage) platform(from instructions.Stage) error {
	text, err := s.c.words.word(from.Platform, s.c.global)
	if err != nil {
		return err
	}
	s.c.noteFixed(line(from.Location))
	platform := value(text)
	if platform == "" || platform == thisOS+"/"+thisArch {
		return nil
	}
	parts := strings.Split(platform, "/")
	if len(parts) < 2 {
		s.c.note(line(from.Location), "--platform=%s is left out: this machine's is meant", from.Platform)
		return nil
	}
	arch := parts[1]
	if len(parts) > 2 && platform != "linux/arm64/v8" {
		arch += "/" + parts[2]
	}
	if text != literal(platform) {
		s.c.note(line(from.Location), "--platform=%s is taken as its ARGs' defaults make it", from.Platform)
	}
	s.layer.os, s.layer.arch = parts[0], arch
	return nil
}

// require leaves out the empty defaults of arguments that a FROM cannot do without: the
// build is to give them.
func (c *converter) require(here int, base string) string {
	var out strings.Builder
	eachPart(base, func(part string, isPlaceholder bool) {
		name, def, _ := cutPlaceholder(part)
		before := out.String()
		needed := before == "" || strings.ContainsAny(before[len(before)-1:], ":/@")
		if isPlaceholder && def == "" && needed {
			c.note(here, "%s has no default: the build needs --substitute %s=VALUE", strings.TrimPrefix(name, "ARG_"), name)
			c.values = slices.DeleteFunc(c.values, func(p pair) bool { return p.key == name })
			part = "${{" + name + "}}"
		}
		out.WriteString(part)
	})
	return out.String()
}

// begin begins a layer of the stage. Layers have their final names in the end.
func (s *stage) begin(from mapping) {
	l := &layer{from: from, buildOnly: true}
	if s.layer != nil {
		s.layer.name = s.c.free(fmt.Sprintf("%s-%d", s.name, s.count))
		l.os, l.arch = s.layer.os, s.layer.arch
		l.from = mapping{{"type", "built"}, {"tag", s.layer.name}}
	}
	s.count++
	s.layer, s.standing = l, "/"
	s.c.layers, s.c.current = append(s.c.layers, l), l
}

// end gives the last layer what the image says.
func (s *stage) end(last bool) {
	s.enter()
	s.layer.name, s.layer.buildOnly = s.name, !last
	s.layer.image = s.image
	s.c.current = nil
}

// importing is called before an import: what ran before must be in a layer below.
func (s *stage) importing() {
	if len(s.layer.run) > 0 || s.layer.closed {
		s.begin(nil)
	}
}

// enter has the WORKDIR made.
func (s *stage) enter() {
	if s.made {
		return
	}
	s.made = true
	if len(s.layer.run) > 0 && !s.layer.closed && isRoot(s.user) && s.layer.buildUser == "" {
		s.layer.run = append(s.layer.run, "mkdir -p "+quote(s.dir))
		return
	}
	s.importing()
	folder := mapping{{"folder", s.dir}}
	if !isRoot(s.user) {
		folder.put("owner", s.user)
	}
	s.layer.imports = append(s.layer.imports, folder)
}

// isRoot reports whether a USER is root.
func isRoot(user string) bool {
	name, _, _ := strings.Cut(value(user), ":")
	return name == "" || name == "root" || name == "0"
}

// running adds lines to the run of a layer with the environment and user that are now.
func (s *stage) running(lines ...string) {
	s.enter()
	user := s.user
	if isRoot(user) {
		user = ""
	}
	if len(s.layer.run) > 0 && (s.layer.buildUser != user || !slices.Equal(s.layer.buildEnv, s.environment())) || s.layer.closed {
		s.begin(nil)
	}
	s.layer.buildUser, s.layer.buildEnv = user, s.environment()
	if s.dir != s.standing {
		s.layer.run = append(s.layer.run, "cd "+quote(s.dir))
		s.standing = s.dir
	}
	s.layer.run = append(s.layer.run, lines...)
}

// environment returns the variables that the layer's run does not have of its base.
func (s *stage) environment() (env mapping) {
	for _, name := range slices.Sorted(maps.Keys(s.vars)) {
		v := s.vars[name]
		_, own := s.layer.environment.get(name)
		if (v.arg || own) && !isProxy(name, v) {
			env = append(env, pair{name, v.text})
		}
	}
	return env
}

// isProxy reports whether an argument is about the way to the network: without a default,
// what the build's own environment says of it passes.
func isProxy(name string, v variable) bool {
	return !v.set && slices.Contains([]string{"http_proxy", "https_proxy", "ftp_proxy", "no_proxy", "all_proxy"}, strings.ToLower(name))
}

// absolute is a path of the image, from the WORKDIR on. A slash at the end is kept. What
// climbs is resolved with the values that arguments have by default.
func (s *stage) absolute(text string) string {
	folder := strings.HasSuffix(value(text), "/") || value(text) == "." || strings.HasSuffix(value(text), "/.")
	if !path.IsAbs(value(text)) {
		text = strings.TrimSuffix(s.dir, "/") + "/" + text
	}
	if v := value(text); v == text || strings.Contains(v, "..") {
		text = path.Clean(v)
	}
	if folder && !strings.HasSuffix(value(text), "/") {
		text += "/"
	}
	return text
}

// arguments are those of a command in exec form, or of the shell in shell form.
func (s *stage) arguments(c instructions.ShellDependantCmdLine) []string {
	if !c.PrependShell {
		return literals(c.CmdLine)
	}
	return append(slices.Clone(s.shell), literal(strings.Join(c.CmdLine, " ")))
}

func literals(words []string) []string {
	out := make([]string, 0, len(words))
	for _, word := range words {
		out = append(out, literal(word))
	}
	return out
}
