package engine

import (
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
