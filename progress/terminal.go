package progress

import (
	"bytes"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"
)

// A Terminal shows a build on a terminal. What is done scrolls away above, one
// line each, as in Plain; below stands a picture of what is going on: each work
// with how long it has taken, how many bytes of how many, and the last lines
// that the layer wrote. At the end the picture is gone and the lines stay.
//
// A frame is one write that overwrites the one before line by line, so that
// nothing flickers. No line of the picture is wider than the terminal, and it is
// never higher. The cursor stays visible and no mode of the terminal is changed, so
// that nothing is to be restored however the program ends.
type Terminal struct {
	mu     sync.Mutex
	w      io.Writer
	level  Level
	size   func() (width, height int)
	color  bool
	now    func() time.Time
	began  time.Time
	total  int             // layers
	done   int             // of these
	works  []*shownWork    // in the order in which they began
	tails  map[string]tail // the last lines of each layer
	lines  []Event         // to scroll away with the next frame
	drawn  []int           // how wide the lines of the picture on the screen are
	paused bool

	stop    chan struct{}
	stopped sync.WaitGroup
}

type shownWork struct {
	work
	began       time.Time
	done, total int64
}

// tail is the last lines that a layer wrote.
type tail []string

const (
	frameTime = 100 * time.Millisecond
	mostTail  = 6 // lines of output that are shown of a layer
)

// NewTerminal returns a display on a terminal of a size that may change. Without
// color, nothing but the cursor's moves are sent that is not text.
func NewTerminal(w io.Writer, level Level, size func() (width, height int), color bool) *Terminal {
	t := newTerminal(w, level, size, color)
	t.stopped.Go(func() {
		ticker := time.NewTicker(frameTime)
		defer ticker.Stop()
		for {
			select {
			case <-ticker.C:
				t.mu.Lock()
				t.frame()
				t.mu.Unlock()
			case <-t.stop:
				return
			}
		}
	})
	return t
}

// newTerminal returns a terminal that draws no frames by itself.
func newTerminal(w io.Writer, level Level, size func() (width, height int), color bool) *Terminal {
	return &Terminal{
		w: w, level: level, size: size, color: color,
		now:   time.Now,
		tails: map[string]tail{},
		stop:  make(chan struct{}),
	}
}

// Report takes note of the event. It is seen with the next frame, or at once when
// the terminal is handed to somebody else.
func (t *Terminal) Report(e Event) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.note(e)
	switch e.Kind {
	case Output, Started, Bytes, Finished:
	default:
		if t.level.shows(e.Kind) {
			t.lines = append(t.lines, e)
		}
	}
}

func (t *Terminal) note(e Event) {
	id := work{e.Layer, e.Text}
	switch e.Kind {
	case Begin:
		t.began, t.total = e.Time, int(e.Total)
	case Hit, Built, Checked, Failed:
		t.done++
		delete(t.tails, e.Layer)
	case Output:
		t.tails[e.Layer] = append(t.tails[e.Layer], PlainText(e.Text))
		if lines := t.tails[e.Layer]; len(lines) > mostTail {
			t.tails[e.Layer] = lines[len(lines)-mostTail:]
		}
	case Started:
		t.works = append(t.works, &shownWork{work: id, began: e.Time})
	case Bytes:
		if at := t.find(id); at >= 0 {
			t.works[at].done, t.works[at].total = e.Done, e.Total
		}
	case Finished:
		if at := t.find(id); at >= 0 {
			t.works = append(t.works[:at], t.works[at+1:]...)
		}
	case Paused:
		t.wipe()
		t.paused = true
	case Resumed:
		t.paused = false
	}
}

func (t *Terminal) find(id work) int {
	for i, w := range t.works {
		if w.work == id {
			return i
		}
	}
	return -1
}

// Close removes the picture. Lines that have not been seen are written.
func (t *Terminal) Close() error {
	close(t.stop)
	t.stopped.Wait()
	t.mu.Lock()
	defer t.mu.Unlock()
	t.paused = false
	t.wipe()
	return nil
}

// wipe writes what has happened, and leaves no picture.
func (t *Terminal) wipe() {
	width, height := t.size()
	t.draw(nil, width, height)
}

// Control sequences: ECMA-48, and DEC's synchronized output, which terminals that
// do not know it ignore.
const (
	beginFrame = "\x1b[?2026h"
	endFrame   = "\x1b[?2026l"
	eraseBelow = "\x1b[J"
	eraseLine  = "\x1b[K"
)

// frame brings the screen up to date.
func (t *Terminal) frame() {
	if t.paused {
		return
	}
	width, height := t.size()
	t.draw(t.picture(width, height), width, height)
}

// draw writes the lines that are to scroll away, and the picture below them.
//
// All below the cursor is never erased from the screen's first column of its first
// row: tmux takes that for clearing the screen, which it keeps in its history.
func (t *Terminal) draw(picture []shownLine, width, height int) {
	if len(t.lines) == 0 && len(picture) == 0 && len(t.drawn) == 0 {
		return
	}
	before := rows(t.drawn, width)
	reached := max(0, min(before, height-1)) // by a cursor that does not leave the screen
	var out bytes.Buffer
	out.WriteString(beginFrame)
	out.WriteString(up(reached))
	if len(t.lines) > 0 || len(picture) == 0 || before != len(t.drawn) {
		out.WriteString(strings.Repeat(eraseLine+"\r\n", reached) + up(reached))
	}
	for _, e := range t.lines {
		text := line(e, t.color)
		out.WriteString(t.paint(lineColor(e.Kind), text) + "\r\n")
	}
	written := len(t.lines) + len(picture)
	t.lines, t.drawn = nil, nil
	for _, l := range picture {
		text := cut(l.text, width-1)
		t.drawn = append(t.drawn, textWidth(text))
		out.WriteString(t.paint(l.color, text) + eraseLine + "\r\n")
	}
	if written > 0 {
		out.WriteString(eraseBelow)
	}
	out.WriteString(endFrame)
	_, _ = t.w.Write(out.Bytes())
}

func up(n int) string {
	if n == 0 {
		return "\r"
	}
	return fmt.Sprintf("\r\x1b[%dA", n)
}

// rows is how many rows lines take on a terminal. When it has become narrower
// than they are, it has wrapped them.
func rows(widths []int, width int) int {
	n := 0
	for _, w := range widths {
		n += max(1, (w+width-1)/max(1, width))
	}
	return n
}

// A shownLine is a line of the picture.
type shownLine struct{ text, color string }

// picture is what goes on, in lines that fit the terminal's height with the line
// that the cursor is on.
func (t *Terminal) picture(width, height int) []shownLine {
	if t.total == 0 && len(t.works) == 0 {
		return nil
	}
	room := height - 2 // for the cursor and the last line
	if room < 1 {
		return nil
	}
	works := t.works
	hidden := 0
	if len(works) > room {
		works, hidden = works[:room-1], len(works)-room+1
	}
	each := 0
	if len(works) > 0 {
		each = min(mostTail, (room-len(works))/len(works))
	}
	var lines []shownLine
	told := map[string]bool{}
	for _, w := range works {
		lines = append(lines, shownLine{t.workText(w, width-1), colorBold})
		if told[w.layer] {
			continue
		}
		told[w.layer] = true
		tail := t.tails[w.layer]
		for _, text := range tail[max(0, len(tail)-each):] {
			lines = append(lines, shownLine{"        │ " + text, colorDim})
		}
	}
	if hidden > 0 {
		lines = append(lines, shownLine{fmt.Sprintf("… and %d more", hidden), colorDim})
	}
	return append(lines, shownLine{t.statusText(), ""})
}

// workText is one work: how long, whose, what, and how far. Lines are no longer than
// they must be, since those that a terminal wraps when it becomes narrower may
// push others out of it. Where there is no room for all, the layer's name gives way
// first, and then the work's; how far it is stays.
func (t *Terminal) workText(w *shownWork, width int) string {
	var far string
	switch {
	case w.total > 0:
		far = fmt.Sprintf(" %s / %s", bytesText(w.done), bytesText(w.total))
	case w.done > 0:
		far = " " + bytesText(w.done)
	}
	long, text := fmt.Sprintf("%6s  ", elapsed(t.now().Sub(w.began))), PlainText(w.text)
	room := width - len(long) - len(far)
	if w.layer != "" {
		text = cut(PlainText(w.layer), max(room/3, room-textWidth(text)-2)) + ": " + text
	}
	return long + cut(text, room) + far
}

func (t *Terminal) statusText() string {
	if t.began.IsZero() {
		return ""
	}
	layers := "layers"
	if t.total == 1 {
		layers = "layer"
	}
	return fmt.Sprintf("%6s  %d of %d %s done", elapsed(t.now().Sub(t.began)), t.done, t.total, layers)
}

// elapsed is a time that goes on: without flickering digits.
func elapsed(d time.Duration) string {
	d = max(0, d)
	if d < time.Minute {
		return fmt.Sprintf("%.1fs", d.Truncate(100*time.Millisecond).Seconds())
	}
	return d.Truncate(time.Second).String()
}

// Colors, as parameters of SGR (ECMA-48 8.3.117).
const (
	colorBold   = "1"
	colorDim    = "2"
	colorRed    = "31"
	colorGreen  = "32"
	colorYellow = "33"
	colorCyan   = "36"
)

func lineColor(kind Kind) string {
	switch kind {
	case Hit:
		return colorCyan
	case Built, Checked:
		return colorGreen
	case Warning:
		return colorYellow
	case Failed:
		return colorRed
	case Summary:
		return colorBold
	case Debug, Notice:
		return colorDim
	}
	return ""
}

func (t *Terminal) paint(color, text string) string {
	if !t.color || color == "" {
		return text
	}
	return "\x1b[" + color + "m" + text + "\x1b[0m"
}
