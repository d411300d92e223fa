package buildcache

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

// TestKeyEncoding follows docs/state-folder.md, byte for byte: a change to it
// makes every record stale, and needs a new FormatVersion.
func TestKeyEncoding(t *testing.T) {
	var text bytes.Buffer
	for _, part := range []string{"layerbuild", "4", "rootfs", "BASE", "base", "sha256:x", "DEFINITION", "run", ""} {
		text.WriteString("\x00\x00\x00\x00\x00\x00\x00" + string(rune(len(part))) + part)
	}
	sum := sha256.Sum256(text.Bytes())
	in := Inputs{{Code: Definition, Name: "run"}, {Code: BaseChange, Name: "base", Value: "sha256:x"}}
	if got, want := in.Key(Rootfs), Key(hex.EncodeToString(sum[:])); got != want {
		t.Errorf("the key is %s, want %s", got, want)
	}
}

// FuzzKey takes two lists of inputs out of any bytes: they have one key only if
// they are the same list in another order.
func FuzzKey(f *testing.F) {
	f.Add([]byte("a\x00b"), []byte("a\x00b"), byte(0), byte(0))
	f.Add([]byte("a\x00b\x01c\x00d"), []byte("c\x00d\x01a\x00b"), byte(0), byte(0))
	f.Add([]byte("ab\x00c"), []byte("a\x00bc"), byte(0), byte(1))
	f.Add([]byte("a\x00\x01b\x00"), []byte("a\x00b"), byte(2), byte(2))
	f.Add([]byte("a\x00DEFINITION\x01b\x00"), []byte("a\x00\x01DEFINITION\x00b"), byte(0), byte(0))
	f.Fuzz(func(t *testing.T, a, b []byte, kindA, kindB byte) {
		one, other := parseInputs(a), parseInputs(b)
		kinds := Kinds()
		k1, k2 := kinds[int(kindA)%len(kinds)], kinds[int(kindB)%len(kinds)]
		same := k1 == k2 && slices.Equal(sortedInputs(one), sortedInputs(other))
		if (one.Key(k1) == other.Key(k2)) != same {
			t.Errorf("%s %+v and %s %+v: same key %v, same inputs %v", k1, one, k2, other, !same, same)
		}
		r := rand.New(rand.NewPCG(uint64(len(a)), uint64(len(b))))
		shuffled := slices.Clone(one)
		r.Shuffle(len(shuffled), func(i, j int) { shuffled[i], shuffled[j] = shuffled[j], shuffled[i] })
		if one.Key(k1) != shuffled.Key(k1) {
			t.Errorf("%+v: the order counts", one)
		}
	})
}

// parseInputs reads NAME\0VALUE, several with \1 between them, whose code is told
// by their name's length. Of those of one name the first counts.
func parseInputs(text []byte) (in Inputs) {
	codes := []Code{Definition, BaseChange, Env, Import}
	seen := map[string]bool{}
	for entry := range strings.SplitSeq(string(text), "\x01") {
		name, value, _ := strings.Cut(entry, "\x00")
		if !seen[name] {
			seen[name] = true
			in.Add(codes[len(name)%len(codes)], name, value)
		}
	}
	return in
}

func sortedInputs(in Inputs) Inputs {
	return slices.SortedFunc(slices.Values(in), func(a, b Input) int { return strings.Compare(a.Name, b.Name) })
}
