package layers

import (
	"errors"
	"io"
	"slices"
	"sort"
	"strconv"
	"strings"
	"unicode/utf8"

	"gopkg.in/yaml.v3"
)

// A parser reads one file. It walks yaml.Nodes itself: decoding them would ignore
// unknown and repeated keys, and lose the positions.
type parser struct {
	file        *Stackerfile
	errs        *Errors
	warnings    *Errors
	network     string // what Options say
	requireHash bool
	shell       string
	uses        *uses

	expanded      *expanded
	unsubstituted map[int]bool // lines with a placeholder that has no value
	layer         string       // whose directives are being read, for messages
	prerequisites []prerequisite
}

// A prerequisite is a stackerfile that another names.
type prerequisite struct {
	pos  Position
	name string // a path or URL
}

// A pair is one entry of a mapping.
type pair struct {
	name       string
	key, value *yaml.Node
}

func (p *parser) position(n *yaml.Node) Position {
	line, column := p.expanded.position(n.Line, n.Column)
	return Position{File: p.file.Name, Line: line, Column: column}
}

// fail adds a fault at n, unless a placeholder without a value on that line has been
// reported, of which it would be a consequence.
func (p *parser) fail(n *yaml.Node, format string, args ...any) {
	if p.errs.full() {
		return
	}
	pos := p.position(n)
	if !p.unsubstituted[pos.Line] {
		p.errs.add(pos, p.layer, format, args...)
	}
}

func (p *parser) failAt(offset int, format string, args ...any) {
	line, column := p.expanded.originalPosition(offset)
	p.errs.add(Position{p.file.Name, line, column}, "", format, args...)
}

// wrong says that the value of what is not of the wanted kind.
func (p *parser) wrong(n *yaml.Node, what, want string) {
	is, hint := quote(n.Value), ""
	switch {
	case n.Kind == yaml.MappingNode && strings.Contains(want, "text"):
		is, hint = "a mapping", `: quote a text that contains ": "`
	case n.Kind == yaml.MappingNode:
		is = "a mapping"
	case n.Kind == yaml.SequenceNode:
		is = "a list"
	case isNull(n):
		is = "nothing"
	}
	p.fail(n, "%s must be %s, not %s%s", what, want, is, hint)
}

// read parses text, which must be one YAML document, after substituting in it unless
// substitute is nil, and checks what can be checked of any document. It returns nil
// when the file is empty, and false when a fault was found that leaves nothing to go
// on with.
func (p *parser) read(text string, substitute func(string) *expanded) (*yaml.Node, bool) {
	p.expanded = &expanded{original: text, text: text, segments: []segment{{copied: true}}}
	if bad := invalidUTF8(text); bad >= 0 {
		p.failAt(bad, "the byte %#02x is not UTF-8: save the file as UTF-8", text[bad])
		return nil, false
	}
	if substitute != nil {
		p.expanded = substitute(text)
	}
	documents, err := decode(p.expanded.text)
	switch {
	case err != nil:
		p.syntaxError(err)
		return nil, false
	case len(documents) == 0:
		return nil, true
	case len(documents) > 1:
		p.fail(documents[1], "a second YAML document begins here: keep one, without ---")
		return nil, false
	}
	root := documents[0].Content[0]
	if isNull(root) {
		return nil, true
	}
	check := checker{parser: p, sizes: map[*yaml.Node]int{}}
	check.node(root)
	return root, !check.stop
}

// decode parses up to two documents.
func decode(text string) ([]*yaml.Node, error) {
	var documents []*yaml.Node
	for decoder := yaml.NewDecoder(strings.NewReader(text)); len(documents) < 2; {
		document := new(yaml.Node)
		if err := decoder.Decode(document); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return nil, err
		}
		documents = append(documents, document)
	}
	return documents, nil
}

// syntaxError adds what yaml.v3 says of p's text. yaml.v3 tells the line where the
// surrounding mapping or list begins, give or take one; what helps is the first line
// with which the fault is there.
func (p *parser) syntaxError(err error) {
	if len(p.unsubstituted) > 0 {
		return
	}
	message := strings.TrimPrefix(err.Error(), "yaml: ")
	line := 1
	if after, ok := strings.CutPrefix(message, "line "); ok {
		number, rest, _ := strings.Cut(after, ": ")
		if n, err := strconv.Atoi(number); err == nil {
			line, message = n, rest
		}
	}
	const quick = 1 << 20
	text := p.expanded.text
	starts := append(markText(text, isYAMLBreak).lines(), len(text))
	if len(text) <= quick {
		line = 1 + sort.Search(len(starts)-2, func(k int) bool {
			_, prefix := decode(text[:starts[k+1]])
			return prefix != nil && prefix.Error() == err.Error()
		})
	}
	line = min(line, len(starts)-1)
	whole := text[starts[line-1]:starts[line]]
	column := 1 + len(whole) - len(strings.TrimLeft(whole, " "))
	if column > len(whole) {
		column = 1
	}
	p.fail(&yaml.Node{Line: line, Column: column}, "the YAML is not valid: %s", plain(message))
}

// invalidUTF8 is the offset of the first byte that is not UTF-8, or -1.
func invalidUTF8(s string) int {
	if utf8.ValidString(s) {
		return -1
	}
	for i, r := range s {
		if r == utf8.RuneError {
			if _, size := utf8.DecodeRuneInString(s[i:]); size == 1 {
				return i
			}
		}
	}
	return -1
}

// A checker walks all of a document before anybody follows its aliases.
type checker struct {
	*parser
	sizes  map[*yaml.Node]int // of what is anchored, with its aliases expanded
	gained int                // by all aliases so far
	stop   bool
}

// node returns the size of n with its aliases expanded: its text, and a little for
// each node.
func (c *checker) node(n *yaml.Node) int {
	if c.stop {
		return 0
	}
	if n.Kind == yaml.AliasNode {
		return c.alias(n)
	}
	if n.Style&yaml.TaggedStyle != 0 && !slices.Contains(knownTags, n.ShortTag()) {
		c.fail(n, "unknown YAML tag %s: remove it", quote(n.Tag))
	}
	if strings.ContainsRune(n.Value, 0) {
		c.fail(n, "text must not contain a NUL character, as %s does", quote(n.Value))
	}
	const perNode = 16
	size := perNode + len(n.Value)
	for _, child := range n.Content {
		size += c.node(child)
	}
	if n.Anchor != "" {
		c.sizes[n] = size
	}
	return size
}

func (c *checker) alias(n *yaml.Node) int {
	size, ok := c.sizes[n.Alias]
	c.gained += size
	switch {
	case !ok:
		c.stop = true
		c.fail(n, "the alias *%s stands within what it is an alias for: remove it", plain(n.Value))
	case c.gained > MaxSize:
		c.stop = true
		c.fail(n, "YAML aliases up to *%s expand to more than %d MiB: use fewer", plain(n.Value), MaxSize>>20)
	}
	return size
}

var knownTags = []string{"!", "!!str", "!!int", "!!float", "!!bool", "!!null", "!!timestamp", "!!merge", "!!map", "!!seq"}

// resolve follows an alias.
func resolve(n *yaml.Node) *yaml.Node {
	for n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	return n
}

func isNull(n *yaml.Node) bool {
	return n.Kind == yaml.ScalarNode && n.ShortTag() == "!!null"
}

// pairs returns the entries of a mapping in their order, and after them those of the
// mappings it merges (`<<`) that it does not override.
func (p *parser) pairs(n *yaml.Node, what string) []pair {
	if n.Kind != yaml.MappingNode {
		p.wrong(n, what, "a mapping")
		return nil
	}
	var own, merged []pair
	first := map[string]*yaml.Node{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := resolve(n.Content[i]), resolve(n.Content[i+1])
		if key.Kind == yaml.ScalarNode && key.ShortTag() == "!!merge" {
			merged = append(merged, p.merge(value)...)
			continue
		}
		if key.Kind != yaml.ScalarNode || isNull(key) {
			p.wrong(key, "a key", "a text")
			continue
		}
		if before := first[key.Value]; before != nil {
			p.fail(n.Content[i], "%s is given twice, first at line %d: remove one", quote(key.Value), p.position(before).Line)
			continue
		}
		first[key.Value] = n.Content[i]
		own = append(own, pair{key.Value, n.Content[i], value})
	}
	for _, m := range merged {
		if first[m.name] == nil {
			first[m.name] = m.key
			own = append(own, m)
		}
	}
	return own
}

// merge returns the entries of the mapping, or list of mappings, that `<<` names.
func (p *parser) merge(n *yaml.Node) []pair {
	if n.Kind != yaml.SequenceNode {
		return p.pairs(n, "what << merges")
	}
	var all []pair
	for _, item := range n.Content {
		all = append(all, p.pairs(resolve(item), "what << merges")...)
	}
	return all
}

// fields returns the values of a mapping that may hold no keys but those known.
// A key without a value counts as missing.
func (p *parser) fields(n *yaml.Node, what string, known ...string) map[string]*yaml.Node {
	fields := map[string]*yaml.Node{}
	for _, pair := range p.pairs(n, what) {
		if !slices.Contains(known, pair.name) {
			p.unknown(pair, "unknown key "+quote(pair.name)+" in "+what, known)
		} else if !isNull(pair.value) {
			fields[pair.name] = pair.value
		}
	}
	return fields
}

func (p *parser) unknown(entry pair, message string, known []string) {
	// Two names that other documents of stacker use for these.
	if synonym := map[string]string{"perms": "mode", "user": "runtime_user"}[entry.name]; slices.Contains(known, synonym) {
		p.fail(entry.key, "%s: did you mean %s?", message, quote(synonym))
		return
	}
	if hint := DidYouMean(entry.name, known); hint != "" {
		p.fail(entry.key, "%s%s", message, hint)
		return
	}
	p.fail(entry.key, "%s: it can be %s", message, strings.Join(known, ", "))
}

// text returns a scalar as it is written: 1.10 stays "1.10".
func (p *parser) text(n *yaml.Node, what string) string {
	if n.Kind != yaml.ScalarNode || isNull(n) {
		p.wrong(n, what, "a text")
		return ""
	}
	return n.Value
}

// nonEmpty is text that must not be "".
func (p *parser) nonEmpty(n *yaml.Node, what string) string {
	if n.Kind == yaml.ScalarNode && n.Value == "" {
		p.fail(n, "%s cannot be empty", what)
		return ""
	}
	return p.text(n, what)
}

// items returns the members of a list, or what is no list as a list of one.
func items(n *yaml.Node) []*yaml.Node {
	if n.Kind != yaml.SequenceNode {
		return []*yaml.Node{n}
	}
	all := make([]*yaml.Node, len(n.Content))
	for i, item := range n.Content {
		all[i] = resolve(item)
	}
	return all
}

// texts returns a list of texts, or one text as a list of one. It is not nil.
func (p *parser) texts(n *yaml.Node, what string) []string {
	list := make([]string, 0, len(n.Content))
	for _, item := range items(n) {
		if item.Kind != yaml.ScalarNode || isNull(item) {
			p.wrong(item, what, "a text or a list of texts")
			continue
		}
		list = append(list, item.Value)
	}
	return list
}

// textMap returns a mapping of texts to texts whose names have none of the characters
// in forbidden.
func (p *parser) textMap(n *yaml.Node, what, forbidden string) map[string]string {
	all := map[string]string{}
	for _, pair := range p.pairs(n, what) {
		switch {
		case pair.name == "":
			p.fail(pair.key, "a name in %s cannot be empty", what)
		case strings.ContainsAny(pair.name, forbidden):
			p.fail(pair.key, "the name %s in %s cannot contain %s", quote(pair.name), what, forbidden)
		default:
			all[pair.name] = p.valueText(pair.value, quote(pair.name)+" in "+what)
		}
	}
	return all
}

// valueText is text, and the empty one for a value that is missing: a substitution may
// have left it empty.
func (p *parser) valueText(n *yaml.Node, what string) string {
	if isNull(n) {
		return ""
	}
	return p.text(n, what)
}

// truth returns a boolean, in YAML 1.1's spellings, as stacker's users write them.
func (p *parser) truth(n *yaml.Node, what string) bool {
	if n.Kind == yaml.ScalarNode && n.Style&(yaml.SingleQuotedStyle|yaml.DoubleQuotedStyle|yaml.LiteralStyle|yaml.FoldedStyle) == 0 {
		switch strings.ToLower(n.Value) {
		case "true", "yes", "on", "y":
			return true
		case "false", "no", "off", "n":
			return false
		}
	}
	p.wrong(n, what, "true or false")
	return false
}
