package explain

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/layerbuild/layerbuild/buildcache"
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
		line(0, escape(l.Name)+": "+l.Said())
		for _, text := range l.Lines(o) {
			line(1, text)
		}
		for _, in := range l.Inputs {
			line(1, fmt.Sprintf("= %s %s %s", escape(string(in.Code)), quoted(in.Name), value(in.Value, o)))
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
		text += fmt.Sprintf(", took %s", Seconds(b.Seconds))
	default:
		text += fmt.Sprintf(", %s after %s", escape(b.Result), Seconds(b.Seconds))
	}
	if r.Against != "" {
		text += ", compared with " + escape(r.Against)
	}
	return text
}

// Said returns what became of the layer, in words.
func (l *Layer) Said() string {
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
		text += ", saved " + Seconds(l.Seconds)
	case l.Outcome == Built:
		text += " in " + Seconds(l.Seconds)
	case l.Outcome == WouldBuild && l.Seconds > 0:
		text += ", took " + Seconds(l.Seconds) + " the last time"
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
	return escape(string(r.Code)) + ": " + r.text()
}

func (r *Reason) text() string {
	if text, ok := r.keyless(); ok {
		return text
	}
	name := quoted(r.label())
	switch {
	case r.Uncertain:
		return name + " is secret on both sides, which cannot be compared"
	case r.Note == reordered:
		return "the order changed: " + value(r.Old, Options{}) + " → " + value(r.New, Options{})
	case r.Note == added && r.short() && !r.Redacted:
		return name + " is new: " + value(r.New, Options{})
	case r.Note == added:
		return name + " is new"
	case r.Note == removed:
		return name + " is gone"
	case r.By != "" && r.Code == buildcache.BaseChange:
		return "layer " + quoted(r.By) + " was rebuilt to other content"
	case r.By != "":
		return name + " changed: layer " + quoted(r.By) + " was rebuilt to other content"
	case r.Redacted && len(r.Diff) == 0:
		return name + " changed, a secret"
	case r.short():
		return name + " changed: " + change(r.Old, r.New, Options{})
	case r.single():
		return name + " changed: " + r.changeText(&r.Changes[0], Options{})
	case len(r.Changes) > 0:
		return name + " changed in " + plural(len(r.Changes)+r.More, "place")
	}
	return name + " changed"
}

// keyless is the text of a reason that no input gives.
func (r *Reason) keyless() (text string, ok bool) {
	what := escape(r.Name)
	switch r.Code {
	case buildcache.First:
		return "it has not been built here before", true
	case buildcache.NoCache:
		return "--no-cache was given", true
	case buildcache.Failed:
		return "it failed the last time", true
	case buildcache.Untracked:
		return "bind " + escape(r.label()) + " may have changed (`track: true` watches it)", true
	case buildcache.Evicted:
		return "its " + what + " was removed " + escape(r.Note), true
	case buildcache.Missing:
		return "its " + what + " is gone", true
	case buildcache.Corrupt:
		return "its " + what + " was damaged and has been put aside", true
	case buildcache.Untrusted:
		return "no trusted key vouches for its record, and --cache-sign-key passes on no other", true
	case buildcache.Format:
		return "its record is of a former release and could not be carried over", r.Name == "record"
	}
	return "", false
}

// short reports whether the values themselves are worth showing.
func (r *Reason) short() bool {
	return len(r.Diff) == 0 && len(r.Old)+len(r.New) > 0 && !isTree(r.Code)
}

// single reports whether one change is all there is to tell, so that it fits the
// reason's line.
func (r *Reason) single() bool { return len(r.Changes) == 1 && r.More == 0 }

// change shows what became of a value. A reference that stays is not said twice.
func change(old, new string, o Options) string {
	before, was, ok1 := strings.Cut(old, " sha256:")
	after, is, ok2 := strings.Cut(new, " sha256:")
	if ok1 && ok2 && before == after {
		return escape(before) + " was " + short(was, o) + ", is " + short(is, o)
	}
	return value(old, o) + " → " + value(new, o)
}

// What the Note of a changed input can be.
const (
	added     = "added"
	removed   = "removed"
	reordered = "reordered"
)

// label is how people call the input.
func (r *Reason) label() string {
	p := newPlaced(buildcache.Input{Name: r.Name})
	switch {
	case p.order > 0 && r.Called != "":
		return r.Called + " at " + p.place
	case r.Called != "":
		return r.Called
	case p.kind == "copy":
		return "import at " + p.place
	case p.kind == "overlay":
		return "overlay dir at " + p.place
	case p.kind == "import" && p.place != "":
		return "import " + p.place
	case slices.Contains([]string{"env", "bind", "secret"}, p.kind) && p.place != "":
		return p.place
	}
	return r.Name
}

// details are what changed, below the reason's head.
func (r *Reason) details(o Options) (lines []string) {
	if o.All && r.Code == buildcache.BaseChange && r.By == "" && r.Note == "" && r.Old != "" {
		lines = append(lines, "  "+change(r.Old, r.New, o))
	}
	for _, text := range r.Diff {
		lines = append(lines, "  "+escape(text))
	}
	if !r.single() || o.All {
		for i := range r.Changes {
			lines = append(lines, "  "+escape(r.Changes[i].Op)+" "+r.changeText(&r.Changes[i], o))
		}
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

// changeText says of one path in what it differs.
func (r *Reason) changeText(c *Change, o Options) string {
	if !r.single() && len(c.Attributes) == 0 {
		return escape(below(r.root(), c.Path)) // + or - stands before it
	}
	return c.Text(r.root(), o)
}

// Text says in one line what became of a path, which is shown below root.
func (c *Change) Text(root string, o Options) string {
	path := escape(below(root, c.Path))
	switch c.Op {
	case "+":
		return path + " is new"
	case "-":
		return path + " is gone"
	}
	var words []string
	for _, a := range c.Attributes {
		if text := a.text(c, o); text != "" {
			words = append(words, text)
		}
	}
	return path + ": " + strings.Join(words, ", ")
}

// root is what paths below an import are shown below: its source or, if nobody
// knows that, where it lies.
func (r *Reason) root() string {
	return cmp.Or(r.Called, newPlaced(buildcache.Input{Name: r.Name}).place)
}

// below returns a path as it is below root. One that is not UTF-8 is quoted as a whole.
func below(root, path string) string {
	if root == "" {
		return path
	}
	root = strings.TrimSuffix(root, "/")
	if raw, err := strconv.Unquote(path); err == nil && !utf8.ValidString(raw) {
		return strconv.Quote(root + "/" + raw)
	}
	return cmp.Or(strings.TrimSuffix(root+"/"+path, "/."), "/")
}

// text says what became of an attribute, in words.
func (a *Attribute) text(c *Change, o Options) string {
	old, new := given(a.Old, o), given(a.New, o)
	switch a.Name {
	case "sha256":
		return "content" + contentText(a, c, o)
	case "size":
		return "" // beside the content
	case "place":
		return "moved from " + old + " to " + new
	case "content":
		if a.New == "true" {
			return "copied is what is in the folder, and no longer the folder"
		}
		return "copied is the folder, and no longer what is in it"
	case "type":
		return typeName(a.Old) + " → " + typeName(a.New)
	}
	return escape(a.Name) + " " + old + " → " + new
}

// contentText shows in what a file's content differs: its digests if all is asked
// for, and its size.
func contentText(a *Attribute, c *Change, o Options) (text string) {
	if o.All {
		text = " " + value(a.Old, o) + " → " + value(a.New, o)
	}
	for _, size := range c.Attributes {
		if size.Name == "size" {
			return text + " (" + escape(size.Old) + " → " + escape(size.New) + " bytes)"
		}
	}
	return text
}

func given(s string, o Options) string {
	if s == "" {
		return "(none)"
	}
	return value(s, o)
}

// typeName calls a type of imports.Entry as people do.
func typeName(name string) string {
	switch name {
	case "dir":
		return "folder"
	case "link":
		return "symlink"
	case "char", "block":
		return name + " device"
	}
	return escape(name)
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

// String says how many layers the cache had, and the time that saved.
func (c Cache) String() string {
	text := fmt.Sprintf("%d/%s cached", c.Hits, plural(c.Layers, "layer"))
	if c.Saved > 0 {
		text += ", saved " + Seconds(c.Saved)
	}
	return text
}

func plural(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

// Seconds shows a time as people write it: 322 ms, 12.5 s, 3m20s.
func Seconds(s float64) string {
	d := time.Duration(s * float64(time.Second))
	switch {
	case d < time.Second:
		return fmt.Sprintf("%d ms", d.Round(time.Millisecond).Milliseconds())
	case d < time.Minute:
		return strconv.FormatFloat(d.Round(10*time.Millisecond).Seconds(), 'f', -1, 64) + " s"
	}
	return d.Round(time.Second).String()
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
