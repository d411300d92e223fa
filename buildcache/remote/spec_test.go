package remote

import (
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
)

func TestParseFrom(t *testing.T) {
	for text, want := range map[string]From{
		"registry.example.com/team/cache":                                         {Place: Place{Type: TypeRegistry, Name: "registry.example.com/team/cache"}},
		"type=registry,ref=localhost:5000/cache":                                  {Place: Place{Type: TypeRegistry, Name: "localhost:5000/cache"}},
		"type=registry,ref=h/c,registry.insecure=true,trust=registry,max-age=30d": {Place{TypeRegistry, "h/c", true}, true, 30 * 24 * time.Hour},
		"type=local,src=/var/cache/lb,max-age=90m":                                {Place{TypeLocal, "/var/cache/lb", false}, false, 90 * time.Minute},
		`type=local,"src=/a,b"`:                                                   {Place: Place{Type: TypeLocal, Name: "/a,b"}},
	} {
		got, err := ParseFrom(text)
		if err != nil || !reflect.DeepEqual(*got, want) {
			t.Errorf("ParseFrom(%q) = %+v, %v, want %+v", text, got, err, want)
		}
	}
}

func TestParseTo(t *testing.T) {
	for text, want := range map[string]To{
		"h/c": {Place{TypeRegistry, "h/c", false}, ModeMin, true},
		"type=registry,ref=h/c,mode=max,ignore-error=false": {Place{TypeRegistry, "h/c", false}, ModeMax, false},
		"type=local,dest=/c,mode=min":                       {Place{TypeLocal, "/c", false}, ModeMin, true},
	} {
		got, err := ParseTo(text)
		if err != nil || !reflect.DeepEqual(*got, want) {
			t.Errorf("ParseTo(%q) = %+v, %v, want %+v", text, got, err, want)
		}
	}
}

func TestParseWrong(t *testing.T) {
	for text, want := range map[string]string{
		"":                                   "should be fields",
		"ref=h/c":                            "type is missing",
		"type=s3,ref=h/c":                    "type=s3 should be registry or local",
		"type=registry":                      "needs ref=",
		"type=registry,ref=":                 "ref has no value",
		"type=registry,ref=h/c:tag":          "without a tag",
		"type=registry,ref=h/c@sha256:00":    "without a tag",
		"type=registry,ref=https://h/c":      "HOST/REPOSITORY",
		"type=registry,ref=cache":            "HOST/REPOSITORY",
		"type=registry,ref=h/c,ref=h/d":      "given twice",
		"type=registry,ref=h/c,src=/x":       "src means nothing for type=registry",
		"type=local,src=/x,ref=h/c":          "ref means nothing for type=local",
		"type=local,dest=/x":                 "unknown field \"dest\"",
		"type=registry,ref=h/c,mode=max":     "unknown field \"mode\"",
		"type=registry,ref=h/c,max-age=soon": "max-age=soon should be a duration",
		"type=registry,ref=h/c,trust=all":    "trust=all should be registry",
		`type=registry,"ref=h/c`:             "should be fields",
	} {
		if _, err := ParseFrom(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("ParseFrom(%q): %v, want %q", text, err, want)
		}
	}
	if _, err := ParseTo("type=registry,ref=h/c,mode=most"); err == nil {
		t.Error("mode=most was taken")
	}
}

func FuzzParse(f *testing.F) {
	f.Add("type=registry,ref=h/c,mode=max,max-age=1d")
	f.Add(`type=local,"src=/a,b"`)
	f.Fuzz(func(t *testing.T, text string) {
		if from, err := ParseFrom(text); err == nil && (from.Name == "" || from.MaxAge < 0) {
			t.Errorf("ParseFrom(%q) = %+v", text, from)
		}
		if to, err := ParseTo(text); err == nil && to.Name == "" {
			t.Errorf("ParseTo(%q) = %+v", text, to)
		}
	})
}

func zstdOf(t testing.TB, text []byte) []byte {
	t.Helper()
	w, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	return w.EncodeAll(text, nil)
}
