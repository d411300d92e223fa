package buildcache

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func open(t *testing.T, state string) *Cache {
	t.Helper()
	c, err := Open(t.Context(), state)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func env(name, value string) Input {
	return Input{Code: Env, Name: "env " + name, Value: value}
}

func TestRedact(t *testing.T) {
	c := open(t, t.TempDir())
	for _, test := range []struct {
		in   Input
		want string // with keyed digests left out
	}{
		{env("GITHUB_TOKEN", "abc"), "[redacted]"},
		{env("AWS_SECRET_ACCESS_KEY", "abc"), "[redacted]"},
		{env("DB_PASSWORD", "abc"), "[redacted]"},
		{env("npmToken", "abc"), "[redacted]"},
		{env("SSH_KEY", "abc"), "[redacted]"},
		{env("SECRET", ""), ""},
		{env("MONKEY", "abc"), "abc"},
		{env("PATH", "/bin"), "/bin"},
		{env("AUTHOR", "me"), "me"},
		{env("REPO", "https://me:pw@host/x"), "https://[redacted]@host/x"},
		{env("REPO", "https://host:80/x@y"), "https://host:80/x@y"},
		{env("X", "ghp_0123456789abcdef"), "[redacted]"},
		{Input{Code: Definition, Name: "run", Value: "curl https://u:p@h\n"}, "curl https://[redacted]@h\n"},
		{Input{Code: Definition, Name: "run", Value: "a\n-----BEGIN RSA PRIVATE KEY-----\nx\n-----END RSA PRIVATE KEY-----\nb"}, "a\n[redacted]\nb"},
	} {
		out, err := c.redact(Inputs{test.in})
		if err != nil {
			t.Fatal(err)
		}
		if got := unredacted(out[0].Value); got != test.want || out[0].Redacted != (test.want != test.in.Value) {
			t.Errorf("%s=%q is kept as %q, want %q", test.in.Name, test.in.Value, got, test.want)
		}
	}
}

// Texts that are known to be secret are redacted wherever they stand, the longest first.
func TestConceal(t *testing.T) {
	c := open(t, t.TempDir())
	c.Conceal([]string{"s3cr", "s3cret"})
	in := Inputs{{Code: Definition, Name: "run", Value: "login -p s3cret s3cr ghp_0123456789abcdef\n"}, {Code: Definition, Name: "x", Value: "none"}}
	out, err := c.redact(in)
	if err != nil || unredacted(out[0].Value) != "login -p [redacted] [redacted] [redacted]\n" || !out[0].Redacted || out[1].Redacted {
		t.Errorf("%+v, %v", out, err)
	}
	if _, err := c.Put(Rootfs, in, 1, 0, Origin{}); err != nil {
		t.Fatal(err)
	}
	if record, err := c.Get(Rootfs, in.Key(Rootfs)); err != nil || c.MayLeave(record) {
		t.Errorf("%v: others may have the record", err)
	}
}

// TestRedactedRecords keeps a secret: it is in no file, its change is seen, and
// the key is that of the value itself.
func TestRedactedRecords(t *testing.T) {
	state := t.TempDir()
	c := open(t, state)
	in := Inputs{env("TOKEN", "hunter2"), {Code: Definition, Name: "run", Value: "make"}}
	r, err := c.Put(Rootfs, in, "x", 0, Origin{})
	if err != nil {
		t.Fatal(err)
	}
	if r.Key != in.Key(Rootfs) || in[0].Value != "hunter2" {
		t.Error("redacting has changed the key, or the inputs")
	}
	if err := filepath.WalkDir(state, func(path string, e os.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		text, err := os.ReadFile(path)
		if strings.Contains(string(text), "hunter2") {
			t.Errorf("the secret is in %s", path)
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	kept, err := open(t, state).Get(Rootfs, r.Key)
	if err != nil {
		t.Fatal(err)
	}
	token := func(c *Cache, secret string) Input {
		redacted, err := c.Redacted(Inputs{env("TOKEN", secret), in[1]})
		if err != nil || strings.Contains(redacted[0].Value, "hunter") {
			t.Fatal(redacted, err)
		}
		return redacted[0]
	}
	if token(c, "hunter2") != kept.Inputs[0] {
		t.Error("the same secret differs")
	}
	if other := token(c, "hunter3"); other == kept.Inputs[0] || Incomparable(kept.Inputs[0], other) {
		t.Error("another secret is the same, or nobody can tell")
	}
	if !Incomparable(kept.Inputs[0], token(open(t, t.TempDir()), "hunter2")) {
		t.Error("another state folder cannot tell")
	}
}

// TestMigrateRedacts leaves no secret of a record of version 2. Once it is redacted,
// nobody can tell its next key: it is left out, and its step done again.
func TestMigrateRedacts(t *testing.T) {
	state := t.TempDir()
	c := open(t, state)
	in := Inputs{env("TOKEN", "hunter2")}
	old := &Record{Version: 2, Kind: Rootfs, Key: in.key(Rootfs, 2), Inputs: in, Result: []byte(`"x"`)}
	if err := c.reseal(recordName(Rootfs, old.Key), old); err != nil {
		t.Fatal(err)
	}
	if err := c.write("version", []byte("2\n")); err != nil {
		t.Fatal(err)
	}
	_ = c.Close()
	if r, err := open(t, state).Get(Rootfs, in.Key(Rootfs)); !errors.Is(err, ErrNotFound) {
		t.Error(r, err)
	}
	for name, content := range files(t, state) {
		if strings.Contains(content, "hunter2") {
			t.Errorf("the secret is in %s", name)
		}
	}
}

func TestRedactionKeyIsMadeOnce(t *testing.T) {
	state := t.TempDir()
	keys := make(chan string)
	for range 8 {
		c := open(t, state)
		go func() {
			key, _ := c.redaction()
			keys <- string(key)
		}()
	}
	first := <-keys
	for range 7 {
		if key := <-keys; key != first || len(key) != 32 {
			t.Fatal("there are several keys")
		}
	}
	if err := os.WriteFile(filepath.Join(state, "redaction-key"), []byte("cut"), 0o600); err != nil {
		t.Fatal(err)
	}
	if key, err := open(t, state).redaction(); err != nil || len(key) != 32 || string(key) == first {
		t.Fatal("a damaged key is not replaced", err)
	}
}
