// Package report draws builds for a browser. A page is one HTML file that needs nothing
// else: no server, no network, no font. What comes from a stackerfile, a step or another
// machine is escaped, and the page's policy (CSP) lets only its own style and script in.
package report

import (
	"cmp"
	"crypto/sha256"
	_ "embed" // the template, its style and its script
	"encoding/base64"
	"fmt"
	"html/template"
	"io"
	"math"
	"slices"
	"time"

	"github.com/docker/go-units"

	"github.com/layerbuild/layerbuild/explain"
)

// A Page is what a report is made of.
type Page struct {
	Report  *explain.Report
	Logs    map[string]Log    // of layers that wrote any
	Earlier []*explain.Report // builds of the same stackerfile before it, the last one first
	Version string            // of layerbuild
	Now     time.Time
}

// A Log is what the steps of a layer wrote.
type Log struct {
	Lines   []string
	Dropped int // lines before them, which are left out
}

var (
	//go:embed page.html
	pageText string
	//go:embed page.css
	style string
	//go:embed page.js
	script string
)

// HTML writes the page.
func HTML(w io.Writer, p *Page) error {
	return page.Execute(w, newView(p))
}

var page = template.Must(template.New("page").Funcs(template.FuncMap{
	"seconds": seconds,
	"join":    joinNames,
	"style":   func() template.CSS { return template.CSS(style) },
	"script":  func() template.JS { return template.JS(script) },
	"policy": func() string {
		return fmt.Sprintf("default-src 'none'; style-src '%s'; script-src '%s'; base-uri 'none'; form-action 'none'", hash(style), hash(script))
	},
}).Parse(pageText))

// hash is how a policy names an inline style or script (CSP level 3, 2.3.1).
func hash(text string) string {
	sum := sha256.Sum256([]byte(text))
	return "sha256-" + base64.StdEncoding.EncodeToString(sum[:])
}

// A view is what the template shows.
type view struct {
	*Page
	Build    explain.Build
	Layers   []*layerView
	Timeline timelineView
	Graph    graphView
	Earlier  []buildView
	Saved    string
	Spent    string
	Ratio    string
	Critical string // how long the critical path took
}

// A layerView is one layer.
type layerView struct {
	*explain.Layer
	ID       string // its anchor
	Said     string // its outcome, in words
	Lines    []string
	Root     bool // it missed for reasons of its own, not only since others did
	Critical bool // on the critical path
	Start    float64
	End      float64
	Waited   float64 // between the end of what it needs and its start
	After    string  // what it needs that ended last
	Spark    string  // points of its last times, in an SVG of 100 by 20
	Log      Log
}

// A buildView is one earlier build.
type buildView struct {
	Number  int
	Started string
	Seconds float64
	Result  string
	Cache   string
}

func newView(p *Page) *view {
	v := &view{Page: p, Build: p.Report.Build}
	byName := map[string]*layerView{}
	for i := range p.Report.Layers {
		l := &p.Report.Layers[i]
		lv := &layerView{
			Layer: l, ID: fmt.Sprintf("layer-%d", i), Said: l.Said(), Root: len(l.Reasons) > 0,
			Lines: l.Lines(explain.Options{All: true, Now: p.Now}), Log: p.Logs[l.Name], Spark: spark(l.Name, p),
		}
		v.Layers = append(v.Layers, lv)
		byName[l.Name] = lv
	}
	schedule(v.Layers, byName, p.Report.Work)
	last := criticalPath(v.Layers, byName)
	v.Critical = seconds(last)
	v.Timeline = newTimeline(p.Report, byName)
	v.Graph = newGraph(v.Layers, byName)
	for _, r := range p.Earlier {
		v.Earlier = append(v.Earlier, buildView{r.Build.Number, r.Build.Started.UTC().Format(time.DateTime), r.Build.Seconds, r.Build.Result, r.Cache.String()})
	}
	c := p.Report.Cache
	v.Saved, v.Spent = seconds(c.Saved), seconds(c.Spent)
	if c.Layers > 0 {
		v.Ratio = fmt.Sprintf("%.0f %%", 100*float64(c.Hits)/float64(c.Layers))
	}
	return v
}

// schedule finds out from when to when layers were worked on, and what they waited for.
func schedule(all []*layerView, byName map[string]*layerView, work []explain.Work) {
	for _, w := range work {
		l := byName[w.Layer]
		if l == nil {
			continue
		}
		if l.End == 0 {
			l.Start = w.Start
		}
		l.Start, l.End = min(l.Start, w.Start), max(l.End, w.End)
	}
	for _, l := range all {
		if l.End == 0 {
			continue
		}
		ready := 0.0
		for _, need := range l.Needs {
			if n := byName[need]; n != nil && n.End > ready {
				ready, l.After = n.End, n.Name
			}
		}
		l.Waited = max(0, l.Start-ready)
	}
}

// criticalPath marks the layers without which the last one had ended earlier: from that
// back to what it waited for longest. It returns when the last one ended.
func criticalPath(all []*layerView, byName map[string]*layerView) float64 {
	if len(all) == 0 {
		return 0
	}
	last := slices.MaxFunc(all, func(a, b *layerView) int { return cmp.Compare(a.End, b.End) })
	for l := last; l != nil && l.End > 0 && !l.Critical; l = byName[l.After] {
		l.Critical = true
	}
	return last.End
}

// spark draws how long a layer took in the last builds that built it, the oldest first.
func spark(name string, p *Page) string {
	var times []float64
	for _, r := range append([]*explain.Report{p.Report}, p.Earlier...) {
		for _, l := range r.Layers {
			if l.Name == name && l.Outcome == explain.Built {
				times = append(times, l.Seconds)
			}
		}
	}
	if len(times) < 2 {
		return ""
	}
	slices.Reverse(times)
	longest, points := slices.Max(times), ""
	for i, t := range times {
		points += fmt.Sprintf("%.1f,%.1f ", 100*float64(i)/float64(len(times)-1), 19-18*t/max(longest, 1e-9))
	}
	return points
}

// seconds shows a time as people read it.
func seconds(s float64) string {
	switch {
	case s < 0 || math.IsNaN(s) || s > math.MaxInt32:
		return "–"
	case s < 1:
		return fmt.Sprintf("%.0f ms", 1000*s)
	case s < 60:
		return fmt.Sprintf("%.1f s", s)
	}
	return units.HumanDuration(time.Duration(s * float64(time.Second)))
}

func joinNames(names []string) string {
	const most = 12
	text := ""
	for i, name := range names {
		if i == most {
			return fmt.Sprintf("%s and %d more", text, len(names)-most)
		}
		if i > 0 {
			text += ", "
		}
		text += name
	}
	return text
}
