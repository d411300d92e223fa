package explain

import (
	"encoding/json"
	"slices"
	"strconv"
	"time"
	"unicode/utf8"
)

// Encode returns the report as JSON on one line. Of a build that found everything
// in the cache it is put together by hand: encoding/json takes longer to get to
// know these types than such a build may spend on being explained.
func (r *Report) Encode() ([]byte, error) {
	plain := func(l Layer) bool {
		return l.Outcome == Hit && l.Because == nil && l.Baseline == nil && l.Reasons == nil && l.Labels == nil &&
			l.Hint == "" && l.Inputs == nil && l.There == "" && !l.SameResult
	}
	if r.Against != "" || r.Build.Error != "" || slices.ContainsFunc(r.Layers, func(l Layer) bool { return !plain(l) }) {
		return json.Marshal(r)
	}
	e := encoder{make([]byte, 0, 512+256*len(r.Layers))}
	e.raw(`{"version":`).int(r.Version).raw(`,"build":{`)
	if r.Build.Number != 0 {
		e.raw(`"number":`).int(r.Build.Number).raw(`,`)
	}
	e.raw(`"command":`).text(r.Build.Command)
	e.raw(`,"stackerfile":`).text(r.Build.Stackerfile)
	e.raw(`,"started":`).text(r.Build.Started.Format(time.RFC3339Nano))
	e.raw(`,"seconds":`).float(r.Build.Seconds)
	e.raw(`,"result":`).text(r.Build.Result).raw(`},"layers":[`)
	for i, l := range r.Layers {
		if i > 0 {
			e.raw(`,`)
		}
		e.layer(l)
	}
	e.raw(`],"cache":{"hits":`).int(r.Cache.Hits).raw(`,"layers":`).int(r.Cache.Layers)
	e.raw(`,"saved_seconds":`).float(r.Cache.Saved).raw(`,"spent_seconds":`).float(r.Cache.Spent).raw(`}}`)
	return e.out, nil
}

type encoder struct{ out []byte }

func (e *encoder) layer(l Layer) {
	e.raw(`{"name":`).text(l.Name).raw(`,"outcome":`).text(l.Outcome)
	for i, need := range l.Needs {
		e.raw([]string{`,"needs":[`, `,`}[min(i, 1)]).text(need)
	}
	if len(l.Needs) > 0 {
		e.raw(`]`)
	}
	e.raw(`,"seconds":`).float(l.Seconds)
	if l.Key != "" {
		e.raw(`,"key":`).text(l.Key)
	}
	if l.Result != "" {
		e.raw(`,"result":`).text(l.Result)
	}
	e.raw(`}`)
}

func (e *encoder) raw(s string) *encoder {
	e.out = append(e.out, s...)
	return e
}

func (e *encoder) int(n int) *encoder {
	e.out = strconv.AppendInt(e.out, int64(n), 10)
	return e
}

func (e *encoder) float(f float64) *encoder {
	e.out = strconv.AppendFloat(e.out, f, 'f', -1, 64)
	return e
}

func (e *encoder) text(s string) *encoder {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c == '"' || c == '\\' || c >= utf8.RuneSelf {
			quoted, _ := json.Marshal(s) // of a text it never fails
			return e.raw(string(quoted))
		}
	}
	e.out = append(append(append(e.out, '"'), s...), '"')
	return e
}
