package engine

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/docker/go-units"

	"github.com/layerbuild/layerbuild/imports"
	"github.com/layerbuild/layerbuild/layers"
	"github.com/layerbuild/layerbuild/progress"
	"github.com/layerbuild/layerbuild/registry"
)

// A downloader fetches each URL once in a build, so that all layers of it see the
// same file.
type downloader struct {
	b *Builder

	mu    sync.Mutex
	files map[string]func() (imports.Download, error) // by URL and hash
}

func newDownloader(b *Builder) *downloader {
	return &downloader{
		b:     b,
		files: map[string]func() (imports.Download, error){},
	}
}

// fetch returns the file behind a URL as it is now.
func (d *downloader) fetch(ctx context.Context, l *layers.Layer, url, hash string) (imports.Download, error) {
	d.mu.Lock()
	key := url + " " + hash
	file, ok := d.files[key]
	if !ok {
		file = sync.OnceValues(func() (imports.Download, error) { return d.ask(ctx, l, url, hash) })
		d.files[key] = file
	}
	d.mu.Unlock()
	return file()
}

func (d *downloader) ask(ctx context.Context, l *layers.Layer, url, hash string) (imports.Download, error) {
	release, err := d.b.limits.connections.acquire(ctx, 0)
	if err != nil {
		return imports.Download{}, err
	}
	defer release()
	what := "downloading " + registry.Redact(url)
	done := func() {}
	file, err := d.b.Sources.Fetch(ctx, url, imports.FetchOptions{
		Client:   d.b.registry(),
		Hash:     hash,
		Offline:  d.b.Offline,
		MaxSize:  d.b.MaxDownload,
		Progress: d.b.meter(l, what),
		Begin: func(total int64) error {
			if err := d.begin(l, url, total); err != nil {
				return err
			}
			done = d.b.doing(l, what)
			return nil
		},
	})
	done()
	if errors.Is(err, imports.ErrTooLarge) {
		err = fmt.Errorf("%w: raise --max-download if that is meant", err)
	}
	if err == nil && file.Notice != "" {
		d.b.notice(l, progress.Warning, "%s", file.Notice)
	}
	return file, err
}

// begin is called when bytes are about to come. A process that only looks stops here.
func (d *downloader) begin(l *layers.Layer, url string, total int64) error {
	if err := d.b.mounts(); err != nil {
		if d.b.Plan {
			d.b.notice(l, progress.Miss, "%s has changed, or is not here: it would be downloaded", registry.Redact(url))
		}
		return err
	}
	size := ""
	if total >= 0 {
		size = ", " + units.HumanSize(float64(total))
	}
	d.b.notice(l, progress.Notice, "downloading %s%s", registry.Redact(url), size)
	return nil
}
