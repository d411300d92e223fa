package remote

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/opencontainers/go-digest"
	ispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/layerbuild/layerbuild/buildcache"
)

// counting is a Repository that counts what it is asked, and may fail.
type counting struct {
	Repository
	fail func(what string) error

	mu    sync.Mutex
	asked []string
}

func (c *counting) ask(what string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.asked = append(c.asked, what)
	if c.fail == nil {
		return nil
	}
	return c.fail(what)
}

func (c *counting) Manifest(ctx context.Context, tag string) ([]byte, error) {
	if err := c.ask("get " + tag); err != nil {
		return nil, err
	}
	return c.Repository.Manifest(ctx, tag)
}

func (c *counting) Blob(ctx context.Context, d ispec.Descriptor, to Sink) error {
	if err := c.ask("blob " + d.Digest.String()); err != nil {
		return err
	}
	return c.Repository.Blob(ctx, d, to)
}

func (c *counting) PutBlob(ctx context.Context, d ispec.Descriptor, open func() (io.ReadCloser, error)) error {
	if err := c.ask("put " + d.Digest.String()); err != nil {
		return err
	}
	return c.Repository.PutBlob(ctx, d, open)
}

func (c *counting) Tag(ctx context.Context, tag string, a *Artifact) error {
	if err := c.ask("tag " + tag + " " + a.Type); err != nil {
		return err
	}
	return c.Repository.Tag(ctx, tag, a)
}

// a build of one layer, as far as the remote cache sees it.
type build struct {
	t     *testing.T
	at    Repository
	key   *PrivateKey
	layer string
	warns []string
}

func (b *build) recipe() buildcache.Key {
	return buildcache.Key(digest.FromString(b.layer).Encoded())
}

func (b *build) warn(text string) { b.warns = append(b.warns, text) }

func (b *build) reader() *Reader {
	r := &Reader{
		Question: func() Question {
			return Question{[]string{ScopeTag("project", "main")}, func(context.Context) []buildcache.Key { return []buildcache.Key{b.recipe()} }}
		},
		Warn: b.warn,
		Keep: func(context.Context, [][]byte) error { return nil },
	}
	from := From{Place: Place{Type: TypeRegistry, Name: "h/c"}}
	if b.key == nil {
		from.TrustRegistry = true
		r.Add(b.at, from, nil)
	} else {
		r.Add(b.at, from, []*PublicKey{&b.key.PublicKey})
	}
	return r
}

func (b *build) records() []*buildcache.Record {
	blob := digest.FromString(b.layer)
	rootfs := record(buildcache.Rootfs, "make "+b.layer, `{"layers":[{"diff_id":"`+hello+`"}]}`)
	pack := record(buildcache.Pack, "pack "+b.layer, fmt.Sprintf(`{"digest":%q,"size":%d}`, blob, len(b.layer)))
	for _, r := range []*buildcache.Record{rootfs, pack} {
		r.Origin = buildcache.Origin{Layer: b.layer, Stackerfile: "/home/me/stacker.yaml"}
		if b.key != nil {
			r.Vouched = &buildcache.Vouch{By: b.key.ID(), Time: noon}
		}
	}
	return []*buildcache.Record{rootfs, pack}
}

// write sends what the build has made.
func (b *build) write(reader *Reader) error {
	w := &Writer{Key: b.key, Warn: b.warn}
	w.Add(b.at, To{Place: Place{Type: TypeRegistry, Name: "h/c"}}, reader)
	for _, r := range b.records() {
		w.Made(b.t.Context(), r)
	}
	d := ispec.Descriptor{MediaType: ispec.MediaTypeImageLayerGzip, Digest: digest.FromString(b.layer), Size: int64(len(b.layer))}
	w.Blob(b.t.Context(), d, content([]byte(b.layer)))
	return w.Finish(b.t.Context(), Result{
		Scope:   ScopeTag("project", "main"),
		Targets: []buildcache.Key{b.recipe()},
		Recipes: map[string]buildcache.Key{b.layer: b.recipe()},
		Layers:  []string{b.layer},
	})
}

// hits reports whether a reader finds all records of the build.
func (b *build) hits(r *Reader) bool {
	for _, want := range b.records() {
		if got := r.Record(b.t.Context(), want.Kind, want.Key); got == nil || string(got.Result) != string(want.Result) {
			return false
		}
	}
	return true
}

func folder(t *testing.T) *counting {
	return &counting{Repository: NewFolder(filepath.Join(t.TempDir(), "cache"))}
}

func TestExchange(t *testing.T) {
	for name, key := range map[string]*PrivateKey{"signed": newKey(t), "not signed": nil} {
		at := folder(t)
		app := &build{t: t, at: at, key: key, layer: "app"}
		if err := app.write(nil); err != nil {
			t.Fatal(err)
		}
		at.asked = nil
		r := app.reader()
		if len(at.asked) != 0 {
			t.Errorf("%s: %q was asked before anything was missed", name, at.asked)
		}
		if !app.hits(r) {
			t.Errorf("%s: what was written is not found: %q", name, app.warns)
		}
		if len(at.asked) != 1 {
			t.Errorf("%s: the scope covers the build, but %q was asked", name, at.asked)
		}
		if found := r.Record(t.Context(), buildcache.Rootfs, app.records()[0].Key); found.Origin.Stackerfile != "" {
			t.Errorf("%s: the path %s has left", name, found.Origin.Stackerfile)
		}
		blob := ispec.Descriptor{Digest: digest.FromString("app"), Size: 3}
		var got memory
		err := r.Blob(t.Context(), blob, func(fetch func(context.Context, Sink) error) error { return fetch(t.Context(), &got) })
		if err != nil || got.String() != "app" || !r.Has(blob.Digest) {
			t.Errorf("%s: the blob holds %q, %v", name, got.String(), err)
		}
		if len(app.warns) > 0 {
			t.Errorf("%s: warnings: %q", name, app.warns)
		}
	}
}

// What a reader of the same place knows to be there is neither sent nor asked for again.
func TestNothingTwice(t *testing.T) {
	at := folder(t)
	app := &build{t: t, at: at, key: newKey(t), layer: "app"}
	if err := app.write(nil); err != nil {
		t.Fatal(err)
	}
	r := app.reader()
	if !app.hits(r) {
		t.Fatal("what was written is not found")
	}
	at.asked = nil
	if err := app.write(r); err != nil || len(at.asked) != 0 {
		t.Errorf("what is there costs %q, %v", at.asked, err)
	}
}

// Two builds of one scope keep each other's records; a layer's new ones replace its old.
func TestScopeMerges(t *testing.T) {
	at, key := folder(t), newKey(t)
	app := &build{t: t, at: at, key: key, layer: "app"}
	web := &build{t: t, at: at, key: key, layer: "web"}
	for _, b := range []*build{app, web, web} {
		if err := b.write(nil); err != nil {
			t.Fatal(err)
		}
	}
	at.asked = nil
	if r := app.reader(); !app.hits(r) || !web.hits(r) || len(at.asked) != 1 {
		t.Errorf("the scope has lost records, or does not cover the build: %q", at.asked)
	}
}

// A registry that takes no config but an image's is written to all the same, and that is
// found out once.
func TestRefusedConfig(t *testing.T) {
	at := folder(t)
	at.fail = func(what string) error {
		if strings.HasPrefix(what, "tag ") && strings.HasSuffix(what, ConfigType) {
			return ErrRefused
		}
		return nil
	}
	app := &build{t: t, at: at, key: newKey(t), layer: "app"}
	if err := app.write(nil); err != nil {
		t.Fatal(err)
	}
	tags := 0
	for _, what := range at.asked {
		if strings.HasPrefix(what, "tag ") {
			tags++
		}
	}
	if tags != 3 {
		t.Errorf("two bundles took %d attempts, want one more: %q", tags, at.asked)
	}
	if !app.hits(app.reader()) {
		t.Errorf("what was written is not found: %q", app.warns)
	}
}

var errUnreachable = errors.New("registry not reachable")

// Whatever a remote cache does, a build misses, says so once, and asks it nothing more.
func TestFaults(t *testing.T) {
	ours, theirs := newKey(t), newKey(t)
	for name, test := range map[string]struct {
		prepare func(at *counting)
		asked   int
		warning string
	}{
		"empty":       {func(*counting) {}, 2, ""},
		"unreachable": {func(at *counting) { at.fail = func(string) error { return errUnreachable } }, 1, "not reachable"},
		"a foreign key": {func(at *counting) {
			foreign := &build{t: t, at: at, key: theirs, layer: "app"}
			if err := foreign.write(nil); err != nil {
				t.Fatal(err)
			}
		}, 2, "not signed by a trusted key"},
		"an image": {func(at *counting) {
			image := &Artifact{Manifest: []byte(`{"schemaVersion":2,"config":{"mediaType":"text/plain","digest":"` + hello + `","size":5}}`), Config: []byte("hello"), Type: "text/plain"}
			if err := at.Repository.Tag(t.Context(), ScopeTag("project", "main"), image); err != nil {
				t.Fatal(err)
			}
		}, 2, "damaged"},
		"a bundle of another tag": {func(at *counting) {
			b := vouched(sample("lb1-other"), ours.ID(), noon)
			a, err := NewArtifact(seal(t, b, ours), nil, false)
			if err != nil {
				t.Fatal(err)
			}
			if err := at.Repository.Tag(t.Context(), ScopeTag("project", "main"), a); err != nil {
				t.Fatal(err)
			}
		}, 2, "not signed by a trusted key"},
	} {
		t.Run(name, func(t *testing.T) {
			at := folder(t)
			test.prepare(at)
			at.asked = nil
			app := &build{t: t, at: at, key: ours, layer: "app"}
			r := app.reader()
			for range 3 {
				if app.hits(r) {
					t.Error("it hit")
				}
			}
			if len(at.asked) != test.asked {
				t.Errorf("it was asked %q, want %d requests", at.asked, test.asked)
			}
			if test.warning == "" && len(app.warns) == 0 {
				return
			}
			if len(app.warns) != 1 || !strings.Contains(app.warns[0], test.warning) {
				t.Errorf("warnings %q, want one with %q", app.warns, test.warning)
			}
		})
	}
}

// A blob that is gone is lost for this build, and nothing else is.
func TestLostBlob(t *testing.T) {
	at := folder(t)
	app := &build{t: t, at: at, key: newKey(t), layer: "app"}
	if err := app.write(nil); err != nil {
		t.Fatal(err)
	}
	r := app.reader()
	if !app.hits(r) {
		t.Fatal("what was written is not found")
	}
	at.fail = func(string) error { return ErrNotFound }
	blob := ispec.Descriptor{Digest: digest.FromString("app"), Size: 3}
	err := r.Blob(t.Context(), blob, func(fetch func(context.Context, Sink) error) error { return fetch(t.Context(), &memory{}) })
	if !errors.Is(err, ErrNotFound) || r.Has(blob.Digest) {
		t.Errorf("a blob that is gone: %v, and it counts as there: %t", err, r.Has(blob.Digest))
	}
	if !app.hits(r) || len(app.warns) > 0 {
		t.Errorf("a lost blob took records with it, or is warned of: %q", app.warns)
	}
}

// A failed upload is told once, and is the build's failure only where that is asked for.
func TestFailedUpload(t *testing.T) {
	for _, ignore := range []bool{true, false} {
		at := folder(t)
		at.fail = func(string) error { return errUnreachable }
		app := &build{t: t, at: at, key: newKey(t), layer: "app"}
		w := &Writer{Key: app.key, Warn: app.warn}
		w.Add(at, To{Place: Place{Name: "h/c"}, IgnoreError: ignore}, nil)
		for _, r := range app.records() {
			w.Made(t.Context(), r)
		}
		for _, text := range []string{"a", "b", "c"} {
			w.Blob(t.Context(), ispec.Descriptor{Digest: digest.FromString(text), Size: 1}, content([]byte(text)))
		}
		err := w.Finish(t.Context(), Result{Scope: ScopeTag("project", "main")})
		if ignore != (err == nil) || ignore != (len(app.warns) == 1) {
			t.Errorf("ignore-error=%t: %v, warnings %q", ignore, err, app.warns)
		}
	}
}

// What stands for a secret stays, and so does what nobody vouched for that readers trust.
func TestWhatLeaves(t *testing.T) {
	key, friend, stranger := newKey(t), newKey(t), newKey(t)
	w := &Writer{
		Key: key, Trust: []*PublicKey{&friend.PublicKey},
		Leave: func(r *buildcache.Record) bool { return !r.Inputs[0].Redacted },
	}
	for by, leaves := range map[string]bool{key.ID(): true, friend.ID(): true, stranger.ID(): false, buildcache.VouchRegistry: false, "": false} {
		r := record(buildcache.Labels, "by "+by, "{}")
		if by != "" {
			r.Vouched = &buildcache.Vouch{By: by, Time: noon}
		}
		w.Found(r)
		if (w.records[r.Key] != nil) != leaves {
			t.Errorf("a record that %q vouched for leaves: %t", by, !leaves)
		}
	}
	secret := record(buildcache.Labels, "token", "{}")
	secret.Inputs[0].Redacted, secret.Vouched = true, &buildcache.Vouch{By: key.ID()}
	if w.Found(secret); w.records[secret.Key] != nil {
		t.Error("a record with a secret leaves")
	}
}
