package engine

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/docker/go-units"

	"github.com/layerbuild/layerbuild/imports"
	"github.com/layerbuild/layerbuild/layers"
	"github.com/layerbuild/layerbuild/progress"
	"github.com/layerbuild/layerbuild/redact"
)

// A downloader fetches each URL once in a build, so that all layers of it see the
// same file.
type downloader struct {
	b *Builder

	mu    sync.Mutex
	files map[string]func() (downloaded, error) // by URL and hash
}

// downloaded is the file behind a URL, unless that would have to be downloaded first.
type downloaded struct {
	imports.Download
	why unknown
}

func newDownloader(b *Builder) *downloader {
	return &downloader{
		b:     b,
		files: map[string]func() (downloaded, error){},
	}
}

// fetch returns the file behind a URL as it is now.
func (d *downloader) fetch(ctx context.Context, l *layers.Layer, url, hash string) (imports.Download, unknown, error) {
	d.mu.Lock()
	key := url + " " + hash
	file, ok := d.files[key]
	if !ok {
		file = sync.OnceValues(func() (downloaded, error) { return d.ask(ctx, l, url, hash) })
		d.files[key] = file
	}
	d.mu.Unlock()
	answer, err := file()
	return answer.Download, answer.why, err
}

func (d *downloader) ask(ctx context.Context, l *layers.Layer, url, hash string) (file downloaded, err error) {
	release, err := d.b.limits.connections.acquire(ctx, 0)
	if err != nil {
		return file, err
	}
	defer release()
	what := "downloading " + redact.URL(url)
	done := func() {}
	file.Download, err = d.b.Sources.Fetch(ctx, url, imports.FetchOptions{
		Client:   d.b.registry(),
		Hash:     hash,
		Offline:  d.b.Offline,
		MaxSize:  d.b.MaxDownload,
		Progress: d.b.meter(l, what),
		Begin: func(total int64) (err error) {
			if file.why, err = d.begin(ctx, l, url, total); err != nil || file.why != "" {
				return cmp.Or(err, errNotBegun)
			}
			done = d.b.doing(l, what)
			return nil
		},
	})
	done()
	if file.why != "" {
		return file, nil
	}
	if errors.Is(err, imports.ErrTooLarge) {
		err = fmt.Errorf("%w: raise --max-download if that is meant", err)
	}
	if err == nil && file.Notice != "" {
		d.b.notice(l, progress.Warning, "%s", file.Notice)
	}
	return file, err
}

// errNotBegun ends a download for which there is a reason not to begin.
var errNotBegun = errors.New("not downloaded")

// begin is called when bytes are about to come. A process that only looks stops here.
func (d *downloader) begin(ctx context.Context, l *layers.Layer, url string, total int64) (unknown, error) {
	may := false
	var err error
	if !d.b.Plan {
		may, err = d.b.session.Ready(ctx)
	}
	if err != nil || !may {
		return unknown(redact.URL(url) + " has changed, or is not here: it would be downloaded"), err
	}
	size := ""
	if total >= 0 {
		size = ", " + units.HumanSize(float64(total))
	}
	d.b.notice(l, progress.Notice, "downloading %s%s", redact.URL(url), size)
	return "", nil
}
