package build

import (
	"crypto/sha256"
	"strings"
	"testing"
)

// A secret that was given by mistake in another form is in no error.
func FuzzParseSecret(f *testing.F) {
	for _, seed := range []string{"id=a,src=/etc/hostname", "id=a,env=PATH", "id=a,type=env", "id=a,type=x", `"id=a,b"`, "hunter2", "id=a,hunter2", "id=a,src=b,env=c", "id=HOME,key=maybe", ""} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		s, err := ParseSecret(text)
		if err == nil && (s.ID == "" || s.value == nil) {
			t.Errorf("%q is %+v", text, s)
		}
		if word, _, found := strings.Cut(text, ","); err != nil && len(word) > 8 && !strings.Contains(text, "=") && !found && strings.Contains(err.Error(), word) {
			t.Errorf("%v", err)
		}
		_, _ = ParseSecretKey(text)
	})
}

// Whatever the file of facts holds, it can be read.
func FuzzDecodeFacts(f *testing.F) {
	whole := encodeFacts(map[string]*fact{"a/b": {inode: 1, changed: 2, words: []string{"c", ""}}})
	f.Add(whole[len(factsHead) : len(whole)-sha256.Size])
	f.Add([]byte("\x01a\x01\x02\xff\xff\xff\xff\xff\xff\xff\xff\x7f"))
	f.Fuzz(func(t *testing.T, body []byte) {
		data := append([]byte(factsHead), body...)
		sum := sha256.Sum256(data)
		all := decodeFacts(append(data, sum[:]...))
		again := decodeFacts(encodeFacts(all))
		if len(again) != len(all) {
			t.Errorf("%d facts are %d when they are written again", len(all), len(again))
		}
	})
}
