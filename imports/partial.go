package imports

import (
	"cmp"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/layerbuild/layerbuild/locks"
	"github.com/layerbuild/layerbuild/statedir"
)

// A partNote says what a download that was cut has come to, and of which version of
// the file: partial/url-HASH.json, beside what has come of it. A URL need not have a
// digest to compare the whole with, so what is not as its note says is not used. Then
// neither a kill, nor a power cut, nor a damaged byte gets into a download.
type partNote struct {
	Version      int    `json:"version"`
	URL          string `json:"url"` // redacted
	ETag         string `json:"etag,omitempty"`
	LastModified string `json:"lastModified,omitempty"`
	Says         string `json:"says,omitempty"` // X-Checksum-Sha256
	Total        int64  `json:"total"`          // -1 if it is not known
	Done         int64  `json:"done"`
	SHA256       string `json:"sha256"` // of the first Done bytes
}

// partPath is where what has come of the URL's file is kept until all of it is there.
// Its lock is that of the URL.
func (f *fetch) partPath() string { return filepath.Join(f.state, "partial", "url-"+f.urlHash()) }

// openPart opens it. It is locked as the download that it becomes.
func (f *fetch) openPart() (*os.File, error) {
	if err := f.dir().MakeWay(f.partPath()); err != nil {
		return nil, err
	}
	return locks.TryOpen(f.partPath(), os.O_CREATE|os.O_RDWR|unix.O_NOFOLLOW|unix.O_NONBLOCK, locks.Shared)
}

// takeUp begins with what an earlier Fetch has left.
func (t *transfer) takeUp(ctx context.Context) error {
	var n partNote
	text, err := statedir.ReadFile(t.part.Name() + ".json")
	if err != nil || json.Unmarshal(text, &n) != nil || n.Version != 1 {
		return t.restart(-1)
	}
	t.done, t.noted, t.total = n.Done, n.Done, n.Total
	t.etag, t.lastModified, t.says = n.ETag, n.LastModified, n.Says
	for left := n.Done; left > 0; left -= noteEvery {
		if _, err := io.CopyN(t.sum, t.part, min(left, noteEvery)); err == io.EOF {
			break // then it is not what the note says
		} else if err = cmp.Or(context.Cause(ctx), err); err != nil {
			return fmt.Errorf("reading what came of it before: %w", err)
		}
	}
	if !t.resumable() || hex.EncodeToString(t.sum.Sum(nil)) != n.SHA256 {
		return t.restart(-1)
	}
	return t.part.Truncate(n.Done)
}

// noteEvery is how much comes of a file between two notes of it, and so how much a
// kill costs.
const noteEvery = 32 << 20

// noteSome notes how far the download is, now and then.
func (t *transfer) noteSome() error {
	if t.done-t.noted < noteEvery {
		return nil
	}
	return t.note()
}

// note writes down how far the download is, if the server can go on there.
func (t *transfer) note() error {
	if !t.resumable() {
		return nil
	}
	t.noted = t.done
	n := partNote{1, t.name, t.etag, t.lastModified, t.says, t.total, t.done, hex.EncodeToString(t.sum.Sum(nil))}
	return t.writeFile(t.part.Name()+".json", func(w io.Writer) error { return json.NewEncoder(w).Encode(n) })
}

// forget removes the note: what is in part is no longer what it says.
func (t *transfer) forget() error {
	t.noted = 0
	if err := os.Remove(t.part.Name() + ".json"); !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// leave keeps what has come for the next Fetch, if that can go on with it.
func (t *transfer) leave() error {
	var err error
	if t.spent || !t.resumable() {
		err = t.forget()
		os.Remove(t.part.Name()) // unless it has become a download
	} else if t.done > t.noted {
		err = t.note()
	}
	return errors.Join(err, t.part.Close())
}
