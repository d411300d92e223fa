// Package buildcache remembers the results of pure steps, and says why a result
// is not remembered.
//
// A step is described by its Inputs: everything it reads, each with a name and
// its value in clear. The sha256 of the inputs is the step's Key. A Record
// holds the inputs and the result; it is written once, under its key, and never
// changed. So an earlier state of a stackerfile, a branch or a file is found
// again by its key, and two records can be compared input by input to explain a
// miss.
//
// The cache is safe for any number of processes on one machine. It needs a
// local filesystem with flock(2) and atomic rename(2). A file that is damaged
// counts as not there, and is put aside for inspection; it is never an error.
package buildcache

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/layerbuild/layerbuild/locks"
	"github.com/layerbuild/layerbuild/statedir"
)

// StateVersion is the version of the state folder. Older ones are migrated.
const StateVersion = 4

var (
	// ErrNotFound says that there is no record under a key.
	ErrNotFound = errors.New("no record")
	// ErrCorrupt says that there was a record, but damaged; it has been put aside.
	ErrCorrupt = errors.New("damaged record")
	// ErrUntrusted reports that there is a record, but none that a trusted key vouches for.
	ErrUntrusted = errors.New("not vouched for by a trusted key")
)

// A Cache is the records of one state folder.
type Cache struct {
	dir       statedir.Dir
	inUse     *os.File // locked shared: see Destroy
	redaction func() ([]byte, error)
	concealed []string // see Conceal
	voucher   string   // the key that vouches for what is put, or ""
}

// Open returns the cache in a state folder and makes the folder if need be,
// private to its user. A folder of an older layerbuild is migrated, one of a
// newer is refused and left as it is. Until Close the folder is in use, and is
// not destroyed.
func Open(ctx context.Context, state string) (*Cache, error) {
	for range attempts {
		c, err := openNow(ctx, state)
		if !errors.Is(err, fs.ErrNotExist) {
			return c, err
		}
	}
	return nil, fmt.Errorf("state folder %s is removed again and again: name another one with --state-dir", state)
}

// attempts is how often a folder is opened that others destroy meanwhile.
const attempts = 10

func openNow(ctx context.Context, state string) (*Cache, error) {
	c := &Cache{dir: statedir.Dir(state)}
	c.redaction = sync.OnceValues(c.redactionKey)
	if err := c.dir.Check(); err != nil {
		return nil, fmt.Errorf("state folder: %w", err)
	}
	if version, err := c.written(); err == nil && version > StateVersion {
		return nil, fmt.Errorf("state folder %s was written by a newer layerbuild (version %d, this one knows %d): upgrade layerbuild, or name another folder with --state-dir", state, version, StateVersion)
	}
	if err := c.create(ctx); err != nil {
		return nil, fmt.Errorf("state folder: %w: name another one with --state-dir", err)
	}
	version, err := c.version()
	if err != nil {
		return nil, err
	}
	if err := c.migrate(ctx); err != nil {
		return nil, fmt.Errorf("state folder %s: migrating it from version %d: %w", state, version, err)
	}
	if err := c.dir.SweepUnused(); err != nil {
		return nil, fmt.Errorf("state folder %s: sweeping what a killed build left: %w", state, err)
	}
	if c.inUse, err = c.dir.Use(ctx, locks.Shared); err != nil {
		return nil, err
	}
	return c, nil
}

// written reads the version that the state folder says it has. The error is
// ErrCorrupt for what is no version.
func (c *Cache) written() (int, error) {
	raw, err := statedir.ReadFile(c.path("version"))
	if statedir.Irregular(err) {
		return 0, ErrCorrupt
	}
	if err != nil {
		return 0, err
	}
	version, err := strconv.Atoi(strings.TrimSpace(string(raw)))
	if err != nil || version < 1 {
		return 0, ErrCorrupt
	}
	return version, nil
}

// version returns the version of the state folder.
func (c *Cache) version() (int, error) {
	version, err := c.written()
	if errors.Is(err, ErrCorrupt) {
		// To take it for the newest is safe: a record says itself of which version
		// it is, and an older one is not found by its key.
		return StateVersion, c.write("version", []byte(strconv.Itoa(StateVersion)+"\n"))
	}
	if err != nil {
		return 0, fmt.Errorf("state folder: %w", err)
	}
	return version, nil
}

// Close ends the use of the state folder.
func (c *Cache) Close() error { return c.inUse.Close() }

// Destroy removes a whole state folder. It fails while any process uses it.
func Destroy(ctx context.Context, state string) error {
	c, err := Open(ctx, state)
	if err != nil {
		return err
	}
	defer c.Close()
	if err := locks.Try(c.inUse, locks.Exclusive); err != nil {
		return fmt.Errorf("state folder %s: %w%s: wait for that to end", state, err, locks.By(c.inUse))
	}
	if err := locks.RemoveAll(state); err != nil {
		return fmt.Errorf("remove state folder %s: %w", state, err)
	}
	return nil
}

// create makes the folder if it is not there.
func (c *Cache) create(ctx context.Context) error {
	if err := os.MkdirAll(c.path("tmp"), 0o700); err != nil {
		return err
	}
	// One that was brought here, as by a CI, may have become readable for others.
	if info, err := os.Stat(c.path()); err != nil {
		return err
	} else if info.Mode().Perm()&0o077 != 0 {
		if err := os.Chmod(c.path(), 0o700); err != nil {
			return err
		}
	}
	if _, err := os.Stat(c.path("version")); err == nil {
		return nil
	}
	lock, err := c.dir.Use(ctx, locks.Shared) // against being swept
	if err != nil {
		return err
	}
	defer lock.Close()
	return c.write("version", []byte(strconv.Itoa(StateVersion)+"\n"))
}

func (c *Cache) path(elem ...string) string { return c.dir.Path(elem...) }

// write makes a file durable: it is whole, or as it was.
func (c *Cache) write(name string, data []byte) error {
	return c.dir.Write(c.path(name), 0o600, func(w io.Writer) error { _, err := w.Write(data); return err })
}

// putAside moves a damaged file to corrupt/. One that cannot be moved, as on a full disk, is
// removed: it must not be met again.
func (c *Cache) putAside(name string) {
	if _, err := c.dir.PutAside(c.path(name), asideName(name)); err != nil {
		_ = os.RemoveAll(c.path(name))
	}
}

// aside returns where putAside puts a file.
func (c *Cache) aside(name string) string { return c.path("corrupt", asideName(name)) }

func asideName(name string) string { return strings.ReplaceAll(name, "/", "-") }

// An Origin says which build wrote a record. It is there to tell people, and
// never part of a key.
type Origin struct {
	Layer       string `json:"layer,omitempty"`
	Stackerfile string `json:"stackerfile,omitempty"` // absolute path
	Base        string `json:"base,omitempty"`        // what the layer starts from, as people name it
	Manifest    string `json:"manifest,omitempty"`    // the digest that Base stood for
}

// String returns which layer of which stackerfile it is.
func (o Origin) String() string {
	return fmt.Sprintf("layer %s of ./%s", o.Layer, filepath.Base(o.Stackerfile))
}

// A Record is the inputs of one step, spelled out, and its result. What looks
// like a secret in the inputs is redacted.
type Record struct {
	Version int             `json:"version"`
	Kind    Kind            `json:"kind"`
	Key     Key             `json:"key"`
	Created time.Time       `json:"created"`
	Cost    time.Duration   `json:"cost_ns"` // wall-clock time that the step took
	Origin  Origin          `json:"origin"`
	Inputs  Inputs          `json:"inputs"`
	Result  json.RawMessage `json:"result"`
	Vouched *Vouch          `json:"vouched,omitempty"`
}

// sealed is the form of a file on disk: a checksum, and what it is of.
type sealed struct {
	Sum    string          `json:"sha256"`
	Record json.RawMessage `json:"record"`
}

func seal(v any) ([]byte, error) {
	raw, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(raw)
	out, err := json.Marshal(sealed{hex.EncodeToString(sum[:]), raw})
	return append(out, '\n'), err
}

// unseal decodes what seal wrote. Fields that this layerbuild does not know are left out: a
// newer one may have added what an older one can do without.
func unseal(data []byte, v any) error {
	var s sealed
	if err := json.Unmarshal(data, &s); err != nil {
		return err
	}
	if sum := sha256.Sum256(s.Record); s.Sum != hex.EncodeToString(sum[:]) {
		return errors.New("checksum does not match")
	}
	return json.Unmarshal(s.Record, v)
}

func recordName(kind Kind, key Key) string {
	return filepath.Join("records", string(kind), string(key[:2]), string(key)+".json")
}

// Get returns the record under a key. Its errors are ErrNotFound, ErrCorrupt,
// and those of reading the disk. A record that was put aside stays ErrCorrupt
// until the step is done again.
func (c *Cache) Get(kind Kind, key Key) (*Record, error) {
	if len(key) != hex.EncodedLen(sha256.Size) {
		return nil, ErrNotFound // as that of a record that a migration could not carry over
	}
	name := recordName(kind, key)
	var r Record
	if err := c.read(name, &r); err != nil {
		if _, gone := os.Lstat(c.aside(name)); errors.Is(err, ErrNotFound) && gone == nil {
			err = ErrCorrupt
		}
		return nil, err
	}
	if r.Version != FormatVersion || r.Kind != kind || r.Key != key {
		c.putAside(name)
		return nil, ErrCorrupt
	}
	return &r, nil
}

// read decodes a sealed file; a damaged one is put aside.
func (c *Cache) read(name string, v any) error {
	data, err := statedir.ReadFile(c.path(name))
	if errors.Is(err, fs.ErrNotExist) {
		return ErrNotFound
	}
	if statedir.Irregular(err) || err == nil && unseal(data, v) != nil {
		c.putAside(name)
		return ErrCorrupt
	}
	return err
}

// Put remembers the result of a step with these inputs. Everything that the
// result names must be on disk already.
func (c *Cache) Put(kind Kind, in Inputs, result any, cost time.Duration, origin Origin) (*Record, error) {
	raw, err := json.Marshal(result)
	if err != nil {
		return nil, err
	}
	redacted, err := c.redact(in)
	if err != nil {
		return nil, err
	}
	r := &Record{
		Version: FormatVersion,
		Kind:    kind,
		Key:     in.Key(kind),
		Created: time.Now().UTC().Truncate(time.Second),
		Cost:    cost,
		Origin:  origin,
		Inputs:  redacted,
		Result:  raw,
	}
	r.Vouched = c.vouch(r.Created)
	data, err := seal(r)
	if err != nil {
		return nil, err
	}
	if err := c.write(recordName(kind, r.Key), data); err != nil {
		return nil, fmt.Errorf("remembering a %s step: %w", kind, err)
	}
	c.kept(r)
	return r, nil
}
