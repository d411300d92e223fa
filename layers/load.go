package layers

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"unicode/utf8"
)

// Options say how stackerfiles are read.
type Options struct {
	// Substitutions are K=V. They are performed in this order, then those of the
	// SubstituteFiles, then the Builtins: the first value for a name wins.
	Substitutions []string
	// SubstituteFiles are YAML mappings of names to values.
	SubstituteFiles []string
	// Builtins are the values that the command line always gives, by name:
	// STACKER_STACKER_DIR, STACKER_ROOTFS_DIR, STACKER_OCI_DIR.
	Builtins map[string]string
	// Network is that of layers that name none; "" is NetworkHost. With NetworkNone a
	// layer that names NetworkHost is refused.
	Network string
	// RequireHash refuses http and https imports that have no hash.
	RequireHash bool
	// URLs brings stackerfiles from http and https URLs; without it there are none.
	URLs Fetcher
	// Shell runs scripts that name no interpreter, an absolute path; "" is /bin/sh.
	Shell string
}

// A Fetcher brings files from URLs.
type Fetcher interface {
	// Fetch returns the path of a file that holds what is behind a URL now.
	Fetch(url string) (file string, err error)
	// Name is the URL as it may be shown and kept: without passwords.
	Name(url string) string
}

// Load reads the stackerfile at a path or URL, and its prerequisites. Its error is
// Errors when stackerfiles are at fault, all faults of all files at once.
func Load(path string, o Options) (*Graph, error) {
	return LoadAll([]string{path}, o)
}

// LoadAll reads several stackerfiles and their prerequisites into one graph, each
// once. Layers of one may name those of another only if that is a prerequisite.
func LoadAll(paths []string, o Options) (*Graph, error) {
	l := loader{network: o.Network, requireHash: o.RequireHash, shell: cmp.Or(o.Shell, defaultShell), urls: o.URLs, files: map[string]*Stackerfile{}}
	if !shellPath.MatchString(l.shell) {
		return nil, fmt.Errorf("shell %s is no absolute path without spaces: give one such as /bin/bash", quote(l.shell))
	}
	if err := l.readSubstitutions(o); err != nil {
		return nil, err
	}
	for _, path := range paths {
		p, err := l.place(path, nil)
		if err != nil {
			return nil, err
		}
		if l.files[p.path] != nil {
			continue
		}
		if err := l.load(p); err != nil {
			return nil, err
		}
	}
	return l.graph()
}

// IsURL tells whether what names a file is an http or https URL.
func IsURL(name string) bool {
	return strings.HasPrefix(name, "http://") || strings.HasPrefix(name, "https://")
}

// A place is where a stackerfile is.
type place struct {
	name string // as the user named it: what messages show
	path string // Stackerfile.Path
	url  string // "" for a file
}

// place finds a stackerfile by what names it: in another file, unless by is nil.
func (l *loader) place(name string, by *Stackerfile) (place, error) {
	switch {
	case IsURL(name) && l.urls == nil:
		return place{}, fmt.Errorf("read stackerfile %s: no URL is read here: download it and name the file", plain(name))
	case IsURL(name):
		shown := l.urls.Name(name)
		return place{name: shown, path: shown, url: name}, nil
	case by != nil && !filepath.IsAbs(name):
		path := filepath.Join(by.Dir, name)
		return place{name: nameBeside(by, path), path: path}, nil
	}
	path, err := filepath.Abs(name)
	if err != nil {
		err = fmt.Errorf("find stackerfile %s: %w", plain(name), err)
	}
	return place{name: name, path: path}, err
}

// A loader holds the stackerfiles of one Load.
type loader struct {
	network     string
	requireHash bool
	shell       string
	urls        Fetcher
	subs        []substitution
	files       map[string]*Stackerfile // by absolute path
	open        []*Stackerfile          // those whose prerequisites are being loaded, outermost first
	order       []*Stackerfile          // prerequisites before who names them
	incomplete  bool                    // layers may be missing, since a file could not be read as YAML
	uses        uses
	errs        Errors
	warnings    Errors
}

func (l *loader) readSubstitutions(o Options) error {
	given := true
	add := func(name, value string) error {
		if name == "" || !utf8.ValidString(name+value) {
			return fmt.Errorf("substitution %s is not valid: give NAME=VALUE in UTF-8", quote(name+"="+value))
		}
		l.subs = append(l.subs, substitution{name: name, value: value, given: given})
		return nil
	}
	for _, s := range o.Substitutions {
		name, value, ok := strings.Cut(s, "=")
		if !ok {
			return fmt.Errorf("substitution %s has no value: give %s=VALUE", quote(s), plain(s))
		}
		if err := add(name, value); err != nil {
			return err
		}
	}
	given = false
	for _, path := range o.SubstituteFiles {
		if err := l.readSubstituteFile(path, add); err != nil {
			return err
		}
	}
	for _, name := range slices.Sorted(maps.Keys(o.Builtins)) {
		if err := add(name, o.Builtins[name]); err != nil {
			return err
		}
	}
	return nil
}

func (l *loader) readSubstituteFile(path string, add func(name, value string) error) error {
	text, err := readFile(path)
	if err != nil {
		return fmt.Errorf("read substitute file %s: %w", plain(path), err)
	}
	p := parser{file: &Stackerfile{Name: path}, errs: &l.errs}
	root, _ := p.read(text, nil)
	if root == nil {
		return l.errs.Err()
	}
	for _, pair := range p.pairs(root, "the file") {
		value := ""
		if !isNull(pair.value) {
			value = p.text(pair.value, "the value of "+plain(pair.name))
		}
		if err := add(pair.name, value); err != nil {
			return err
		}
	}
	return l.errs.Err()
}

// load reads a stackerfile and then its prerequisites. The error is about reading;
// faults in the file are added to l.errs.
func (l *loader) load(p place) error {
	file, from := &Stackerfile{Name: p.name, Path: p.path, Dir: filepath.Dir(p.path)}, p.path
	var err error
	if p.url != "" {
		if file.Dir, err = os.Getwd(); err == nil { // as with stacker
			from, err = l.urls.Fetch(p.url)
		}
	}
	var text string
	if err == nil {
		text, err = readFile(from)
	}
	if err != nil {
		return fmt.Errorf("read stackerfile %s: %w", plain(p.name), err)
	}
	l.parse(file, text)
	return nil
}

// parse reads text into file, and then its prerequisites.
func (l *loader) parse(file *Stackerfile, text string) {
	l.files[file.Path] = file
	l.open = append(l.open, file)
	p := parser{file: file, errs: &l.errs, warnings: &l.warnings, network: l.network, requireHash: l.requireHash, shell: l.shell, uses: &l.uses}
	if !p.stackerfile(text, l.subs) {
		l.incomplete = true
	}
	for _, prerequisite := range p.prerequisites {
		l.prerequisite(file, prerequisite)
	}
	l.open = l.open[:len(l.open)-1]
	l.order = append(l.order, file)
}

// graph links what was loaded. Its error is Errors.
func (l *loader) graph() (*Graph, error) {
	if !l.incomplete {
		l.uses.check(l.subs, &l.errs, &l.warnings)
	}
	g := link(l.order, l.incomplete, &l.errs)
	if err := l.errs.Err(); err != nil {
		return nil, err
	}
	g.Warnings, g.Secrets = l.warnings, secrets(l.subs)
	return g, nil
}

// prerequisite loads what file names, unless that was done before.
func (l *loader) prerequisite(file *Stackerfile, named prerequisite) {
	pos := named.pos
	place, err := l.place(named.name, file)
	if err != nil {
		l.incomplete = true
		l.errs.add(pos, "", "%v", err)
		return
	}
	file.Prerequisites = append(file.Prerequisites, place.path)
	known := l.files[place.path]
	if at := slices.Index(l.open, known); known != nil && at >= 0 {
		chain := ""
		for _, f := range l.open[at:] {
			chain += plain(f.Name) + " → "
		}
		l.errs.add(pos, "", "prerequisites form a cycle, %s%s: remove one of them", chain, plain(known.Name))
		return
	}
	if known != nil {
		return
	}
	if err := l.load(place); err != nil {
		l.incomplete = true
		l.errs.add(pos, "", "%v", err)
	}
}

// nameBeside names path as the user would who named file so.
func nameBeside(file *Stackerfile, path string) string {
	if filepath.IsAbs(file.Name) {
		return path
	}
	relative, err := filepath.Rel(file.Dir, path)
	if err != nil {
		return path
	}
	if IsURL(file.Name) {
		return relative
	}
	return filepath.Join(filepath.Dir(file.Name), relative)
}

// readFile returns a file's text without its byte order mark. It never waits: a fifo,
// a socket or a device is refused before it is opened.
func readFile(path string) (string, error) {
	info, err := os.Stat(path)
	if err != nil {
		return "", readable(err)
	}
	if err := checkRegular(info); err != nil {
		return "", err
	}
	// The file may have been replaced since: opening must not block even so.
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return "", readable(err)
	}
	defer f.Close()
	if info, err = f.Stat(); err != nil {
		return "", readable(err)
	}
	if err := checkRegular(info); err != nil {
		return "", err
	}
	data, err := io.ReadAll(io.LimitReader(f, MaxSize+1))
	if err != nil {
		return "", readable(err)
	}
	if len(data) > MaxSize {
		return "", fmt.Errorf("it is larger than %d MiB", MaxSize>>20)
	}
	return strings.TrimPrefix(string(data), "\ufeff"), nil
}

func checkRegular(info fs.FileInfo) error {
	var kind string
	switch mode := info.Mode(); {
	case mode.IsRegular():
		return nil
	case mode.IsDir():
		kind = "a folder"
	case mode&fs.ModeNamedPipe != 0:
		kind = "a fifo"
	case mode&fs.ModeSocket != 0:
		kind = "a socket"
	default:
		kind = "a device"
	}
	return fmt.Errorf("it is %s: name a regular file", kind)
}

// readable leaves out the path, which the message already has.
func readable(err error) error {
	var path *fs.PathError
	if errors.As(err, &path) {
		return path.Err
	}
	return err
}
