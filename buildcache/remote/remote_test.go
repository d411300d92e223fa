package remote

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/layerbuild/layerbuild/buildcache"
)

var update = flag.Bool("update", false, "write the golden files of the format anew")

// noon is the time at which the tests take place.
var noon = time.Date(2026, 11, 29, 12, 0, 0, 0, time.UTC)

// newKey returns a new key.
func newKey(t testing.TB) *PrivateKey {
	t.Helper()
	text, _, err := GenerateKey()
	if err != nil {
		t.Fatal(err)
	}
	key, err := ParsePrivateKey(text)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func record(kind buildcache.Kind, input, result string) *buildcache.Record {
	in := buildcache.Inputs{{Code: buildcache.Definition, Name: "run", Value: input}}
	return &buildcache.Record{
		Version: buildcache.FormatVersion,
		Kind:    kind,
		Key:     in.Key(kind),
		Created: noon.Add(-time.Hour),
		Origin:  buildcache.Origin{Layer: "app"},
		Inputs:  in,
		Result:  json.RawMessage(result),
	}
}

const hello = "sha256:2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"

func sample(tag string) *Bundle {
	return &Bundle{
		Version: FormatVersion,
		Tag:     tag,
		Created: noon,
		Recipes: map[string]buildcache.Key{"app": buildcache.Key(strings.Repeat("ab", 32))},
		Records: []*buildcache.Record{
			record(buildcache.Rootfs, "make", `{"layers":[{"diff_id":"`+hello+`","by":"run"}]}`),
			record(buildcache.Pack, "tar", `{"mediaType":"application/vnd.oci.image.layer.v1.tar+gzip","digest":"`+hello+`","size":5}`),
			record(buildcache.Labels, "labels", `{"version":"1"}`),
			record(buildcache.Digest, "path", `{"tree":{"Digest":"`+hello+`"},"file":"`+hello+`"}`),
			record(buildcache.Resolve, "tar", `"`+hello+`"`),
		},
		Documents: [][]byte{[]byte("{}")},
	}
}

// vouched returns a bundle whose records a key has vouched for at a time.
func vouched(b *Bundle, by string, at time.Time) *Bundle {
	for _, r := range b.Records {
		r.Vouched = &buildcache.Vouch{By: by, Time: at}
	}
	return b
}

func seal(t testing.TB, b *Bundle, key *PrivateKey) []byte {
	t.Helper()
	envelope, err := Seal(t.Context(), b, key)
	if err != nil {
		t.Fatal(err)
	}
	return envelope
}

var tag = RecipeTag(buildcache.Key(strings.Repeat("ab", 32)))

func TestTrust(t *testing.T) {
	ours, theirs := newKey(t), newKey(t)
	trusting := func(keys ...*PrivateKey) (trust Trust) {
		for _, key := range keys {
			trust.Keys = append(trust.Keys, &key.PublicKey)
		}
		return trust
	}
	for _, test := range []struct {
		name    string
		trust   Trust
		signed  *PrivateKey
		vouched *PrivateKey
		made    time.Duration // before noon
		maxAge  time.Duration
		tag     string
		want    error
		records int // that are believed
	}{
		{"signed and vouched for by a trusted key", trusting(ours), ours, ours, time.Hour, 0, tag, nil, 5},
		{"one of several keys", trusting(theirs, ours), ours, ours, time.Hour, 0, tag, nil, 5},
		{"signed by a foreign key", trusting(ours), theirs, ours, time.Hour, 0, tag, ErrUntrusted, 0},
		{"not signed", trusting(ours), nil, ours, time.Hour, 0, tag, ErrUntrusted, 0},
		{"neither a key nor the registry is trusted", Trust{}, ours, ours, time.Hour, 0, tag, ErrUntrusted, 0},
		{"a foreign key's records, signed again by a trusted one", trusting(ours), ours, theirs, time.Hour, 0, tag, nil, 0},
		{"records that nobody vouched for, signed by a trusted key", trusting(ours), ours, nil, time.Hour, 0, tag, nil, 0},
		{"found under another tag", trusting(ours), ours, ours, time.Hour, 0, ScopeTag("p", "main"), ErrUntrusted, 0},
		{"the registry is trusted", Trust{Registry: true}, nil, nil, time.Hour, 0, tag, nil, 5},
		{"the registry is trusted, and keys count nothing", Trust{Registry: true}, theirs, theirs, time.Hour, 0, tag, nil, 5},
		{"young enough", trusting(ours), ours, ours, time.Hour, 2 * time.Hour, tag, nil, 5},
		{"too old", trusting(ours), ours, ours, 3 * time.Hour, 2 * time.Hour, tag, nil, 0},
		{"too old, and only the registry says so", Trust{Registry: true}, nil, ours, 3 * time.Hour, 2 * time.Hour, tag, nil, 0},
		{"a clock ahead of ours", trusting(ours), ours, ours, -4 * time.Minute, 2 * time.Hour, tag, nil, 5},
		{"a clock too far ahead of ours", trusting(ours), ours, ours, -6 * time.Minute, 2 * time.Hour, tag, nil, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			b := sample(tag)
			if test.vouched != nil {
				vouched(b, test.vouched.ID(), noon.Add(-test.made))
			}
			test.trust.MaxAge = test.maxAge
			got, err := test.trust.Open(t.Context(), seal(t, b, test.signed), test.tag, noon)
			if !errors.Is(err, test.want) || (err == nil) != (test.want == nil) {
				t.Fatalf("Open: %v, want %v", err, test.want)
			}
			if err == nil && len(got.Records) != test.records {
				t.Errorf("%d records are believed, want %d", len(got.Records), test.records)
			}
		})
	}
}

// Who vouched first, and when, survives being signed again by another trusted key.
func TestVouchSurvives(t *testing.T) {
	first, second := newKey(t), newKey(t)
	both := Trust{Keys: []*PublicKey{&first.PublicKey, &second.PublicKey}}
	made := noon.Add(-24 * time.Hour)
	b, err := both.Open(t.Context(), seal(t, vouched(sample(tag), first.ID(), made), first), tag, noon)
	if err != nil {
		t.Fatal(err)
	}
	if b, err = both.Open(t.Context(), seal(t, b, second), tag, noon); err != nil {
		t.Fatal(err)
	}
	for _, r := range b.Records {
		if r.Vouched.By != first.ID() || !r.Vouched.Time.Equal(made) {
			t.Errorf("%s record: vouched for by %s at %s", r.Kind, r.Vouched.By, r.Vouched.Time)
		}
	}
}

// What the registry alone vouches for is known as that, whatever it claims itself.
func TestRegistryVouches(t *testing.T) {
	key := newKey(t)
	b, err := Trust{Registry: true}.Open(t.Context(), seal(t, vouched(sample(tag), key.ID(), noon), nil), tag, noon)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range b.Records {
		if r.Vouched.By != buildcache.VouchRegistry {
			t.Errorf("%s record: vouched for by %s", r.Kind, r.Vouched.By)
		}
	}
}

// No byte of an envelope can be another without the bundle being refused, or being the
// same bundle.
func TestChangedEnvelope(t *testing.T) {
	key := newKey(t)
	trust := Trust{Keys: []*PublicKey{&key.PublicKey}}
	want := vouched(sample(tag), key.ID(), noon)
	envelope := seal(t, want, key)
	for i := range envelope {
		changed := bytes.Clone(envelope)
		changed[i] ^= 1
		got, err := trust.Open(t.Context(), changed, tag, noon)
		if err == nil && !same(t, got, want) {
			t.Fatalf("byte %d: another bundle was believed", i)
		}
	}
}

func same(t *testing.T, a, b *Bundle) bool {
	t.Helper()
	x, err := json.Marshal(a)
	if err != nil {
		t.Fatal(err)
	}
	y, err := json.Marshal(b)
	if err != nil {
		t.Fatal(err)
	}
	return bytes.Equal(x, y)
}

// A trusted writer's mistake is refused, too: what is not under its own key, and what
// would name files that are none of a digest's.
func TestDamagedBundle(t *testing.T) {
	key := newKey(t)
	trust := Trust{Keys: []*PublicKey{&key.PublicKey}}
	for name, change := range map[string]func(b *Bundle){
		"another key":            func(b *Bundle) { b.Records[0].Key = b.Records[1].Key },
		"another kind":           func(b *Bundle) { b.Records[0].Kind = buildcache.Labels },
		"other inputs":           func(b *Bundle) { b.Records[0].Inputs[0].Value = "make evil" },
		"two inputs of one name": func(b *Bundle) { r := b.Records[0]; r.Inputs = append(r.Inputs, r.Inputs[0]) },
		"a path for a DiffID":    func(b *Bundle) { b.Records[0].Result = json.RawMessage(`{"layers":[{"diff_id":"sha256:../../etc"}]}`) },
		"a path for a blob":      func(b *Bundle) { b.Records[1].Result = json.RawMessage(`{"digest":"sha256:../x","size":1}`) },
		"a size below 0":         func(b *Bundle) { b.Records[1].Result = json.RawMessage(`{"digest":"` + hello + `","size":-1}`) },
		"a sha512":               func(b *Bundle) { b.Records[4].Result = json.RawMessage(`"` + digest.SHA512.FromString("") + `"`) },
		"no tree":                func(b *Bundle) { b.Records[3].Result = json.RawMessage(`{}`) },
		"labels that are a list": func(b *Bundle) { b.Records[2].Result = json.RawMessage(`[]`) },
	} {
		b := vouched(sample(tag), key.ID(), noon)
		change(b)
		if _, err := trust.Open(t.Context(), seal(t, b, key), tag, noon); !errors.Is(err, ErrDamaged) {
			t.Errorf("%s: %v, want ErrDamaged", name, err)
		}
	}
}

func TestNewerFormat(t *testing.T) {
	key := newKey(t)
	trust := Trust{Keys: []*PublicKey{&key.PublicKey}}
	b := vouched(sample(tag), key.ID(), noon)
	b.Version = FormatVersion + 1
	if _, err := trust.Open(t.Context(), seal(t, b, key), tag, noon); !errors.Is(err, ErrNewer) {
		t.Errorf("a newer bundle: %v, want ErrNewer", err)
	}
	b = vouched(sample(tag), key.ID(), noon)
	b.Records[0].Version = buildcache.FormatVersion + 1
	b.Records[1].Kind = "future"
	got, err := trust.Open(t.Context(), seal(t, b, key), tag, noon)
	if err != nil || len(got.Records) != 3 {
		t.Errorf("newer records: %v, want those that are known", err)
	}
}

// A bundle that would fill the memory is refused while it is decompressed.
func TestBomb(t *testing.T) {
	b := sample(tag)
	b.Documents = append(b.Documents, make([]byte, maxBundle))
	if _, err := b.marshal(); err == nil {
		t.Error("a bundle of more than 64 MiB was written")
	}
	if _, err := decompress(zstdOf(t, make([]byte, maxBundle+1))); err == nil {
		t.Error("a bundle of more than 64 MiB was read")
	}
}

// The formats of version 1 stay readable, and what is written stays the same.
func TestGolden(t *testing.T) {
	private, err := os.ReadFile("testdata/v1/key.pem")
	if err != nil {
		t.Fatal(err)
	}
	key, err := ParsePrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	want := vouched(sample(tag), key.ID(), noon.Add(-time.Hour))
	blobs := []Blob{{ispec.Descriptor{MediaType: ispec.MediaTypeImageLayerGzip, Digest: hello, Size: 5}, hello}}
	for name, asImage := range map[string]bool{"manifest.json": false, "manifest-image.json": true} {
		path := filepath.Join("testdata/v1", name)
		if *update {
			a, err := NewArtifact(seal(t, want, key), blobs, asImage)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, a.Manifest, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		manifest, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		stored, err := ParseManifest(manifest)
		if err != nil {
			t.Fatal(err)
		}
		envelope, err := stored.Envelope(stored.Config.Data)
		if err != nil {
			t.Fatal(err)
		}
		got, err := Trust{Keys: []*PublicKey{&key.PublicKey}}.Open(t.Context(), envelope, tag, noon)
		if err != nil {
			t.Fatalf("%s: %s", name, err)
		}
		if !same(t, got, want) {
			t.Errorf("%s holds another bundle than is written now: a new version?", name)
		}
		a, err := NewArtifact(envelope, blobs, asImage)
		if err != nil || !bytes.Equal(a.Manifest, manifest) {
			t.Errorf("%s: the manifest of its envelope is another now (%v): a new version?", name, err)
		}
	}
}

// A large bundle is a blob of its own, which a folder keeps as well.
func TestFolder(t *testing.T) {
	folder := NewFolder(filepath.Join(t.TempDir(), "cache"))
	if _, _, err := Read(t.Context(), folder, tag); !errors.Is(err, ErrNotFound) {
		t.Errorf("a folder that is not there: %v, want ErrNotFound", err)
	}
	blob := ispec.Descriptor{MediaType: ispec.MediaTypeImageLayerGzip, Digest: hello, Size: 5}
	if err := folder.PutBlob(t.Context(), blob, content([]byte("jello"))); err == nil {
		t.Error("a blob that is not what its digest says was kept")
	}
	if err := folder.PutBlob(t.Context(), blob, content([]byte("hello"))); err != nil {
		t.Fatal(err)
	}
	if err := folder.PutBlob(t.Context(), blob, func() (io.ReadCloser, error) { panic("opened again") }); err != nil {
		t.Fatal(err)
	}
	envelope := seal(t, sample(tag), newKey(t))
	for name, size := range map[string]int{"inline": 0, "a blob": maxInline} {
		big := slices.Concat(envelope, bytes.Repeat([]byte(" "), size))
		for _, asImage := range []bool{false, true} {
			a, err := NewArtifact(big, []Blob{{blob, hello}}, asImage)
			if err != nil {
				t.Fatal(err)
			}
			if err := folder.Tag(t.Context(), tag, a); err != nil {
				t.Fatal(err)
			}
			got, blobs, err := Read(t.Context(), folder, tag)
			if err != nil || !bytes.Equal(got, big) || len(blobs) != 1 || blobs[0].Digest != hello {
				t.Errorf("%s, as an image: %v: another envelope, or other blobs %v, %v", name, asImage, blobs, err)
			}
		}
	}
	if data, err := readBlob(t.Context(), folder, blob); err != nil || string(data) != "hello" {
		t.Errorf("the blob holds %q, %v", data, err)
	}
	if _, err := readBlob(t.Context(), folder, ispec.Descriptor{Digest: digest.FromString("x"), Size: 1}); !errors.Is(err, ErrNotFound) {
		t.Errorf("a blob that is not there: %v, want ErrNotFound", err)
	}
}

// A config that is not what the manifest says is no envelope.
func TestWrongConfig(t *testing.T) {
	a, err := NewArtifact(seal(t, sample(tag), nil), nil, false)
	if err != nil {
		t.Fatal(err)
	}
	stored, err := ParseManifest(a.Manifest)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stored.Envelope(append(bytes.Clone(a.Config), ' ')); !errors.Is(err, ErrDamaged) {
		t.Errorf("another config: %v, want ErrDamaged", err)
	}
}

func TestTags(t *testing.T) {
	for _, ok := range []string{tag, ScopeTag("github.com/o/p", "main"), ScopeTag("", "")} {
		if !IsTag(ok) {
			t.Errorf("%s is not taken for a tag of ours", ok)
		}
	}
	for _, not := range []string{"", "latest", "lb1-", "lb1-scope-", tag + "0", strings.ToUpper(tag), "lb2-" + strings.Repeat("ab", 32), "lb1-scope-" + strings.Repeat("ab", 32)} {
		if IsTag(not) {
			t.Errorf("%s is taken for a tag of ours", not)
		}
	}
	if ScopeTag("a", "bc") == ScopeTag("ab", "c") {
		t.Error("two scopes have one tag")
	}
}

// Keys are those that openssl makes, and the other way round.
func TestOpenSSL(t *testing.T) {
	openssl := func(in []byte, args ...string) []byte {
		cmd := exec.CommandContext(t.Context(), "openssl", args...)
		cmd.Stdin = bytes.NewReader(in)
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("openssl %s: %s", strings.Join(args, " "), err)
		}
		return out
	}
	for name, text := range map[string][]byte{
		"openssl's":    openssl(nil, "genpkey", "-algorithm", "ed25519"),
		"layerbuild's": func() []byte { private, _, _ := GenerateKey(); return private }(),
	} {
		private, err := ParsePrivateKey(text)
		if err != nil {
			t.Fatalf("%s key: %s", name, err)
		}
		public, err := ParsePublicKey(openssl(text, "pkey", "-pubout"))
		if err != nil || public.ID() != private.ID() {
			t.Errorf("%s key: the public key is another: %v", name, err)
		}
		sum := digest.FromBytes(openssl(text, "pkey", "-pubout", "-outform", "DER"))
		if public.ID() != sum.Encoded() {
			t.Errorf("%s key: its id is %s, the sha256 of its DER %s", name, public.ID(), sum.Encoded())
		}
	}
	if _, err := ParsePrivateKey(openssl(nil, "genpkey", "-algorithm", "rsa", "-quiet")); err == nil || !strings.Contains(err.Error(), "ed25519") {
		t.Errorf("an RSA key: %v", err)
	}
}

func TestWrongKeys(t *testing.T) {
	private, public, err := GenerateKey()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ParsePrivateKey(public); err == nil || !strings.Contains(err.Error(), "public") {
		t.Errorf("a public key to sign with: %v", err)
	}
	if _, err := ParsePublicKey(private); err == nil || !strings.Contains(err.Error(), "private") {
		t.Errorf("a private key to verify with: %v", err)
	}
	for _, text := range []string{"", "key", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"} {
		if _, err := ParsePrivateKey([]byte(text)); err == nil {
			t.Errorf("%q is taken for a key", text)
		}
		if _, err := ParsePublicKey([]byte(text)); err == nil {
			t.Errorf("%q is taken for a public key", text)
		}
	}
}

func FuzzOpen(f *testing.F) {
	key := newKey(f)
	ctx := context.Background()
	envelope, err := Seal(ctx, vouched(sample(tag), key.ID(), noon), key)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(envelope)
	f.Add([]byte(`{"payloadType":"` + PayloadType + `","payload":"","signatures":[{"sig":"AA=="}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		if _, err := (Trust{Registry: true}).Open(ctx, data, tag, noon); err == nil && !json.Valid(data) {
			t.Error("what is no JSON is an envelope")
		}
		if b, err := (Trust{Keys: []*PublicKey{&key.PublicKey}}).Open(ctx, data, tag, noon); err == nil {
			if want := vouched(sample(tag), key.ID(), noon); !same(t, b, want) {
				t.Error("a bundle was believed that the key has not signed")
			}
		}
	})
}

func FuzzBundle(f *testing.F) {
	text, err := json.Marshal(sample(tag))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text)
	f.Add([]byte(`{"version":1,"records":[null,{"version":3,"kind":"rootfs","result":null}]}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		b, err := unmarshal(zstdOf(t, text))
		if err != nil {
			return
		}
		for _, r := range b.Records {
			if r.Inputs.Key(r.Kind) != r.Key {
				t.Errorf("a %s record is under another key than its own", r.Kind)
			}
		}
	})
}

func FuzzManifest(f *testing.F) {
	a, err := NewArtifact([]byte("{}"), []Blob{{ispec.Descriptor{Digest: hello, Size: 5}, hello}}, true)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(a.Manifest, a.Config)
	f.Fuzz(func(t *testing.T, manifest, config []byte) {
		stored, err := ParseManifest(manifest)
		if err != nil {
			return
		}
		for _, d := range append(stored.Blobs, stored.Config) {
			if d.Size < 0 || d.Digest.Validate() != nil {
				t.Errorf("a manifest names %v", d)
			}
		}
		_, _ = stored.Envelope(config)
	})
}

func FuzzTag(f *testing.F) {
	f.Add(tag)
	f.Add(ScopeTag("p", "b"))
	f.Fuzz(func(t *testing.T, text string) {
		if IsTag(text) && (len(text) > 128 || strings.ContainsAny(text, "/.:\x00 ")) {
			t.Errorf("%q is no tag of a registry", text)
		}
	})
}
