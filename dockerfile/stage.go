package dockerfile

import (
	"cmp"
	"fmt"
	"maps"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
)

// A stage is one that is being converted.
type stage struct {
	c     *converter
	name  string
	vars  variables
	layer *layer // the last of it
	count int    // how many layers it has
	dir   string // WORKDIR
	user  string
	shell []string
	env   []string  // lines that set what has been set so far
	known variables // what ENV has set

	standing string // the folder that the layer's run is in
}

// defaultPath is the PATH that an image most likely has.
const defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// notInFrom is what the name of a layer does not have that is made of an image.
var notInFrom = regexp.MustCompile(`[^A-Za-z0-9_.]+`)

// name is what the layer of a stage is called, the i-th of n.
func (c *converter) name(stage string, i, n int) string {
	switch {
	case stage != "":
		return c.free(stage)
	case i == n-1:
		return c.free(c.Name)
	}
	return c.free("stage-" + strconv.Itoa(i))
}

// free is a name that no other layer has.
func (c *converter) free(name string) string {
	for free, n := name, 2; ; free, n = fmt.Sprintf("%s-%d", name, n), n+1 {
		if !c.taken[free] {
			c.taken[free] = true
			return free
		}
	}
}

func (c *converter) stage(i, n int, from instructions.Stage) error {
	name := c.stageNames[i]
	s := &stage{c: c, name: name, vars: variables{"PATH": defaultPath}, known: variables{}, dir: "/", shell: []string{"/bin/sh", "-c"}}
	if err := s.from(from); err != nil {
		return err
	}
	c.stages[name] = s
	for _, command := range from.Commands {
		if err := s.command(command); err != nil {
			return fmt.Errorf("line %d: %w", line(command.Location()), err)
		}
	}
	s.layer.name = name
	s.layer.buildOnly = i < n-1
	c.finals[cmp.Or(from.Name, name)] = name
	return nil
}

// from begins the stage's first layer.
func (s *stage) from(from instructions.Stage) error {
	known := variables{}
	maps.Copy(known, platformArguments())
	maps.Copy(known, s.c.global)
	base, err := s.c.word(from.BaseName, known)
	if err != nil {
		return fmt.Errorf("line %d: %w", line(from.Location), err)
	}
	if meant := s.c.byDefault(base); meant != base && s.c.isStage(meant) {
		s.c.note(line(from.Location), "FROM %s is taken to be the stage %s, whatever the build says", from.BaseName, meant)
		base = meant
	}
	s.c.require(line(from.Location), base)
	s.begin(baseOf(s.c, base))
	if below := s.c.stages[s.layer.from.built()]; below != nil {
		s.dir, s.user, s.shell, s.env, s.known = below.dir, below.user, below.shell, slices.Clone(below.env), maps.Clone(below.known)
		maps.Copy(s.vars, s.known)
	}
	platform, err := s.c.word(from.Platform, known)
	if err != nil {
		return fmt.Errorf("line %d: %w", line(from.Location), err)
	}
	if platform == "" || platform == known["BUILDPLATFORM"] {
		return nil
	}
	os, arch, ok := strings.Cut(platform, "/")
	if !ok || strings.Contains(platform, "$") {
		s.c.note(line(from.Location), "--platform=%s is left out: this machine's is meant", from.Platform)
		return nil
	}
	s.layer.os, s.layer.arch = os, arch
	return nil
}

// byDefault is a text with the values that arguments have unless the build says
// otherwise.
func (c *converter) byDefault(text string) string {
	for _, arg := range slices.Backward(c.values) {
		text = strings.ReplaceAll(text, "${{"+arg.key+"}}", arg.value.(string))
	}
	return text
}

func (c *converter) isStage(name string) bool { return baseOf(c, name).built() != "" }

// require leaves out the empty values of arguments that a FROM cannot do without: who
// builds is asked for them.
func (c *converter) require(at int, base string) {
	c.values = slices.DeleteFunc(c.values, func(arg pair) bool {
		without := strings.ReplaceAll(base, "${{"+arg.key+"}}", "")
		needed := arg.value == "" && without != base && (without == "" || strings.HasPrefix(without, ":") || strings.ContainsAny(without[len(without)-1:], ":/@"))
		if needed {
			c.note(at, "%s has no default: the build needs --substitute %s=VALUE", strings.TrimPrefix(arg.key, "ARG_"), arg.key)
		}
		return needed
	})
}

// baseOf is what a FROM, or a --from, names: a stage before, or an image.
func baseOf(c *converter, name string) mapping {
	if strings.EqualFold(name, "scratch") {
		return mapping{{"type", "scratch"}}
	}
	for stage, layer := range c.finals {
		if strings.EqualFold(stage, name) {
			return mapping{{"type", "built"}, {"tag", layer}}
		}
	}
	return mapping{{"type", "docker"}, {"url", "docker://" + name}}
}

// begin begins a layer of the stage. Layers have their final names in the end.
func (s *stage) begin(from mapping) {
	l := &layer{from: from, buildOnly: true}
	if s.layer != nil {
		s.layer.name = s.c.free(fmt.Sprintf("%s-%d", s.name, s.count))
		l.os, l.arch, l.buildEnv = s.layer.os, s.layer.arch, slices.Clone(s.layer.buildEnv)
		l.from = mapping{{"type", "built"}, {"tag", s.layer.name}}
	}
	s.count++
	s.layer, s.standing = l, "/"
	s.c.layers = append(s.c.layers, l)
}

// importing is called before an import: what ran before must be in a layer below.
func (s *stage) importing() {
	if len(s.layer.run) > 0 || s.layer.closed {
		s.begin(nil)
	}
}

// running adds lines to the layer's run. The first that runs finds what was set
// before.
func (s *stage) running(lines ...string) {
	if s.layer.closed {
		s.begin(nil)
	}
	if len(s.layer.run) == 0 {
		s.layer.run = append(s.layer.run, s.env...)
	}
	if s.dir != s.standing {
		s.layer.run = append(s.layer.run, "mkdir -p "+quote(s.dir), "cd "+quote(s.dir))
		s.standing = s.dir
	}
	s.layer.run = append(s.layer.run, lines...)
}

// set changes what runs find, from here on.
func (s *stage) set(line string) {
	if len(s.layer.run) > 0 {
		s.layer.run = append(s.layer.run, line)
	}
}

func (s *stage) command(command instructions.Command) error {
	at := line(command.Location())
	if expandable, ok := command.(instructions.SupportsSingleWordExpansion); ok {
		if _, isArg := command.(*instructions.ArgCommand); !isArg {
			if err := expandable.Expand(func(word string) (string, error) { return s.c.word(word, s.vars) }); err != nil {
				return err
			}
		}
	}
	switch c := command.(type) {
	case *instructions.ArgCommand:
		s.c.arguments(c, s.vars, func(name, value string) { s.layer.buildEnv.put(name, value) })
	case *instructions.EnvCommand:
		if original := c.String(); strings.Contains(original, "$PATH") || strings.Contains(original, "${PATH") {
			if _, own := s.known["PATH"]; !own {
				s.c.note(at, "the base's PATH is taken to be %s", defaultPath)
			}
		}
		for _, e := range c.Env {
			s.vars[e.Key], s.known[e.Key] = e.Value, e.Value
			s.layer.environment.put(e.Key, e.Value)
			export := "export " + e.Key + "=" + quote(e.Value)
			s.set(export)
			s.env = append(s.env, export)
		}
	case *instructions.WorkdirCommand:
		s.dir = path.Clean(s.absolute(c.Path))
		s.layer.workingDir = s.dir
	case *instructions.UserCommand:
		s.user, s.layer.user = c.User, c.User
	case *instructions.ShellCommand:
		s.shell = c.Shell
	case *instructions.RunCommand:
		return s.run(c)
	case *instructions.CopyCommand:
		return s.copy(c)
	case *instructions.AddCommand:
		return s.add(c)
	case *instructions.LabelCommand:
		for _, l := range c.Labels {
			s.layer.labels.put(l.Key, l.Value)
		}
	case *instructions.MaintainerCommand:
		s.layer.annotations.put("org.opencontainers.image.authors", c.Maintainer)
	case *instructions.VolumeCommand:
		s.layer.volumes = append(s.layer.volumes, c.Volumes...)
	case *instructions.CmdCommand:
		s.layer.cmd = s.arguments(c.ShellDependantCmdLine)
	case *instructions.EntrypointCommand:
		s.layer.entrypoint = s.arguments(c.ShellDependantCmdLine)
	case *instructions.ExposeCommand:
		s.c.note(at, "EXPOSE %s is left out: a stackerfile has no directive for ports", strings.Join(c.Ports, " "))
	default:
		s.c.note(at, "%s is left out: a stackerfile has no directive for it", strings.ToUpper(command.Name()))
	}
	return nil
}

// absolute is a path of the image, from the WORKDIR on. A slash at the end is kept.
func (s *stage) absolute(p string) string {
	clean := path.Join("/", p)
	if !path.IsAbs(p) {
		clean = path.Join(s.dir, p)
	}
	if strings.HasSuffix(p, "/") || p == "." || strings.HasSuffix(p, "/.") {
		clean = strings.TrimSuffix(clean, "/") + "/"
	}
	return clean
}

// arguments are those of a command in exec form, or of the shell in shell form.
func (s *stage) arguments(c instructions.ShellDependantCmdLine) []string {
	if !c.PrependShell {
		return c.CmdLine
	}
	return append(append([]string{}, s.shell...), strings.Join(c.CmdLine, " "))
}

// run converts a RUN: each has a shell of its own, as in Docker.
func (s *stage) run(c *instructions.RunCommand) error {
	at := line(c.Location())
	if len(c.CmdLine) == 0 {
		return nil
	}
	mounts := instructions.GetMounts(c)
	offline := instructions.GetNetwork(c) == instructions.NetworkNone
	if len(mounts) > 0 || offline { // they are of a whole layer
		s.importing()
		defer func() { s.layer.closed = true }()
	}
	if offline {
		s.layer.network = "none"
	}
	for _, mount := range mounts {
		if unmount := s.mount(at, mount); unmount != "" {
			defer func() { s.layer.run = append(s.layer.run, unmount) }()
		}
	}
	words := s.arguments(c.ShellDependantCmdLine)
	if c.PrependShell && len(c.Files) > 0 {
		words = append(append([]string{}, s.shell...), heredoc(c.CmdLine, c.Files))
	}
	if s.user != "" && s.user != "root" && s.user != "0" {
		words = as(s.user, words)
	}
	s.running(quoteAll(words))
	return nil
}

// heredoc is the script that a RUN with heredocs means: the content of the one
// that is all of the command, or the command with what it reads.
func heredoc(command []string, files []instructions.ShellInlineFile) string {
	text := strings.Join(command, " ")
	if len(files) == 1 && text == "<<"+files[0].Name {
		content := files[0].Data
		if interpreter, ok := strings.CutPrefix(content, "#!"); ok {
			first, rest, _ := strings.Cut(interpreter, "\n")
			return strings.TrimSpace(first) + " <<'" + files[0].Name + "'\n" + rest + files[0].Name + "\n"
		}
		return content
	}
	for _, f := range files {
		text += "\n" + f.Data + f.Name
	}
	return text + "\n"
}

var digits = regexp.MustCompile(`^[0-9]+$`)

// as has a command run by a user: by su, which wants a name, or by chroot, which
// takes numbers.
func as(user string, words []string) []string {
	name, _, hasGroup := strings.Cut(user, ":")
	if hasGroup || digits.MatchString(name) {
		return append([]string{"chroot", "--userspec=" + user, "--skip-chdir", "/"}, words...)
	}
	return []string{"su", "-p", "-s", "/bin/sh", name, "-c", quoteAll(words)}
}

// quote makes a word that a shell takes as it is, but for placeholders, which are
// replaced before.
func quote(word string) string {
	if word != "" && !strings.ContainsAny(word, " \t\n\"'`$&|;<>()*?[]#~=%{}\\!") {
		return word
	}
	return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
}

func quoteAll(words []string) string {
	quoted := make([]string, len(words))
	for i, word := range words {
		quoted[i] = quote(word)
	}
	return strings.Join(quoted, " ")
}
