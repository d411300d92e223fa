package build

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync"

	"github.com/docker/go-units"

	"github.com/layerbuild/layerbuild/imports"
	"github.com/layerbuild/layerbuild/layers"
	"github.com/layerbuild/layerbuild/progress"
)

// A downloader fetches each URL once in a build, so that all layers of it see the
// same file.
type downloader struct {
	b           *Builder
	credentials func() (*imports.Credentials, error)

	mu    sync.Mutex
	files map[string]func() (imports.Download, error) // by URL and hash
}

func newDownloader(b *Builder) *downloader {
	return &downloader{
		b:           b,
		credentials: sync.OnceValues(func() (*imports.Credentials, error) { return imports.LoadCredentials(authFiles(), netrc()) }),
		files:       map[string]func() (imports.Download, error){},
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
	credentials, err := d.credentials()
	if err != nil {
		return imports.Download{}, err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	release, err := d.b.limits.connections.acquire(ctx, 0)
	if err != nil {
		return imports.Download{}, err
	}
	defer release()
	what := "downloading " + imports.Redact(url)
	var began sync.Once
	done, meter := func() {}, d.b.meter(l, what)
	file, err := d.b.sources.Fetch(ctx, url, imports.FetchOptions{
		Hash:        hash,
		Offline:     d.b.Offline,
		MaxSize:     d.b.MaxDownload,
		Credentials: credentials,
		Progress: func(came, total int64) {
			began.Do(func() {
				if d.begin(l, url, total, cancel) {
					done = d.b.doing(l, what)
				}
			})
			meter(came, total)
		},
	})
	done()
	if errors.Is(context.Cause(ctx), errMounts) {
		return file, errMounts
	}
	if err == nil && file.Notice != "" {
		d.b.notice(l, progress.Warning, "%s", file.Notice)
	}
	return file, err
}

// begin is called when bytes begin to come. A process that only looks stops here.
func (d *downloader) begin(l *layers.Layer, url string, total int64, cancel context.CancelCauseFunc) (goOn bool) {
	if err := d.b.mounts(); err != nil {
		if d.b.Plan {
			d.b.notice(l, progress.Miss, "%s has changed, or is not here: it would be downloaded", imports.Redact(url))
		}
		cancel(err)
		return false
	}
	size := ""
	if total >= 0 {
		size = ", " + units.BytesSize(float64(total))
	}
	d.b.notice(l, progress.Notice, "downloading %s%s", imports.Redact(url), size)
	return true
}

// authFiles are where podman, skopeo and docker keep credentials: see
// containers-auth.json(5).
func authFiles() []string {
	var files []string
	if file := os.Getenv("REGISTRY_AUTH_FILE"); file != "" {
		files = append(files, file)
	}
	if dir := os.Getenv("XDG_RUNTIME_DIR"); dir != "" {
		files = append(files, filepath.Join(dir, "containers/auth.json"))
	}
	if dir, err := os.UserConfigDir(); err == nil {
		files = append(files, filepath.Join(dir, "containers/auth.json"))
	}
	if dir, err := os.UserHomeDir(); err == nil {
		files = append(files, filepath.Join(dir, ".docker/config.json"))
	}
	return files
}

// netrc is where curl and others keep credentials.
func netrc() string {
	if file := os.Getenv("NETRC"); file != "" {
		return file
	}
	if dir, err := os.UserHomeDir(); err == nil {
		return filepath.Join(dir, ".netrc")
	}
	return ""
}
