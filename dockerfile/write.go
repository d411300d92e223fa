package dockerfile

import (
	"bytes"
	"slices"
	"strings"

	"gopkg.in/yaml.v3"
)

// A layer is one of the stackerfile.
type layer struct {
	name        string
	from        mapping
	imports     []mapping
	binds       []mapping
	caches      []mapping
	secrets     []mapping
	network     string
	closed      bool // what follows belongs to another layer
	run         []string
	buildEnv    mapping
	environment mapping
	labels      mapping
	annotations mapping
	volumes     []string
	workingDir  string
	user        string
	cmd         []string
	entrypoint  []string
	os, arch    string
	buildOnly   bool
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

// built is the layer that a base names, or "".
func (m mapping) built() string {
	if len(m) == 2 && m[0].value == "built" {
		return m[1].value.(string)
	}
	return ""
}

// directives are the layer as a stackerfile has it.
func (l *layer) directives() mapping {
	m := mapping{{"from", l.from}}
	if l.os != "" {
		m = append(m, pair{"os", l.os}, pair{"arch", l.arch})
	}
	if l.buildOnly {
		m = append(m, pair{"build_only", true})
	}
	if len(l.imports) > 0 {
		m = append(m, pair{"imports", l.imports})
	}
	for _, mounts := range []pair{{"binds", l.binds}, {"caches", l.caches}, {"secrets", l.secrets}} {
		if len(mounts.value.([]mapping)) > 0 {
			m = append(m, mounts)
		}
	}
	if l.network != "" {
		m = append(m, pair{"network", l.network})
	}
	if len(l.buildEnv) > 0 && len(l.run) > 0 {
		m = append(m, pair{"build_env", l.buildEnv})
	}
	if len(l.run) > 0 {
		m = append(m, pair{"run", strings.Join(l.run, "\n") + "\n"})
	}
	for _, set := range []pair{{"environment", l.environment}, {"labels", l.labels}, {"annotations", l.annotations}} {
		if len(set.value.(mapping)) > 0 {
			m = append(m, set)
		}
	}
	for _, list := range []pair{{"volumes", l.volumes}, {"entrypoint", l.entrypoint}, {"cmd", l.cmd}} {
		if list.value.([]string) != nil {
			m = append(m, list)
		}
	}
	for _, text := range []pair{{"working_dir", l.workingDir}, {"runtime_user", l.user}} {
		if text.value != "" {
			m = append(m, text)
		}
	}
	return m
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
		n := &yaml.Node{Kind: yaml.SequenceNode}
		for _, item := range v {
			n.Content = append(n.Content, node(item))
		}
		return n
	case []string:
		n := &yaml.Node{Kind: yaml.SequenceNode}
		for _, item := range v {
			n.Content = append(n.Content, node(item))
		}
		return n
	case bool:
		n := &yaml.Node{}
		_ = n.Encode(v)
		return n
	}
	text := value.(string)
	n := &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: text}
	switch {
	case strings.Contains(text, "\n"):
		n.Style = yaml.LiteralStyle
	case strings.Contains(text, "${{"):
		n.Style = yaml.DoubleQuotedStyle // its value may hold anything
	}
	return n
}

func encode(m mapping) ([]byte, error) {
	var out bytes.Buffer
	encoder := yaml.NewEncoder(&out)
	encoder.SetIndent(2)
	if err := encoder.Encode(node(m)); err != nil {
		return nil, err
	}
	return out.Bytes(), encoder.Close()
}

// result writes what was converted.
func (c *converter) result() (*Result, error) {
	var layers mapping
	for _, l := range c.layers {
		layers = append(layers, pair{l.name, l.directives()})
	}
	slices.SortStableFunc(c.notes, func(a, b Note) int { return a.Line - b.Line })
	r := &Result{Notes: c.notes}
	var err error
	if r.Stackerfile, err = encode(layers); err != nil || len(c.values) == 0 {
		return r, err
	}
	slices.Reverse(c.values) // in a stackerfile, a value may use those after it
	r.Substitutions, err = encode(c.values)
	return r, err
}
