package buildcache

import (
	"fmt"
	"testing"
)

func TestDiff(t *testing.T) {
	old := Inputs{{Code: Env, Name: "env B", Value: "1"}, {Code: Definition, Name: "run", Value: "a"}, {Code: Import, Name: "x", Value: "t"}, {Code: Env, Name: "env A"}}
	now := Inputs{{Code: Import, Name: "x", Value: "t"}, {Code: Definition, Name: "run", Value: "b"}, {Code: Env, Name: "env C"}, {Code: Env, Name: "env A", Value: "1"}}
	want := []Reason{
		{Code: Definition, Name: "run", Old: "a", New: "b"},
		{Code: Env, Name: "env A", New: "1"},
		{Code: Env, Name: "env B", Old: "1", Removed: true},
		{Code: Env, Name: "env C", Added: true},
	}
	if got := Diff(old, now); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

func TestNearest(t *testing.T) {
	record := func(name string, values ...string) *Record {
		r := &Record{Key: Key(name), Inputs: Inputs{{Code: Format, Name: "compatibility", Value: "1"}}}
		for i, value := range values {
			r.Inputs.Add(Import, fmt.Sprint("i", i), value)
		}
		return r
	}
	c := NewCandidates([]*Record{record("newest", "a"), record("newer", "a", "b", "x", "y"), record("older", "a", "b", "x", "z"), record("far", "q")})
	for _, test := range []struct{ want, values string }{
		{"newest", "a"}, {"newer", "abx"}, {"newer", "abpq"}, {"older", "abxz"}, {"", "amno"}, {"", "m"},
	} {
		var values []string
		for _, v := range test.values {
			values = append(values, string(v))
		}
		got := ""
		if r := c.Nearest(record("", values...).Inputs); r != nil {
			got = string(r.Key)
		}
		if got != test.want {
			t.Errorf("%s: %q, want %q", test.values, got, test.want)
		}
	}
	if NewCandidates(nil).Nearest(nil) != nil {
		t.Error("there is a record in nothing")
	}
}
