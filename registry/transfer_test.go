package registry

import (
	"net/http"
	"strconv"
	"strings"
	"testing"
)

func TestContentRange(t *testing.T) {
	for value, want := range map[string][2]int64{
		"bytes 5-9/10":  {5, 10},
		"bytes 0-0/1":   {0, 1},
		"bytes 5-9/*":   {5, -1},
		"bytes 9-5/10":  {},
		"bytes 5-9/9":   {},
		"bytes 5-10/10": {},
		"bytes */10":    {},
		"bytes -9/10":   {},
		"5-9/10":        {},
		"items 5-9/10":  {},
		"bytes 5-9":     {},
		"":              {},
	} {
		first, total, ok := contentRange(value)
		if ok != (want != [2]int64{}) || ok && (first != want[0] || total != want[1]) {
			t.Errorf("%q: %d of %d, %v", value, first, total, ok)
		}
	}
}

// Whatever a server says, a part is only gone on with where it was cut.
func FuzzContentRange(f *testing.F) {
	f.Add("bytes 5-9/10", int64(5), int64(10))
	f.Add("bytes 5-9/*", int64(5), int64(-1))
	f.Add("bytes -5--9/-10", int64(0), int64(-1))
	f.Add("bytes 9223372036854775807-9223372036854775807/*", int64(1), int64(-1))
	f.Fuzz(func(t *testing.T, value string, have, length int64) {
		have %= 1000
		sink := &memory{}
		if have > 0 {
			sink.Write(make([]byte, have))
		}
		tr := &transfer{sink: sink, length: length, same: func(*http.Response) bool { return true }}
		resp := &http.Response{StatusCode: http.StatusPartialContent, Header: http.Header{"Content-Range": {value}}}
		if tr.begin(resp) != nil {
			return
		}
		if have <= 0 || sink.Size() != have || !strings.Contains(value, strconv.FormatInt(have, 10)) {
			t.Errorf("%q is taken for the rest from %d on", value, have)
		}
		if length >= 0 && tr.length != length {
			t.Errorf("%q makes a file of %d bytes one of %d", value, length, tr.length)
		}
	})
}
