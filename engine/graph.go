package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"

	"github.com/layerbuild/layerbuild/layers"
	"github.com/layerbuild/layerbuild/progress"
)

// A Node is a layer in the graph of a build.
type Node struct {
	Layer       string   `json:"layer"`
	Stackerfile string   `json:"stackerfile"` // as the user named it
	From        string   `json:"from"`        // the base, in words
	Needs       []string `json:"needs"`       // the layers that must be there before it
	BuildOnly   bool     `json:"build_only"`
	Hit         bool     `json:"hit"`               // a build would find it in the cache
	Reasons     []string `json:"reasons,omitempty"` // why not
}

// Nodes returns the layers of a build, each after those that it needs, with what
// the cache knows of each. Nothing is built.
func Nodes(ctx context.Context, o Options) ([]Node, error) {
	graph, err := load(append([]string{o.Stackerfile}, o.Others...), o.Load, o.Targets)
	if err != nil {
		return nil, err
	}
	reasons := &reasonSink{byLayer: map[string][]string{}}
	o.Plan, o.Sink = true, reasons
	b, err := open(ctx, o, graph)
	if err != nil {
		return nil, err
	}
	defer b.close()
	var miss *MissError
	if err := b.build(ctx); err != nil && !errors.As(err, &miss) {
		return nil, err
	}
	nodes := make([]Node, len(graph.Layers))
	for i, l := range graph.Layers {
		nodes[i] = Node{
			Layer:       l.Name,
			Stackerfile: l.File.Name,
			From:        baseName(l),
			Needs:       []string{},
			BuildOnly:   l.BuildOnly,
			Hit:         b.layers[l].image != nil,
			Reasons:     reasons.byLayer[l.Name],
		}
		for _, need := range graph.Needs(l) {
			nodes[i].Needs = append(nodes[i].Needs, need.Name)
		}
	}
	return nodes, nil
}

func baseName(l *layers.Layer) string {
	switch l.From.Type {
	case layers.BaseScratch:
		return l.From.Type
	case layers.BaseBuilt:
		return l.From.Tag
	case layers.BaseOCI:
		return l.From.Image()
	}
	return l.From.URL
}

// A reasonSink keeps the reasons of misses.
type reasonSink struct {
	mu      sync.Mutex
	byLayer map[string][]string
}

func (s *reasonSink) Report(e progress.Event) {
	if e.Kind != progress.Miss {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.byLayer[e.Layer] = append(s.byLayer[e.Layer], e.Text)
}

// Formats of a drawing.
const (
	FormatDOT     = "dot"     // Graphviz
	FormatMermaid = "mermaid" // as GitHub and others show it in Markdown
	FormatJSON    = "json"
)

// Draw writes the graph in one of the formats. An arrow goes from a layer to
// those that need it. Layers that would be built are dashed.
func Draw(nodes []Node, format string) (string, error) {
	switch format {
	case FormatDOT:
		return drawDOT(nodes), nil
	case FormatMermaid:
		return drawMermaid(nodes), nil
	case FormatJSON:
		data, err := json.MarshalIndent(nodes, "", "  ")
		return string(data) + "\n", err
	}
	return "", fmt.Errorf("--format is %q: it should be %s, %s or %s", format, FormatDOT, FormatMermaid, FormatJSON)
}

func drawDOT(nodes []Node) string {
	var out strings.Builder
	out.WriteString("digraph layers {\n\trankdir=LR;\n\tnode [shape=box];\n")
	for _, n := range nodes {
		style := "solid"
		if !n.Hit {
			style = "dashed"
		}
		label := n.Layer + "\n" + n.From
		if n.BuildOnly {
			label += "\nbuild only"
		}
		fmt.Fprintf(&out, "\t%s [label=%s, style=%s];\n", dotText(n.Layer), dotText(label), style)
	}
	for _, n := range nodes {
		for _, need := range n.Needs {
			fmt.Fprintf(&out, "\t%s -> %s;\n", dotText(need), dotText(n.Layer))
		}
	}
	out.WriteString("}\n")
	return out.String()
}

// dotText quotes as https://graphviz.org/doc/info/lang.html says: a quote is
// escaped, and in a label a backslash and a newline.
func dotText(s string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`).Replace(s) + `"`
}

func drawMermaid(nodes []Node) string {
	var out strings.Builder
	out.WriteString("flowchart LR\n\tclassDef miss stroke-dasharray: 5 5\n")
	ids := map[string]string{}
	for i, n := range nodes {
		ids[n.Layer] = "n" + strconv.Itoa(i)
		label := mermaidText(n.Layer) + "<br>" + mermaidText(n.From)
		if n.BuildOnly {
			label += "<br>build only"
		}
		class := ""
		if !n.Hit {
			class = ":::miss"
		}
		fmt.Fprintf(&out, "\t%s[\"%s\"]%s\n", ids[n.Layer], label, class)
	}
	for _, n := range nodes {
		for _, need := range n.Needs {
			fmt.Fprintf(&out, "\t%s --> %s\n", ids[need], ids[n.Layer])
		}
	}
	return out.String()
}

// mermaidText writes what means something to Mermaid, or to the HTML it makes, as
// entities: https://mermaid.js.org/syntax/flowchart.html, "Entity codes to escape
// characters".
func mermaidText(s string) string {
	return strings.NewReplacer("#", "#35;", `"`, "#quot;", "<", "#lt;", ">", "#gt;", "&", "#amp;", "`", "#96;", "\n", " ").Replace(s)
}
