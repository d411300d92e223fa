package explain

import (
	"fmt"
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// shortDetails is how many lines below a reason are shown unless all are asked for.
const shortDetails = 6

// Options say how much is shown.
type Options struct {
	All bool // every line, and every hash in full
	Now time.Time
}

// Text writes a report for a terminal.
func Text(w io.Writer, r *Report, o Options) error {
	var out strings.Builder
	line := func(indent int, text string) {
		out.WriteString(strings.Repeat("  ", indent) + text + "\n")
	}
	line(0, heading(r, o))
	if r.Build.Error != "" && r.Against == "" {
		line(0, escape(r.Build.Error))
	}
	all := r.followers()
	for i := range r.Layers {
		l := &r.Layers[i]
		if len(l.Because) > 0 && !o.All {
			continue // below its cause
		}
		line(0, escape(l.Name)+": "+outcome(l))
		for _, text := range l.Lines(o) {
			line(1, text)
		}
		for _, in := range l.Inputs {
			line(1, fmt.Sprintf("= %s %s %s", escape(in.Code), quoted(in.Name), value(in.Value, o)))
		}
		if followers := all[l.Name]; len(followers) > 0 && !o.All {
			line(1, fmt.Sprintf("so %s rebuilt: %s", plural(len(followers), "layer"), names(followers)))
		}
	}
	for _, text := range r.Reused() {
		line(0, text)
	}
	if r.Against == "" {
		line(0, r.Cache.String())
	}
	_, err := io.WriteString(w, out.String())
	return err
}

// heading names the build, and what it is compared with.
func heading(r *Report, o Options) string {
	b := r.Build
	text := fmt.Sprintf("build %d of %s, %s ago", b.Number, escape(b.Stackerfile), age(b.Started, o.Now))
	switch b.Result {
	case OK:
		text += fmt.Sprintf(", took %s", seconds(b.Seconds))
	default:
		text += fmt.Sprintf(", %s after %s", escape(b.Result), seconds(b.Seconds))
	}
	if r.Against != "" {
		text += ", compared with " + escape(r.Against)
	}
	return text
}

func outcome(l *Layer) string {
	text := map[string]string{
		Hit:        "found in the cache",
		Built:      "built",
		WouldBuild: "would be built",
		Broken:     "failed",
		NotReached: "not reached",
		Same:       "all inputs are equal",
		Differs:    "inputs differ",
		Absent:     "only here",
	}[l.Outcome]
	switch {
	case text == "":
		text = escape(l.Outcome)
	case l.Outcome == Hit && l.Seconds > 0:
		text += ", saved " + seconds(l.Seconds)
	case l.Outcome == Built:
		text += " in " + seconds(l.Seconds)
	case l.Outcome == WouldBuild && l.Seconds > 0:
		text += ", took " + seconds(l.Seconds) + " the last time"
	}
	if l.SameResult {
		text += ", with the same result"
	}
	if l.There != "" {
		text += "; there " + escape(l.There)
	}
	return text
}

// Lines are a layer's reasons with their details, what they compare with, and a
// hint; a line each, without its newline.
func (l *Layer) Lines(o Options) (lines []string) {
	for i := range l.Reasons {
		r := &l.Reasons[i]
		lines = append(lines, r.Head())
		if l.detailed(o) {
			lines = append(lines, r.details(o)...)
		}
	}
	for _, r := range l.Labels {
		lines = append(lines, "labels were generated again because "+r.Head())
		lines = append(lines, r.details(o)...)
	}
	return append(lines, l.rest(o)...)
}

// More are a layer's lines but for the heads of its reasons: each detail says of
// which it is, if there are several.
func (l *Layer) More(o Options) (lines []string) {
	for i := range l.Reasons {
		details := l.Reasons[i].details(o)
		if !l.detailed(o) || len(details) == 0 {
			continue
		}
		if len(l.Reasons) > 1 {
			lines = append(lines, "  "+quoted(l.Reasons[i].label())+":")
		}
		lines = append(lines, details...)
	}
	return append(lines, l.rest(o)...)
}

// detailed tells whether details are shown: those of a comparison with what is
// merely alike are not, unless all are asked for.
func (l *Layer) detailed(o Options) bool {
	return l.Baseline == nil || l.Baseline.Kind != BaselineNearest || o.All
}

func (l *Layer) rest(o Options) (lines []string) {
	if base := l.Baseline; base != nil && base.Kind != BaselineAgainst && (base.Kind != BaselineHere || o.All) {
		lines = append(lines, base.text(o))
	}
	if l.Hint != "" {
		lines = append(lines, "hint: "+escape(l.Hint))
	}
	return lines
}

// text says what the reasons compare with.
func (b *Baseline) text(o Options) string {
	text := map[string]string{
		BaselineHere:     "compared with the last good build of it",
		BaselineCheckout: "compared with layer " + quoted(b.Layer) + " of " + escape(b.Stackerfile),
		BaselineNearest:  "compared with what is most like it, layer " + quoted(b.Layer) + " of " + escape(b.Stackerfile),
		BaselineAgainst:  "compared with layer " + quoted(b.Layer) + " of " + escape(b.Stackerfile),
	}[b.Kind]
	return text + ", built " + age(b.Built, o.Now) + " ago"
}

// Head is the reason in one line.
func (r *Reason) Head() string {
	name := quoted(r.label())
	text := escape(r.Code) + ": "
	switch r.Code {
	case First:
		return text + "it has not been built here before"
	case NoCache:
		return text + "--no-cache was given"
	case LastFail:
		return text + "it failed the last time"
	case Untracked:
		return text + "bind " + escape(r.label()) + " may have changed (`track: true` watches it)"
	case Evicted:
		return text + "its " + escape(r.Name) + " was removed " + escape(r.Note)
	case Missing:
		return text + "its " + escape(r.Name) + " is gone"
	case Corrupt:
		return text + "its " + escape(r.Name) + " was damaged and has been put aside"
	}
	if r.Code == Format && r.Name == "record" {
		return text + "its record is of a former release and could not be carried over"
	}
	short := len(r.Diff) == 0 && len(r.Changes) == 0 && len(r.Old)+len(r.New) > 0 && r.Code != Base && !isTree(r.Code)
	switch {
	case r.Uncertain:
		return text + name + " is secret on both sides, which cannot be compared"
	case r.Note == added:
		text += name + " is new"
		if short && !r.Redacted {
			text += ": " + value(r.New, Options{})
		}
	case r.Note == removed:
		text += name + " is gone"
	case r.By != "" && r.Code == Base:
		text += "layer " + quoted(r.By) + " was rebuilt to other content"
	case r.By != "":
		text += name + " changed: layer " + quoted(r.By) + " was rebuilt to other content"
	case r.Redacted && len(r.Diff) == 0:
		text += name + " changed, a secret"
	case short:
		text += name + " changed: " + value(r.Old, Options{}) + " → " + value(r.New, Options{})
	default:
		text += name + " changed"
		if n := len(r.Changes) + r.More; len(r.Changes) > 0 {
			text += fmt.Sprintf(" in %s", plural(n, "place"))
		}
	}
	return text
}

func isTree(code string) bool { return code == Import || code == Overlay || code == Bind }

// What the Note of a changed input can be.
const (
	added   = "added"
	removed = "removed"
)

// Presence returns the Note of an input that only one side has, or "".
func Presence(before, now bool) string {
	switch {
	case !before:
		return added
	case !now:
		return removed
	}
	return ""
}

// numbered matches the names of inputs whose order counts.
var numbered = regexp.MustCompile(`^(copy|overlay) \d+ (.*)$`)

// label is how people call the input.
func (r *Reason) label() string {
	if r.Called != "" {
		return r.Called
	}
	if parts := numbered.FindStringSubmatch(r.Name); parts != nil {
		return map[string]string{"copy": "import", "overlay": "overlay dir"}[parts[1]] + " at " + parts[2]
	}
	for _, prefix := range []string{"env ", "bind ", "secret "} {
		if rest, ok := strings.CutPrefix(r.Name, prefix); ok {
			return rest
		}
	}
	return r.Name
}

// details are what changed, below the reason's head.
func (r *Reason) details(o Options) (lines []string) {
	if r.Code == Base && r.By == "" && r.Note == "" && r.Old != "" {
		lines = append(lines, "  - "+value(r.Old, o), "  + "+value(r.New, o))
	}
	for _, text := range r.Diff {
		lines = append(lines, "  "+escape(text))
	}
	for _, c := range r.Changes {
		lines = append(lines, "  "+c.text(o))
	}
	more := r.More
	if n := len(lines) - shortDetails; n > 1 && !o.All {
		lines, more = lines[:shortDetails], more+n
	}
	if more > 0 {
		lines = append(lines, fmt.Sprintf("  … and %d more", more))
	}
	return lines
}

func (c *Change) text(o Options) string {
	path := c.Path
	if path == "." {
		path = "(itself)"
	}
	text := escape(c.Op) + " " + escape(path)
	for _, a := range c.Attributes {
		switch {
		case a.Name == "size":
			text += fmt.Sprintf(" %s→%s B", escape(a.Old), escape(a.New))
		case a.Old == "":
			text += fmt.Sprintf(" %s %s", escape(a.Name), value(a.New, o))
		default:
			text += fmt.Sprintf(" %s %s→%s", escape(a.Name), value(a.Old, o), value(a.New, o))
		}
	}
	return text
}

// value shows a value: a digest short, unless all is asked for, and text quoted
// where it could be taken for something else.
func value(s string, o Options) string {
	digest, isDigest := strings.CutPrefix(s, "sha256:")
	ref, at, isRef := strings.Cut(s, " sha256:")
	switch {
	case isDigest && hexadecimal(digest):
		return short(digest, o)
	case isRef && hexadecimal(at):
		return escape(ref) + " " + short(at, o)
	case len(s) == 64 && hexadecimal(s):
		return short(s, o)
	case s == "" || strings.ContainsAny(s, " \"'→") || escape(s) != s:
		return strconv.Quote(cut(s, o))
	}
	return cut(s, o)
}

func hexadecimal(s string) bool {
	return s != "" && strings.Trim(s, "0123456789abcdef") == ""
}

func short(hex string, o Options) string {
	if o.All || len(hex) <= 8 {
		return hex
	}
	return hex[:8] + "…"
}

const mostValue = 120

func cut(s string, o Options) string {
	if o.All || len(s) <= mostValue {
		return s
	}
	at := mostValue
	for !utf8.RuneStart(s[at]) {
		at--
	}
	return s[:at] + "…"
}

// followers are, by the layers that made them miss, those that missed for nothing
// but a layer's rebuild, also over others.
func (r *Report) followers() map[string][]string {
	found := map[string][]string{}
	roots := map[string][]string{} // of each follower
	for _, l := range r.Layers {
		for _, cause := range l.Because {
			behind := roots[cause]
			if behind == nil {
				behind = []string{cause}
			}
			for _, root := range behind {
				if !slices.Contains(roots[l.Name], root) {
					roots[l.Name] = append(roots[l.Name], root)
					found[root] = append(found[root], l.Name)
				}
			}
		}
	}
	return found
}

// Causes folds the layers that were rebuilt only since others were: a line for
// each of these others.
func (r *Report) Causes() (lines []string) {
	all := r.followers()
	for _, l := range r.Layers {
		if followers := all[l.Name]; len(followers) > 0 {
			lines = append(lines, fmt.Sprintf("%s rebuilt because %s was", names(followers), escape(l.Name)))
		}
	}
	return lines
}

// Reused says which layers were spared since what they read came out the same.
func (r *Report) Reused() (lines []string) {
	for _, l := range r.Layers {
		if !l.SameResult {
			continue
		}
		var spared []string
		for _, other := range r.Layers {
			if other.Outcome == Hit && slices.Contains(other.Needs, l.Name) {
				spared = append(spared, other.Name)
			}
		}
		if len(spared) > 0 {
			lines = append(lines, fmt.Sprintf("%s rebuilt with the same result: %s reused", escape(l.Name), names(spared)))
		}
	}
	return lines
}

const mostNames = 8

func names(all []string) string {
	var out []string
	for i, name := range all {
		if i == mostNames {
			return strings.Join(out, ", ") + fmt.Sprintf(" and %d more", len(all)-i)
		}
		out = append(out, escape(name))
	}
	return strings.Join(out, ", ")
}

// String is the hit rate, by count and by time.
func (c Cache) String() string {
	text := fmt.Sprintf("%d of %s from the cache", c.Hits, plural(c.Layers, "layer"))
	if c.Hits == 0 {
		return text
	}
	text += fmt.Sprintf(", %d %%", 100*c.Hits/c.Layers)
	if part := c.ByTime(); part >= 0 {
		text += fmt.Sprintf("; %d %% of the time, %s of %s saved", int(100*part), seconds(c.Saved), seconds(c.Saved+c.Spent))
	}
	return text
}

func plural(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

func seconds(s float64) string {
	d := time.Duration(s * float64(time.Second))
	if d < time.Second {
		return d.Round(time.Millisecond).String()
	}
	return d.Round(10 * time.Millisecond).String()
}

func age(t, now time.Time) string {
	switch d := now.Sub(t); {
	case d < 2*time.Minute:
		return plural(int(max(d, 0)/time.Second), "second")
	case d < 2*time.Hour:
		return plural(int(d/time.Minute), "minute")
	case d < 48*time.Hour:
		return plural(int(d/time.Hour), "hour")
	default:
		return plural(int(d/(24*time.Hour)), "day")
	}
}

// escape makes text safe for a terminal, on one line.
func escape(s string) string {
	safe := true
	for _, r := range s {
		if !strconv.IsPrint(r) || r == utf8.RuneError {
			safe = false
			break
		}
	}
	if safe {
		return s
	}
	text := strconv.Quote(s)
	return strings.ReplaceAll(text[1:len(text)-1], `\"`, `"`)
}

func quoted(s string) string { return strconv.Quote(s) }
