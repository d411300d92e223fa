package report

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/layerbuild/layerbuild/buildcache"
	"github.com/layerbuild/layerbuild/explain"
)

// hostile is a name or a line that would do something in a page that took it for its own.
const hostile = `</script><img src=x onerror="document.title='owned'"><script>document.title='owned'</script>`

// manyLayers returns the page of a build of n layers, in chains of ten, which wrote hostile lines.
func manyLayers(n int) *Page {
	began := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	r := &explain.Report{Version: explain.Version, Build: explain.Build{Number: 7, Command: "build", Stackerfile: "/src/" + hostile, Started: began, Seconds: float64(n), Result: explain.OK}}
	p := &Page{Report: r, Logs: map[string]Log{}, Version: "v0", Now: began.Add(time.Hour)}
	for i := range n {
		l := explain.Layer{Name: fmt.Sprintf("layer%d", i), Outcome: explain.Hit, Seconds: 1, Key: strings.Repeat("k", 64)}
		if i%10 > 0 {
			l.Needs = []string{fmt.Sprintf("layer%d", i-1)}
		}
		if i%3 == 0 {
			l.Outcome = explain.Built
			l.Reasons = []explain.Reason{{Code: buildcache.Import, Name: "import " + hostile, Changes: []explain.Change{{Op: "~", Path: hostile}}}}
			r.Work = append(r.Work, explain.Work{Layer: l.Name, What: "running", Start: float64(i), End: float64(i) + 2, Track: i % 2})
			p.Logs[l.Name] = Log{Lines: []string{hostile, "needle in " + l.Name}}
		}
		r.Layers = append(r.Layers, l)
	}
	r.Count()
	p.Earlier = []*explain.Report{r}
	return p
}

func write(t *testing.T, p *Page) string {
	t.Helper()
	var out bytes.Buffer
	if err := HTML(&out, p); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

// What comes from elsewhere is text, and nothing is loaded.
func TestHostile(t *testing.T) {
	page := write(t, manyLayers(30))
	if strings.Contains(page, hostile) || strings.Contains(page, "<img") {
		t.Error("a hostile name is in the page as it is")
	}
	for _, loads := range []string{"http://", "https://", "url(", "@import", "src="} {
		if at := strings.Index(strings.ReplaceAll(page, "src=x onerror", ""), loads); at >= 0 {
			t.Errorf("the page has %q: …%s…", loads, page[max(0, at-40):at+40])
		}
	}
}

// A page of 100 layers, without logs, is below 300 KB.
func TestSize(t *testing.T) {
	p := manyLayers(100)
	p.Logs = nil
	if size := len(write(t, p)); size > 300_000 {
		t.Errorf("it has %d bytes", size)
	}
}

// The critical path is the chain that ended last, from what it waited for.
func TestCriticalPath(t *testing.T) {
	layer := func(name string, needs ...string) explain.Layer {
		return explain.Layer{Name: name, Outcome: explain.Built, Needs: needs}
	}
	work := func(name string, start, end float64) explain.Work {
		return explain.Work{Layer: name, What: "running", Start: start, End: end}
	}
	v := newView(&Page{Report: &explain.Report{
		Layers: []explain.Layer{layer("base"), layer("quick", "base"), layer("slow", "base"), layer("last", "quick", "slow"), layer("apart")},
		Work:   []explain.Work{work("base", 0, 1), work("quick", 1, 2), work("slow", 1, 5), work("apart", 2, 4), work("last", 5.5, 6)},
	}})
	var path []string
	for _, l := range v.Layers {
		if l.Critical {
			path = append(path, l.Name)
		}
	}
	if got := strings.Join(path, " "); got != "base slow last" || v.Critical != "6.0 s" {
		t.Errorf("the critical path is %q, %s", got, v.Critical)
	}
	if last := v.Layers[3]; last.After != "slow" || last.Waited != 0.5 {
		t.Errorf("last waited %v after %q", last.Waited, last.After)
	}
}

// Builds of nothing, that failed, or with a damaged journal have a page too.
func TestSmall(t *testing.T) {
	for name, r := range map[string]*explain.Report{
		"nothing": {},
		"failed":  {Build: explain.Build{Result: explain.Failed, Error: hostile}, Layers: []explain.Layer{{Name: "a", Outcome: explain.Broken}}},
		"loop":    {Layers: []explain.Layer{{Name: "a", Needs: []string{"a", "b"}}}, Work: []explain.Work{{Layer: "a", Start: 1, End: -1}}},
		"no time": {Layers: []explain.Layer{{Name: "a"}}, Work: []explain.Work{{Layer: "a"}, {Layer: "of no layer", Track: 3}}},
	} {
		if page := write(t, &Page{Report: r}); !strings.Contains(page, "</html>") {
			t.Errorf("%s: the page is cut", name)
		}
	}
}
