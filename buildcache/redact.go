package buildcache

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/layerbuild/layerbuild/redact"
	"github.com/layerbuild/layerbuild/statedir"
)

// Redacted returns the inputs as a record of them holds them.
func (c *Cache) Redacted(in Inputs) (Inputs, error) { return c.redact(in) }

// Conceal has these texts redacted in the inputs of records, wherever they stand in a value. It
// is called before anything is looked up.
func (c *Cache) Conceal(texts []string) {
	c.concealed = slices.SortedFunc(slices.Values(texts), func(a, b string) int { return len(b) - len(a) }) // one may be part of another
}

// redact replaces what looks like a secret by a digest that is keyed with a
// secret of the state folder: that it changed is still seen, and what it is
// cannot be guessed from a record that left the machine.
func (c *Cache) redact(in Inputs) (Inputs, error) {
	var key []byte
	var err error
	out := in.replaceSecrets(c.concealed, func(name, secret string) string {
		if key == nil && err == nil {
			key, err = c.redaction()
		}
		return redacted(key, name, secret)
	})
	if err != nil {
		return nil, fmt.Errorf("redacting a secret: %w", err)
	}
	return out, nil
}

// WithoutSecrets returns the inputs without anything that looks like a secret, and without
// the texts that are known as secrets.
func (in Inputs) WithoutSecrets(known []string) Inputs {
	return in.replaceSecrets(known, func(_, _ string) string { return "[redacted]" })
}

// replaceSecrets returns the inputs with what hide makes of each text in them that is known as
// or looks like a secret, and marks those inputs. Inputs without any are returned as they are.
func (in Inputs) replaceSecrets(known []string, hide func(name, secret string) string) Inputs {
	var out Inputs
	for i, input := range in {
		whole := input.Code == Env && input.Value != "" && redact.Name(strings.TrimPrefix(input.Name, "env "))
		has := func(secret string) bool { return strings.Contains(input.Value, secret) }
		if input.Redacted || !whole && !redact.Found(input.Value) && !slices.ContainsFunc(known, has) {
			continue
		}
		if out == nil {
			out = slices.Clone(in)
		}
		out[i].Redacted = true
		if whole {
			out[i].Value = hide(input.Name, input.Value)
		} else {
			var pairs []string
			for _, secret := range known {
				if has(secret) {
					pairs = append(pairs, secret, hide(input.Name, secret))
				}
			}
			text := strings.NewReplacer(pairs...).Replace(input.Value)
			out[i].Value = redact.Replace(text, func(secret string) string { return hide(input.Name, secret) })
		}
	}
	if out == nil {
		return in
	}
	return out
}

// MayLeave reports whether others may have a record: none of its inputs stands for a
// secret, but for those whose digests are keyed with a key that they have, too.
func (c *Cache) MayLeave(r *Record) bool {
	return !slices.ContainsFunc(r.Inputs, func(in Input) bool { return in.Redacted && !c.sharedSecret(in) })
}

// sharedSecret reports whether an input is the digest of a secret that is not keyed with
// the state folder's own key.
func (c *Cache) sharedSecret(in Input) bool {
	key, err := c.redaction()
	by := redactor(in.Value)
	return err == nil && in.Code == Secret && by != "" && by != keyID(key)
}

// SecretInput returns the input that a secret is: a digest of its value that is keyed
// with key or, if that is empty, with the state folder's own. Who has the key and a
// record can try values; who has the record alone, or only its name, cannot.
func (c *Cache) SecretInput(key []byte, id string, value []byte) (Input, error) {
	if len(key) == 0 {
		var err error
		if key, err = c.redaction(); err != nil {
			return Input{}, fmt.Errorf("redacting a secret: %w", err)
		}
	}
	name := "secret " + id
	return Input{Code: Secret, Name: name, Value: redacted(key, name, string(value)), Redacted: true}, nil
}

// redacted is what stands for a secret: which key redacted it, and its keyed digest.
func redacted(key []byte, name, secret string) string {
	mac := hmac.New(sha256.New, key)
	part(mac, name)
	part(mac, secret)
	return fmt.Sprintf("[redacted %s:%x]", keyID(key), mac.Sum(nil)[:16])
}

// keyID names a key that redacts, and tells nothing of it.
func keyID(key []byte) string {
	id := sha256.Sum256(key)
	return hex.EncodeToString(id[:4])
}

var redaction = regexp.MustCompile(`\[redacted ([0-9a-f]{8}):[0-9a-f]{32}\]`)

// unredacted is a redacted value without its keyed digests.
func unredacted(value string) string { return redaction.ReplaceAllString(value, "[redacted]") }

// redactor names the key with which a value was redacted.
func redactor(value string) string {
	if found := redaction.FindStringSubmatch(value); found != nil {
		return found[1]
	}
	return ""
}

// Incomparable reports whether nobody can tell if two values of an input differ:
// they hold secrets that were redacted with different keys.
func Incomparable(a, b Input) bool {
	return a.Redacted && b.Redacted && unredacted(a.Value) == unredacted(b.Value) && redactor(a.Value) != redactor(b.Value)
}

// redactionKey returns the state folder's secret, and makes it if there is none.
func (c *Cache) redactionKey() ([]byte, error) {
	const name, size = "redaction-key", 32
	for {
		text, err := statedir.ReadFile(c.path(name))
		if err == nil || statedir.Irregular(err) {
			if key, err := hex.DecodeString(strings.TrimSpace(string(text))); err == nil && len(key) == size {
				return key, nil
			}
			c.putAside(name)
			continue
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		if err := c.makeRedactionKey(c.path(name), size); err != nil && !errors.Is(err, fs.ErrExist) {
			return nil, err
		}
	}
}

// makeRedactionKey makes the file, unless another process is faster.
func (c *Cache) makeRedactionKey(path string, size int) error {
	key := make([]byte, size)
	_, _ = rand.Read(key) // never fails
	f, err := os.CreateTemp(c.path("tmp"), "key-")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	if _, err = fmt.Fprintf(f, "%x\n", key); err == nil {
		err = f.Sync()
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := os.Link(f.Name(), path); err != nil {
		return err
	}
	return statedir.Sync(filepath.Dir(path))
}
