package report

import (
	"fmt"

	"github.com/layerbuild/layerbuild/explain"
)

// A timelineView is an SVG of the work of a build: a row for each track.
type timelineView struct {
	Width, Height float64
	Bars          []bar
	Ticks         []tick
}

// A bar is one work. Text is shown where it fits.
type bar struct {
	X, Y, W, H float64
	Title      string
	Text       string
	ID         string // of its layer; "" for the build as a whole
	Class      string
}

// A tick is a line at a time.
type tick struct {
	X    float64
	Text string
}

// Sizes of the timeline, in the units of its SVG.
const (
	timelineWidth = 1000.0
	rowHeight     = 26.0
	axisHeight    = 20.0
	charWidth     = 7.0
)

func newTimeline(r *explain.Report, byName map[string]*layerView) timelineView {
	total, rows := max(r.Build.Seconds, 0.001), 0
	for _, w := range r.Work {
		total, rows = max(total, w.End), max(rows, w.Track+1)
	}
	t := timelineView{Width: timelineWidth, Height: axisHeight + rowHeight*float64(rows)}
	for _, w := range r.Work {
		b := bar{
			X: timelineWidth * w.Start / total, Y: axisHeight + rowHeight*float64(w.Track) + 2,
			W: max(1, timelineWidth*(w.End-w.Start)/total), H: rowHeight - 4,
			Title: fmt.Sprintf("%s: %s, from %s to %s", w.Layer, w.What, seconds(w.Start), seconds(w.End)),
			Class: "work",
		}
		if l := byName[w.Layer]; l != nil {
			b.ID = l.ID
			if l.Critical {
				b.Class = "work critical"
			}
		}
		if text := []rune(w.Layer + ": " + w.What); b.W > 4*charWidth {
			b.Text = string(text[:min(len(text), int(b.W/charWidth)-1)])
		}
		t.Bars = append(t.Bars, b)
	}
	const ticks = 5
	for i := range ticks {
		part := float64(i) / ticks
		t.Ticks = append(t.Ticks, tick{timelineWidth * part, seconds(total * part)})
	}
	return t
}

// A graphView is an SVG of the layers: each is to the right of those that it needs.
type graphView struct {
	Width, Height float64
	Boxes         []bar
	Arrows        []arrow
}

// An arrow leads from a layer to one that needs it.
type arrow struct {
	X1, Y1, X2, Y2 float64
	Class          string
}

// Sizes of the graph, in the units of its SVG.
const (
	boxWidth, boxHeight = 150.0, 24.0
	gapX, gapY          = 50.0, 10.0
)

func newGraph(all []*layerView, byName map[string]*layerView) graphView {
	var g graphView
	column, rows, at := map[string]int{}, map[int]int{}, map[string]bar{}
	for _, l := range all { // each after those that it needs
		for _, need := range l.Needs {
			column[l.Name] = max(column[l.Name], column[need]+1)
		}
		x, y := column[l.Name], rows[column[l.Name]]
		rows[x]++
		box := bar{
			X: (boxWidth + gapX) * float64(x), Y: (boxHeight + gapY) * float64(y), W: boxWidth, H: boxHeight,
			Title: l.Name + ": " + l.Said, ID: l.ID, Class: "box " + l.Outcome,
		}
		if l.Critical {
			box.Class += " critical"
		}
		text := []rune(l.Name)
		box.Text = string(text[:min(len(text), 20)])
		at[l.Name] = box
		g.Boxes = append(g.Boxes, box)
		g.Width, g.Height = max(g.Width, box.X+boxWidth), max(g.Height, box.Y+boxHeight)
		for _, need := range l.Needs {
			from, ok := at[need]
			if !ok {
				continue
			}
			a := arrow{from.X + boxWidth, from.Y + boxHeight/2, box.X, box.Y + boxHeight/2, "arrow"}
			if n := byName[need]; n.Critical && l.Critical && l.After == need {
				a.Class = "arrow critical"
			}
			g.Arrows = append(g.Arrows, a)
		}
	}
	return g
}
