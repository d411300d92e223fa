package dockerfile

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"gopkg.in/yaml.v3"
)

// A layer is one of the stackerfile. Its texts are those of word.go.
type layer struct {
	name        string
	from        mapping
	os, arch    string
	buildOnly   bool
	imports     []mapping
	caches      []mapping
	secrets     []mapping
	tmpfs       []string
	network     string
	closed      bool // what follows belongs to another layer
	prepare     []string
	run         []string
	buildEnv    mapping
	buildUser   string
	environment mapping
	image       config
	notes       []Note
}

// A config is what an image says of itself.
type config struct {
	labels, annotations    mapping
	volumes, expose        []string
	cmd, entrypoint, shell []string
	workingDir, user       string
	stopSignal             string
	healthcheck            any // nil, "none" or a mapping
	onBuild                []string
}

// A mapping keeps its order.
type mapping []pair

type pair struct {
	key   string
	value any // string, bool, []string, mapping or []mapping
}

// put sets a key to a value.
func (m *mapping) put(key string, value any) {
	for i := range *m {
		if (*m)[i].key == key {
			(*m)[i].value = value
			return
		}
	}
	// A copy, since layers share what they take over.
	*m = append(slices.Clip(slices.Clone(*m)), pair{key, value})
}

func (m mapping) get(key string) (any, bool) {
	for _, p := range m {
		if p.key == key {
			return p.value, true
		}
	}
	return nil, false
}

// directives are the layer as a stackerfile has it.
func (l *layer) directives() mapping {
	m := mapping{{"from", l.from}}
	m.add("os", l.os)
	m.add("arch", l.arch)
	m.add("build_only", l.buildOnly)
	m.add("imports", l.imports)
	if len(l.run) > 0 {
		m.add("caches", l.caches)
		m.add("secrets", l.secrets)
		m.add("tmpfs", l.tmpfs)
		m.add("network", l.network)
		m.add("build_user", l.buildUser)
		m.add("build_env_from_base", true)
		m.add("build_env", l.buildEnv)
		m.add("run", strings.Join(l.run, "\n")+"\n")
	}
	m.add("environment", l.environment)
	c := l.image
	m.add("labels", c.labels)
	m.add("annotations", c.annotations)
	m.add("volumes", c.volumes)
	m.add("expose", c.expose)
	if c.entrypoint != nil { // an empty one counts, too
		m = append(m, pair{"entrypoint", c.entrypoint})
	}
	if c.cmd != nil {
		m = append(m, pair{"cmd", c.cmd})
	}
	m.add("working_dir", c.workingDir)
	m.add("runtime_user", c.user)
	m.add("stop_signal", c.stopSignal)
	m.add("shell", c.shell)
	if c.healthcheck != nil {
		m = append(m, pair{"healthcheck", c.healthcheck})
	}
	m.add("on_build", c.onBuild)
	return m
}

// add appends a directive unless it says nothing.
func (m *mapping) add(key string, value any) {
	empty := false
	switch v := value.(type) {
	case string:
		empty = v == ""
	case bool:
		empty = !v
	case []string:
		empty = len(v) == 0
	case mapping:
		empty = len(v) == 0
	case []mapping:
		empty = len(v) == 0
	}
	if !empty {
		*m = append(*m, pair{key, value})
	}
}

// node is a value as YAML.
func node(value any) *yaml.Node {
	switch v := value.(type) {
	case mapping:
		n := &yaml.Node{Kind: yaml.MappingNode}
		for _, p := range v {
			n.Content = append(n.Content, node(p.key), node(p.value))
		}
		return n
	case []mapping:
		return list(v)
	case []string:
		return list(v)
	case bool:
		n := &yaml.Node{}
		_ = n.Encode(v)
		return n
	}
	text := value.(string)
	n := &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: text}
	switch {
	case strings.Contains(text, "\n") && !strings.HasPrefix(text, " ") && !strings.HasPrefix(text, "\n"):
		n.Style = yaml.LiteralStyle
	case strings.Contains(text, "${{"):
		n.Style = yaml.DoubleQuotedStyle // its value may hold anything
	}
	return n
}

func list[T any](items []T) *yaml.Node {
	n := &yaml.Node{Kind: yaml.SequenceNode}
	for _, item := range items {
		n.Content = append(n.Content, node(item))
	}
	return n
}

func encode(n *yaml.Node) ([]byte, error) {
	var out bytes.Buffer
	encoder := yaml.NewEncoder(&out)
	encoder.SetIndent(2)
	if err := encoder.Encode(n); err != nil {
		return nil, err
	}
	return out.Bytes(), encoder.Close()
}

// printable replaces what YAML allows in no comment, and what would end one.
func printable(r rune) rune {
	if !unicode.IsPrint(r) || r == utf8.RuneError {
		return ' '
	}
	return r
}

// comments are notes as YAML has them.
func (c *converter) comments(notes []Note) string {
	var lines []string
	for _, note := range notes {
		text := literal(fmt.Sprintf("%s:%d: %s", c.File, note.Line, note.Text))
		lines = append(lines, "# "+strings.Map(printable, text))
	}
	return strings.Join(lines, "\n")
}

// result writes what was converted.
func (c *converter) result() (*Result, error) {
	root := &yaml.Node{Kind: yaml.MappingNode}
	for _, l := range c.layers {
		key := node(l.name)
		key.HeadComment = c.comments(l.notes)
		root.Content = append(root.Content, key, node(l.directives()))
	}
	slices.SortStableFunc(c.notes, func(a, b Note) int { return a.Line - b.Line })
	r := &Result{Notes: c.notes}
	var err error
	if r.Stackerfile, err = encode(root); err != nil {
		return nil, err
	}
	c.values = slices.DeleteFunc(c.values, func(p pair) bool { return slices.Contains(c.clashes, p.key) })
	if len(c.values) == 0 {
		return r, nil
	}
	slices.Reverse(c.values) // in a stackerfile, a value may use those after it
	r.Substitutions, err = encode(node(c.values))
	return r, err
}

// mapText returns the text that a mapping has for a key, or "".
func mapText(m mapping, key string) string {
	text, _ := m.get(key)
	s, _ := text.(string)
	return s
}
