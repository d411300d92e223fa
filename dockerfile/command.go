package dockerfile

import (
	"cmp"
	"path"
	"strconv"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/parser"

	"github.com/layerbuild/layerbuild/layers"
)

// command converts one instruction, which stands at a line.
func (s *stage) command(command instructions.Command, here int) error {
	if err := s.expand(command); err != nil {
		return err
	}
	s.c.noteFixed(here)
	switch c := command.(type) {
	case *instructions.ArgCommand:
		return s.c.arguments(c, s.vars, s.c.global)
	case *instructions.EnvCommand:
		for _, e := range c.Env {
			name := value(e.Key)
			s.vars[name] = variable{text: e.Value, set: true}
			s.layer.environment.put(name, e.Value)
		}
	case *instructions.WorkdirCommand:
		s.dir, s.made = strings.TrimSuffix(s.absolute(c.Path), "/"), false
		s.dir = cmp.Or(s.dir, "/")
		s.image.workingDir = s.dir
	case *instructions.UserCommand:
		s.enter() // as the user before
		if !layers.IsOwner(value(c.User)) {
			s.c.note(here, "USER %s is left out: it is no USER or USER:GROUP", value(c.User))
			return nil
		}
		s.user, s.image.user = c.User, c.User
	case *instructions.ShellCommand:
		s.shell = literals(c.Shell)
		s.image.shell = s.shell
	case *instructions.RunCommand:
		return s.run(c, here)
	case *instructions.CopyCommand:
		return s.copy(c, here)
	case *instructions.AddCommand:
		return s.add(c, here)
	case *instructions.ExposeCommand:
		return s.expose(c)
	default:
		s.tell(command, here)
	}
	return nil
}

// expand replaces the variables of an instruction where docker does.
func (s *stage) expand(command instructions.Command) error {
	if c, ok := command.(instructions.SupportsSingleWordExpansion); ok {
		if _, isArg := command.(*instructions.ArgCommand); !isArg { // see arguments
			err := c.Expand(func(word string) (string, error) { return s.c.words.word(word, s.vars) })
			if run, isRun := command.(*instructions.RunCommand); isRun && err != nil { // a number may be meant
				err = run.Expand(func(word string) (string, error) {
					text, err := s.c.words.word(word, s.vars)
					return value(text), err
				})
			}
			if err != nil {
				return err
			}
		}
	}
	if c, ok := command.(instructions.SupportsSingleWordExpansionRaw); ok {
		return c.ExpandRaw(func(content string) (string, error) { return s.c.words.content(content, s.vars) })
	}
	return nil
}

// tell converts what the image says of itself.
func (s *stage) tell(command instructions.Command, here int) {
	image := &s.image
	switch c := command.(type) {
	case *instructions.LabelCommand:
		for _, l := range c.Labels {
			image.labels.put(value(l.Key), l.Value)
		}
	case *instructions.MaintainerCommand:
		image.annotations.put("org.opencontainers.image.authors", literal(c.Maintainer))
	case *instructions.VolumeCommand:
		image.volumes = append(image.volumes, c.Volumes...)
	case *instructions.CmdCommand:
		image.cmd = s.arguments(c.ShellDependantCmdLine)
	case *instructions.EntrypointCommand:
		image.entrypoint = s.arguments(c.ShellDependantCmdLine)
	case *instructions.StopSignalCommand:
		if !layers.IsSignal(value(c.Signal)) {
			s.c.note(here, "STOPSIGNAL %s is left out: it is no signal", value(c.Signal))
			return
		}
		image.stopSignal = c.Signal
	case *instructions.HealthCheckCommand:
		image.healthcheck = healthcheck(c)
	case *instructions.OnbuildCommand:
		s.onBuild = append(s.onBuild, c.Expression)
		image.onBuild = append(image.onBuild, literal(c.Expression))
	default:
		s.c.note(here, "%s is left out: a stackerfile has no directive for it", strings.ToUpper(command.Name()))
	}
}

// expose converts ports: each word may be several after its variables are replaced.
func (s *stage) expose(c *instructions.ExposeCommand) error {
	for _, port := range c.Ports {
		words, err := s.c.words.split(port, s.vars)
		if err != nil {
			return err
		}
		for _, word := range words {
			if i := strings.LastIndexByte(word, ':'); i >= 0 && !strings.Contains(word, "${{") {
				word = word[i+1:] // of the host, which docker ignores
			}
			if _, err := layers.Ports(value(word)); err != nil {
				s.c.note(line(c.Location()), "EXPOSE %s is left out: it is no port", value(word))
				continue
			}
			s.image.expose = append(s.image.expose, word)
		}
	}
	s.c.noteFixed(line(c.Location()))
	return nil
}

// healthcheck is the directive of a HEALTHCHECK: "none" or a mapping.
func healthcheck(c *instructions.HealthCheckCommand) any {
	h := c.Health
	if len(h.Test) > 0 && h.Test[0] == "NONE" {
		return "none"
	}
	var m mapping
	if len(h.Test) == 2 && h.Test[0] == "CMD-SHELL" {
		m.put("test", literal(h.Test[1]))
	} else {
		m.put("test", literals(h.Test))
	}
	for _, time := range []struct{ name, value string }{
		{"interval", h.Interval.String()}, {"timeout", h.Timeout.String()},
		{"start_period", h.StartPeriod.String()}, {"start_interval", h.StartInterval.String()},
	} {
		if time.value != "0s" {
			m.put(time.name, time.value)
		}
	}
	if h.Retries != 0 {
		m.put("retries", strconv.Itoa(h.Retries))
	}
	return m
}

// run converts a RUN: each has a shell of its own, as in Docker.
func (s *stage) run(c *instructions.RunCommand, here int) error {
	if len(c.CmdLine) == 0 {
		return nil
	}
	mounts := instructions.GetMounts(c)
	offline := instructions.GetNetwork(c) == instructions.NetworkNone
	s.c.current = s.layer
	for _, flag := range s.c.flags[c].none {
		s.c.note(here, "%s is left out: a step has the rights and devices of any other", flag)
	}
	own := len(mounts) > 0 || offline // they are of a whole layer
	if own {
		s.enter()
		if s.importing(); len(s.layer.imports) > 0 {
			s.begin(nil) // a mount may be where an import goes, and is not of the image
		}
	}
	if offline {
		s.layer.network = "none"
	}
	for i, mount := range mounts {
		s.mount(here, i, mount)
	}
	if value(mapText(s.layer.from, "type")) == "scratch" && len(s.layer.imports) == 0 {
		s.c.note(here, "a run needs a shell, which an image from scratch has not")
	}
	s.running(append(s.layer.prepare, s.script(c)...)...)
	s.layer.closed = own
	return nil
}

// script is what a RUN runs, as lines of a shell.
func (s *stage) script(c *instructions.RunCommand) []string {
	if !c.PrependShell || len(c.Files) == 0 {
		return []string{quoteAll(s.arguments(c.ShellDependantCmdLine))}
	}
	text := strings.Join(c.CmdLine, " ")
	file := c.Files[0]
	if parser.MustParseHeredoc(text) == nil { // the shell reads them
		for _, f := range c.Files {
			text += "\n" + f.Data + f.Name
		}
		return []string{quoteAll(append(append([]string{}, s.shell...), literal(text+"\n")))}
	}
	data := file.Data
	if file.Chomp {
		data = parser.ChompHeredocContent(data)
	}
	if !strings.HasPrefix(data, "#!") {
		return []string{quoteAll(append(append([]string{}, s.shell...), literal(data)))}
	}
	// A script of its own, in a place that is not of the image.
	place := path.Join("/dev/shm", path.Base(file.Name))
	interpreter, _, _ := strings.Cut(data[2:], "\n")
	program, argument, _ := strings.Cut(strings.TrimSpace(interpreter), " ")
	words := []string{literal(program)}
	if argument = strings.TrimSpace(argument); argument != "" {
		words = append(words, literal(argument))
	}
	end := "EOF"
	for strings.Contains(data, end) {
		end += "_"
	}
	return []string{"cat >" + quote(place) + " <<'" + end + "'\n" + literal(data) + end, quoteAll(append(words, place))}
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
