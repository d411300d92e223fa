// Package dockerfile turns Dockerfiles into stackerfiles. BuildKit's own parser
// reads them; what a stackerfile cannot say is noted by line.
//
// A stage becomes a layer, or several, each built from the one before: the imports of a
// layer are there before its run, so a COPY after a RUN begins another. An ARG becomes a
// placeholder with its default wherever it stands: see word.go.
package dockerfile

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
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
	// Image returns what is known of a base image, by its reference and platform.
	Image func(reference, os, arch string) (*Image, error)
}

// An Image is what a base hands on to the RUNs of a stage.
type Image struct {
	Env              []string // NAME=VALUE each
	WorkingDir, User string
	Shell            []string
	OnBuild          []string // triggers: instructions of a Dockerfile
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
	Notes         []Note // by line; they stand in the stackerfile, too
}

// Convert reads a Dockerfile. Its error is about text that is none.
func Convert(r io.Reader, o Options) (*Result, error) {
	text, err := io.ReadAll(r)
	if err != nil {
		return nil, err
	}
	if bytes.IndexByte(text, 0) >= 0 || !utf8.Valid(text) {
		return nil, errors.New("it is no text: a Dockerfile is UTF-8 without NUL characters")
	}
	parsed, err := parse(string(text))
	if err != nil {
		return nil, err
	}
	if len(parsed.stages) == 0 {
		return nil, errors.New("it has no FROM: begin a stage with one")
	}
	c := &converter{
		Options: o, parsed: parsed, words: newResolver(parsed.escape), global: variables{},
		finals: map[string]*stage{}, images: map[string]string{},
		taken: map[string]bool{"config": true}, // which is no layer
	}
	if c.ignoreFile, err = ignoreFile(o.Files, o.File); err != nil {
		return nil, err
	}
	if err := c.convert(); err != nil {
		return nil, err
	}
	return c.result()
}

type converter struct {
	Options
	*parsed
	ignoreFile string // of the build context; "" when there is none
	words      *resolver
	global     variables
	values     mapping // of substitutions
	clashes    []string
	layers     []*layer
	names      []string          // of the stages' last layers
	finals     map[string]*stage // by the name of a stage, in small letters
	images     map[string]string // layers made of images, by reference
	taken      map[string]bool   // names of layers
	current    *layer            // that notes are about
	notes      []Note
}

func (c *converter) note(line int, format string, args ...any) {
	note := Note{line, fmt.Sprintf(format, args...)}
	if slices.Contains(c.notes, note) {
		return
	}
	c.notes = append(c.notes, note)
	if c.current != nil {
		c.current.notes = append(c.current.notes, note)
	}
}

// at adds the line to an error.
func at(line int, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("line %d: %w", line, err)
}

// convert converts the stages that the last one needs.
func (c *converter) convert() error {
	for name, value := range platformArguments() {
		c.global[name] = variable{text: placeholder("ARG_"+name, value), set: true, arg: true}
	}
	for _, arg := range c.metaArgs {
		if err := c.arguments(&arg, c.global, c.global); err != nil {
			return err
		}
	}
	needed, err := c.needed()
	if err != nil {
		return err
	}
	for i, from := range c.stages {
		if !needed[i] {
			continue
		}
		if err := c.stage(i, from); err != nil {
			return err
		}
	}
	return nil
}

// name is what the last layer of the i-th stage is called.
func (c *converter) name(i int) string {
	switch {
	case c.stages[i].Name != "":
		return c.free(c.stages[i].Name)
	case i == len(c.stages)-1:
		return c.free(c.Name)
	}
	return c.free("stage-" + strconv.Itoa(i))
}

// free returns a name that no other layer has.
func (c *converter) free(name string) string {
	for free, n := name, 2; ; free, n = fmt.Sprintf("%s-%d", name, n), n+1 {
		if !c.taken[free] {
			c.taken[free] = true
			return free
		}
	}
}

// needed returns which stages the last one needs, itself included.
func (c *converter) needed() ([]bool, error) {
	needed := make([]bool, len(c.stages))
	needed[len(needed)-1] = true
	for i := range c.stages {
		c.names = append(c.names, c.name(i))
	}
	for i, from := range slices.Backward(c.stages) {
		if !needed[i] {
			continue
		}
		base, err := c.words.word(from.BaseName, c.global)
		if err != nil {
			return nil, at(line(from.Location), err)
		}
		for _, name := range append(sources(from.Commands), value(base)) {
			if n, ok := c.stageNamed(name, i); ok {
				needed[n] = true
			}
		}
	}
	return needed, nil
}

// sources lists what the --from of commands name.
func sources(commands []instructions.Command) (names []string) {
	for _, command := range commands {
		switch c := command.(type) {
		case *instructions.CopyCommand:
			names = append(names, c.From)
		case *instructions.RunCommand:
			for _, m := range instructions.GetMounts(c) {
				names = append(names, m.From)
			}
		case *instructions.OnbuildCommand:
			if triggers, err := parseTrigger(c.Expression); err == nil {
				names = append(names, sources(triggers.stages[0].Commands)...)
			}
		}
	}
	return names
}

// stageNamed finds the stage that is named or numbered so before the i-th.
func (c *converter) stageNamed(name string, before int) (int, bool) {
	for i := before - 1; i >= 0; i-- {
		if name != "" && strings.EqualFold(c.stages[i].Name, name) {
			return i, true
		}
	}
	n, err := strconv.Atoi(name)
	return n, err == nil && n >= 0 && n < before
}

// arguments makes the arguments of an ARG known to what follows. Those of a stage that
// have no default take that of the ARGs before the first FROM.
func (c *converter) arguments(arg *instructions.ArgCommand, v, global variables) error {
	for _, a := range arg.Args {
		known, isGlobal := global[a.Key]
		switch {
		case a.Value != nil:
			text, err := c.words.word(*a.Value, v)
			if err != nil {
				return at(line(arg.Location()), err)
			}
			c.noteFixed(line(arg.Location()))
			v[a.Key] = variable{text: c.substitution(arg, a.Key, text), set: true, arg: true}
		case isGlobal:
			c.substitute(a.Key, known)
			v[a.Key] = known
		default:
			v[a.Key] = variable{text: c.substitution(arg, a.Key, ""), arg: true}
		}
	}
	return nil
}

// substitution is the placeholder of an argument, whose default is a text.
func (c *converter) substitution(arg *instructions.ArgCommand, name, text string) string {
	if strings.Contains(withoutPlaceholders(text), "}") || strings.ContainsAny(text, "\n\r") {
		c.note(line(arg.Location()), "ARG %s: its default holds a } or a line break, so that it cannot be substituted", name)
		return text
	}
	v := variable{text: placeholder("ARG_"+name, text), arg: true}
	c.substitute(name, v)
	return v.text
}

// substitute keeps the value of an argument for the file of substitutions, unless it has
// several defaults.
func (c *converter) substitute(name string, v variable) {
	key := "ARG_" + name
	_, text, ok := cutPlaceholder(v.text)
	if !ok {
		return
	}
	if before, ok := c.values.get(key); ok && before != text {
		c.clashes = append(c.clashes, key)
	} else if !ok {
		c.values.put(key, text)
	}
}

// noteFixed notes the arguments that a word had to take by their defaults.
func (c *converter) noteFixed(line int) {
	for _, word := range c.words.takeFixed() {
		c.note(line, "%s is taken as its ARGs' defaults make it: a substitution cannot do what it does with them", word)
	}
}

// platformArguments are those that BuildKit sets by itself.
func platformArguments() map[string]string {
	platform := thisOS + "/" + thisArch
	return map[string]string{
		"TARGETPLATFORM": platform, "TARGETOS": thisOS, "TARGETARCH": thisArch, "TARGETVARIANT": "",
		"BUILDPLATFORM": platform, "BUILDOS": thisOS, "BUILDARCH": thisArch, "BUILDVARIANT": "",
	}
}

func line(location []parser.Range) int {
	if len(location) == 0 {
		return 0
	}
	return location[0].Start.Line
}

// ignoreFile returns the .dockerignore of the build context, or the one of this Dockerfile
// alone.
func ignoreFile(files fs.FS, dockerfile string) (string, error) {
	for _, name := range []string{dockerfile + ".dockerignore", ".dockerignore"} {
		switch _, err := fs.Stat(files, name); {
		case err == nil:
			return name, nil
		case !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, fs.ErrInvalid):
			return "", err
		}
	}
	return "", nil
}

// layerOf returns the layer that a --from names: that of a stage, or one made of an image.
func (c *converter) layerOf(name string, before int) string {
	if n, ok := c.stageNamed(name, before); ok {
		return c.names[n]
	}
	if layer := c.images[name]; layer != "" {
		return layer
	}
	l := &layer{name: c.free("from-" + strings.Trim(notInName.ReplaceAllString(name, "-"), "-")), from: image(name), buildOnly: true}
	c.layers = append(c.layers, l)
	c.images[name] = l.name
	return l.name
}

// image is what a layer starts from that is an image.
func image(reference string) mapping {
	return mapping{{"type", "docker"}, {"url", "docker://" + cmp.Or(reference, "scratch")}}
}
