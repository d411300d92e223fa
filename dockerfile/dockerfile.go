// Package dockerfile turns Dockerfiles into stackerfiles. BuildKit's own parser
// reads them; what a stackerfile cannot say is told by line.
//
// A stage becomes a layer, or several, each built from the one before: the imports
// of a layer are there before its run, so that a COPY after a RUN begins another.
// An ARG becomes a build variable whose value is a substitution named ARG_ and its
// name: a substitution of the name itself would be refused where a shell uses it.
package dockerfile

import (
	"fmt"
	"io"
	"io/fs"
	"runtime"
	"slices"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/moby/buildkit/frontend/dockerfile/shell"
)

// Options say what is known beside the Dockerfile.
type Options struct {
	// Name is that of the layer that the last stage becomes, when it has none.
	Name string
	// File is the Dockerfile's name, which may have a .dockerignore of its own.
	File string
	// Files are those of the build context.
	Files fs.FS
	// Context is the build context's path from the stackerfile's folder.
	Context string
}

// A Note says what of a Dockerfile became something else, or nothing.
type Note struct {
	Line int
	Text string
}

// A Result is a stackerfile and the values of its substitutions, both YAML.
type Result struct {
	Stackerfile   []byte
	Substitutions []byte // nil when there are none
	Notes         []Note // by line
}

// Convert reads a Dockerfile. Its error is about text that is none.
func Convert(r io.Reader, o Options) (*Result, error) {
	parsed, err := parser.Parse(r)
	if err != nil {
		return nil, err
	}
	stages, metaArgs, err := instructions.Parse(parsed.AST, nil)
	if err != nil {
		return nil, err
	}
	c := &converter{
		Options:    o,
		files:      &context{files: o.Files},
		lex:        shell.NewLex(parsed.EscapeToken),
		global:     variables{},
		finals:     map[string]string{},
		stages:     map[string]*stage{},
		stageNames: make([]string, len(stages)),
		taken:      map[string]bool{"config": true}, // which is no layer
	}
	if err := c.files.readIgnore(o.File); err != nil {
		return nil, err
	}
	for _, arg := range metaArgs {
		c.arguments(&arg, c.global, nil)
	}
	for i, stage := range stages {
		c.stageNames[i] = c.name(stage.Name, i, len(stages))
	}
	for i, stage := range stages {
		if err := c.stage(i, len(stages), stage); err != nil {
			return nil, err
		}
	}
	return c.result()
}

// variables are those that a Dockerfile's words may use, by name: a value, or the
// placeholder of a substitution. It is a shell.EnvGetter.
type variables map[string]string

// Get is a method of shell.EnvGetter.
func (v variables) Get(name string) (string, bool) { value, ok := v[name]; return value, ok }

// Keys is a method of shell.EnvGetter.
func (v variables) Keys() []string {
	var names []string
	for name := range v {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

type converter struct {
	Options
	files      *context
	lex        *shell.Lex
	global     variables
	values     mapping // of substitutions, as they were defined: a value may use those before
	layers     []*layer
	finals     map[string]string // the last layer of a stage or image, by name
	stageNames []string
	taken      map[string]bool   // names of layers
	stages     map[string]*stage // by the layer they became
	notes      []Note
}

func (c *converter) note(line int, format string, args ...any) {
	c.notes = append(c.notes, Note{line, fmt.Sprintf(format, args...)})
}

func line(location []parser.Range) int {
	if len(location) == 0 {
		return 0
	}
	return location[0].Start.Line
}

// word expands variables as Docker does.
func (c *converter) word(text string, v variables) (string, error) {
	expanded, _, err := c.lex.ProcessWord(text, v)
	return expanded, err
}

// platformArguments are those that BuildKit sets by itself.
func platformArguments() map[string]string {
	platform := runtime.GOOS + "/" + runtime.GOARCH
	return map[string]string{
		"TARGETPLATFORM": platform, "TARGETOS": runtime.GOOS, "TARGETARCH": runtime.GOARCH, "TARGETVARIANT": "",
		"BUILDPLATFORM": platform, "BUILDOS": runtime.GOOS, "BUILDARCH": runtime.GOARCH, "BUILDVARIANT": "",
	}
}

// arguments makes the arguments of an ARG known: to words, and to the runs that
// set, when that is not nil, tells of them.
func (c *converter) arguments(arg *instructions.ArgCommand, v variables, set func(name, value string)) {
	for _, a := range arg.Args {
		name := "ARG_" + a.Key
		placeholder := "${{" + name + "}}"
		known, isGlobal := c.global[a.Key]
		switch {
		case a.Value != nil:
			value, err := c.word(*a.Value, v)
			if err != nil {
				c.note(line(arg.Location()), "ARG %s: %v", a.Key, err)
			}
			if before, ok := c.values.get(name); ok && before != value {
				c.note(line(arg.Location()), "ARG %s has several defaults: the first counts in all stages", a.Key)
			} else {
				c.values.put(name, value)
			}
		case isGlobal:
			placeholder = known
		default:
			if _, ok := c.values.get(name); !ok {
				c.values.put(name, platformArguments()[a.Key])
			}
		}
		v[a.Key] = placeholder
		if set != nil {
			set(a.Key, placeholder)
		}
	}
}
