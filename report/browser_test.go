package report

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
)

// browse starts a browser, and returns what it complains of and what it asks for.
func browse(t *testing.T) (ctx context.Context, complaints func() []string) {
	t.Helper()
	if os.Getenv("LAYERBUILD_LONG") == "" {
		t.Skip("a browser, which is slow to start on a busy machine: `make test-long` runs it")
	}
	chromium, err := exec.LookPath("chromium")
	if err != nil {
		t.Skip("there is no chromium: `make test-long` installs it")
	}
	options := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.ExecPath(chromium), chromedp.NoSandbox, chromedp.UserDataDir(t.TempDir()),
		chromedp.Flag("disable-quic", true), chromedp.Flag("disable-component-update", true), chromedp.WSURLReadTimeout(time.Minute))
	ctx, cancel := chromedp.NewExecAllocator(t.Context(), options...)
	t.Cleanup(cancel)
	ctx, cancel = chromedp.NewContext(ctx)
	t.Cleanup(cancel)
	var mu sync.Mutex
	var all []string
	complain := func(text string) {
		mu.Lock()
		defer mu.Unlock()
		all = append(all, text)
	}
	err = chromedp.Listen(ctx, func(event any) {
		switch e := event.(type) {
		case *log.EventEntryAdded:
			complain(e.Entry.Text)
		case *runtime.EventExceptionThrown:
			complain(e.ExceptionDetails.Text)
		case *network.EventRequestWillBeSent:
			if !strings.HasPrefix(e.Request.URL, "file://") {
				complain("it asks for " + e.Request.URL)
			}
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	return ctx, func() []string {
		mu.Lock()
		defer mu.Unlock()
		return all
	}
}

func do(ctx context.Context, t *testing.T, actions ...chromedp.Action[chromedp.Void]) {
	t.Helper()
	if err := chromedp.Do(ctx, actions...); err != nil {
		t.Fatal(err)
	}
}

// evaluate returns what an expression is on the page.
func evaluate[T any](ctx context.Context, t *testing.T, expression string) T {
	t.Helper()
	value, err := chromedp.Run(ctx, chromedp.Evaluate[T](expression))
	if err != nil {
		t.Fatal(err)
	}
	return value
}

// Pages of a few and of many layers can be searched, filtered and linked to; nothing
// that they were given does anything, and nothing is asked for.
func TestBrowser(t *testing.T) {
	ctx, complaints := browse(t)
	for _, n := range []int{2, 100, 1000} {
		file := filepath.Join(t.TempDir(), "report.html")
		if err := os.WriteFile(file, []byte(write(t, manyLayers(n))), 0o644); err != nil {
			t.Fatal(err)
		}
		const shown = `[...document.querySelectorAll(".layer")].filter(l => !l.hidden).length`
		do(ctx, t, chromedp.Navigate("file://"+file))
		if got := evaluate[int](ctx, t, shown); got != n {
			t.Errorf("%d layers are shown of %d", got, n)
		}
		do(ctx, t, chromedp.KeyEvent("/"))
		if !evaluate[bool](ctx, t, `document.activeElement === search && (search.value = "", true)`) { // the protocol types what a browser would not
			t.Error("/ does not lead to the search")
		}
		do(ctx, t, chromedp.KeyEvent("needle in layer0"))
		if got := evaluate[int](ctx, t, shown); got != 1 {
			t.Errorf("%d layers have the needle", got)
		}
		evaluate[bool](ctx, t, `search.value = "", search.dispatchEvent(new Event("input"))`)
		do(ctx, t, chromedp.Click(chromedp.CSS("#only-missed")))
		if got := evaluate[int](ctx, t, shown); got != (n+2)/3 {
			t.Errorf("%d of %d layers are shown as built", got, n)
		}
		do(ctx, t, chromedp.Click(chromedp.CSS("#timeline a rect")))
		if !evaluate[bool](ctx, t, `document.querySelector("#layer-0").open`) {
			t.Error("a click on the timeline does not open the layer")
		}
		if title := evaluate[string](ctx, t, "document.title"); title != "Build 7: ok" {
			t.Errorf("the title is %q", title)
		}
	}
	if all := complaints(); len(all) > 0 {
		t.Errorf("the browser says:\n%s", strings.Join(all, "\n"))
	}
}
