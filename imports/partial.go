package imports

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/opencontainers/go-digest"

	"github.com/layerbuild/layerbuild/locks"
	"github.com/layerbuild/layerbuild/registry"
	"github.com/layerbuild/layerbuild/statedir"
)

// A partNote says what a download that was cut has come to, and of which version of
// the file: partial/url-HASH.json, beside what has come of it. A URL need not have a
// digest to compare the whole with, so what is not as its note says is not used. Then
// neither a kill, nor a power cut, nor a damaged byte gets into a download.
type partNote struct {
	Version      int    `json:"version"`
	URL          string `json:"url"`            // redacted
	From         string `json:"from,omitempty"` // where it led to, redacted, without signatures
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

// A part is what has come of a URL's file. It is a registry.Sink.
type part struct {
	*fetch
	file    *os.File // locked as the download that it becomes
	sum     hash.Hash
	done    int64
	noted   int64            // of them in its note
	version registry.Version // of what it has
	begun   bool             // Begin was called
	spent   bool             // it is of no use any more
}

// takeUp opens the part with what an earlier Fetch has left of it.
func (f *fetch) takeUp(ctx context.Context) (*part, error) {
	if err := f.dir().MakeWay(f.partPath()); err != nil {
		return nil, err
	}
	file, err := locks.TryOpen(f.partPath(), os.O_CREATE|os.O_RDWR|unix.O_NOFOLLOW|unix.O_NONBLOCK, locks.Shared)
	if err != nil {
		return nil, err
	}
	p := &part{fetch: f, file: file, sum: sha256.New()}
	if err := p.readNote(ctx); err != nil {
		return nil, errors.Join(err, p.leave())
	}
	return p, nil
}

// readNote begins with what the note says, if all of that is there.
func (p *part) readNote(ctx context.Context) error {
	var n partNote
	text, err := statedir.ReadFile(p.notePath())
	if err != nil || json.Unmarshal(text, &n) != nil || n.Version != 1 || n.Done < 0 {
		return p.Reset()
	}
	for left := n.Done; left > 0; left -= noteEvery {
		if _, err := io.CopyN(p.sum, p.file, min(left, noteEvery)); err == io.EOF {
			break // then it is not what the note says
		} else if err = cmp.Or(context.Cause(ctx), err); err != nil {
			return fmt.Errorf("reading what came of it before: %w", err)
		}
	}
	p.done, p.noted = n.Done, n.Done
	p.version = registry.Version{URL: n.From, ETag: n.ETag, LastModified: n.LastModified, Length: n.Total, SHA256: n.Says}
	if !p.resumable() || hex.EncodeToString(p.sum.Sum(nil)) != n.SHA256 {
		return p.Reset()
	}
	return p.file.Truncate(n.Done)
}

func (p *part) notePath() string { return p.file.Name() + ".json" }

// resumable reports whether the rest can be asked for: either the server can tell that
// the file is still the same, or its hash will.
func (p *part) resumable() bool { return p.done > 0 && (p.Hash != "" || p.version.Continues()) }

// Size is a method of registry.Sink.
func (p *part) Size() int64 { return p.done }

// Digest is a method of registry.Sink.
func (p *part) Digest() digest.Digest { return digest.NewDigest(digest.SHA256, p.sum) }

// Write is a method of registry.Sink. It notes how far the download is, now and then.
func (p *part) Write(b []byte) (int, error) {
	p.sum.Write(b)
	if _, err := p.file.Write(b); err != nil {
		p.spent = true // what fills the disk is of no use
		return 0, fmt.Errorf("keeping the download: %w", err)
	}
	p.done += int64(len(b))
	if p.done-p.noted >= noteEvery {
		if err := p.note(); err != nil {
			return 0, err
		}
	}
	if err := p.checkSize(p.done); err != nil {
		return 0, err
	}
	if p.Progress != nil {
		p.Progress(p.done, p.version.Length)
	}
	return len(b), nil
}

// Reset is a method of registry.Sink.
func (p *part) Reset() error {
	if err := p.forget(); err != nil {
		return err
	}
	p.sum.Reset()
	p.done, p.version = 0, registry.Version{Length: -1}
	if _, err := p.file.Seek(0, io.SeekStart); err != nil {
		return err
	}
	return p.file.Truncate(0)
}

// noteEvery is how much comes of a file between two notes of it, and so how much a
// kill costs.
const noteEvery = 32 << 20

// note writes down how far the download is, if the server can go on there.
func (p *part) note() error {
	if !p.resumable() {
		return nil
	}
	p.noted = p.done
	v := p.version
	n := partNote{1, p.name, v.URL, v.ETag, v.LastModified, v.SHA256, v.Length, p.done, hex.EncodeToString(p.sum.Sum(nil))}
	return p.writeFile(p.notePath(), func(w io.Writer) error { return json.NewEncoder(w).Encode(n) })
}

// forget removes the note: what is in the part is no longer what it says.
func (p *part) forget() error {
	p.noted = 0
	if err := os.Remove(p.notePath()); !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// leave keeps what has come for the next Fetch, if that can go on with it.
func (p *part) leave() error {
	var err error
	if p.spent || !p.resumable() {
		err = p.forget()
		os.Remove(p.file.Name()) // unless it has become a download
	} else if p.done > p.noted {
		err = p.note()
	}
	return errors.Join(err, p.file.Close())
}
