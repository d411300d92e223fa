package buildcache

import (
	"encoding/json"
	"errors"
	"strconv"
	"testing"
	"time"
)

// A record that is put is vouched for by the key that the process holds, and one that is
// taken in keeps who vouched for it first.
func TestVouch(t *testing.T) {
	c, err := Open(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	in := func(text string) Inputs { return Inputs{{Code: Definition, Name: "run", Value: text}} }
	own, err := c.Put(Labels, in("own"), map[string]string{}, 0, Origin{})
	if err != nil || own.Vouched != nil {
		t.Errorf("without a key: vouched for by %v, %v", own.Vouched, err)
	}
	c.VouchAs("us")
	own, err = c.Put(Labels, in("ours"), map[string]string{}, 0, Origin{})
	if err != nil || own.Vouched == nil || own.Vouched.By != "us" || !own.Vouched.Time.Equal(own.Created) {
		t.Errorf("with a key: vouched for by %v, %v", own.Vouched, err)
	}
	made := time.Date(2026, 11, 29, 12, 0, 0, 0, time.UTC)
	theirs := &Record{Version: FormatVersion, Kind: Labels, Inputs: in("theirs"), Result: json.RawMessage("{}"), Vouched: &Vouch{"them", made}}
	theirs.Key = theirs.Inputs.Key(Labels)
	if err := errors.Join(c.TakeIn(theirs), c.TakeIn(own)); err != nil {
		t.Fatal(err)
	}
	got, err := c.Get(Labels, theirs.Key)
	if err != nil || got.Vouched == nil || *got.Vouched != *theirs.Vouched {
		t.Errorf("taken in: %+v, %v", got, err)
	}
}

// What stands for a secret does not leave, unless others have the key of its digest.
func TestMayLeave(t *testing.T) {
	c, err := Open(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	put := func(in Input) *Record {
		r, err := c.Put(Labels, Inputs{in}, map[string]string{}, 0, Origin{})
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	secret := func(key []byte) Input {
		in, err := c.SecretInput(key, "token", []byte("t0p"))
		if err != nil {
			t.Fatal(err)
		}
		return in
	}
	for name, test := range map[string]struct {
		in    Input
		leave bool
	}{
		"plain":                           {Input{Code: Env, Name: "env MODE", Value: "fast"}, true},
		"a secret variable":               {Input{Code: Env, Name: "env API_TOKEN", Value: "t0p"}, false},
		"a password in a script":          {Input{Code: Definition, Name: "run", Value: "curl https://me:t0p@h/"}, false},
		"a secret, keyed by this machine": {secret(nil), false},
		"a secret with a shared key":      {secret([]byte("shared by all")), true},
	} {
		if got := c.MayLeave(put(test.in)); got != test.leave {
			t.Errorf("%s: it may leave: %t, want %t", name, got, test.leave)
		}
	}
}

func BenchmarkTakeIn(b *testing.B) {
	c, err := Open(b.Context(), b.TempDir())
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	for n := 0; b.Loop(); n++ {
		in := Inputs{{Code: Definition, Name: "run", Value: strconv.Itoa(n)}}
		r := &Record{Version: FormatVersion, Kind: Labels, Key: in.Key(Labels), Inputs: in, Result: json.RawMessage("{}")}
		if err := c.TakeIn(r); err != nil {
			b.Fatal(err)
		}
	}
}
