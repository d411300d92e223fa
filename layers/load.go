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
	// RequireHash refuses http and https imports that have no hash.
	RequireHash bool
	// Shell runs scripts that name no interpreter, an absolute path; "" is /bin/sh.
	Shell string
}

// Load reads the stackerfile at path and its prerequisites. Its error is Errors when
// stackerfiles are at fault, all faults of all files at once.
func Load(path string, o Options) (*Graph, error) {
	return LoadAll([]string{path}, o)
}

// LoadAll reads several stackerfiles and their prerequisites into one graph, each
// once. Layers of one may name those of another only if that is a prerequisite.
func LoadAll(paths []string, o Options) (*Graph, error) {
	l := loader{requireHash: o.RequireHash, shell: cmp.Or(o.Shell, defaultShell), files: map[string]*Stackerfile{}}
	if !shellPath.MatchString(l.shell) {
		return nil, fmt.Errorf("shell %s is no absolute path without spaces: give one such as /bin/bash", quote(l.shell))
	}
	if err := l.readSubstitutions(o); err != nil {
		return nil, err
	}
	for _, path := range paths {
		absolute, err := filepath.Abs(path)
		if err != nil {
			return nil, fmt.Errorf("find stackerfile %s: %w", plain(path), err)
		}
		if l.files[absolute] != nil {
			continue
		}
		if err := l.load(path, absolute); err != nil {
			return nil, err
		}
	}
	return l.graph()
}

// A loader holds the stackerfiles of one Load.
type loader struct {
	requireHash bool
	shell       string
	subs        []substitution
	files       map[string]*Stackerfile // by absolute path
	open        []*Stackerfile          // those whose prerequisites are being loaded, outermost first
	order       []*Stackerfile          // prerequisites before who names them
	incomplete  bool                    // layers may be missing, since a file could not be read as YAML
	errs        Errors
	warnings    Errors
}

func (l *loader) readSubstitutions(o Options) error {
	add := func(name, value string) error {
		if name == "" || !utf8.ValidString(name+value) {
			return fmt.Errorf("substitution %s is not valid: give NAME=VALUE in UTF-8", quote(name+"="+value))
		}
		l.subs = append(l.subs, substitution{name: name, value: value})
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
		return l.errs.result()
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
	return l.errs.result()
}

// load reads the stackerfile at an absolute path and then its prerequisites, unless
// that was done before. The error is about reading; faults in the file are added to
// l.errs.
func (l *loader) load(name, path string) error {
	text, err := readFile(path)
	if err != nil {
		return fmt.Errorf("read stackerfile %s: %w", plain(name), err)
	}
	l.parse(&Stackerfile{Name: name, Path: path, Dir: filepath.Dir(path)}, text)
	return nil
}

// parse reads text into file, and then its prerequisites.
func (l *loader) parse(file *Stackerfile, text string) {
	l.files[file.Path] = file
	l.open = append(l.open, file)
	p := parser{file: file, errs: &l.errs, warnings: &l.warnings, requireHash: l.requireHash, shell: l.shell}
	if !p.stackerfile(text, l.subs) {
		l.incomplete = true
	}
	for i, prerequisite := range file.Prerequisites {
		l.prerequisite(file, p.prerequisites[i], prerequisite)
	}
	l.open = l.open[:len(l.open)-1]
	l.order = append(l.order, file)
}

// graph links what was loaded. Its error is Errors.
func (l *loader) graph() (*Graph, error) {
	g := link(l.order, l.incomplete, &l.errs)
	if err := l.errs.result(); err != nil {
		return nil, err
	}
	g.Warnings = l.warnings
	return g, nil
}

// prerequisite loads what file names at pos, by its absolute path.
func (l *loader) prerequisite(file *Stackerfile, pos Position, path string) {
	known := l.files[path]
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
	if err := l.load(l.nameBeside(file, path), path); err != nil {
		l.incomplete = true
		l.errs.add(pos, "", "%v", err)
	}
}

// nameBeside names path as the user would who named file so.
func (l *loader) nameBeside(file *Stackerfile, path string) string {
	if filepath.IsAbs(file.Name) {
		return path
	}
	relative, err := filepath.Rel(file.Dir, path)
	if err != nil {
		return path
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
	data, err := io.ReadAll(io.LimitReader(f, maxText+1))
	if err != nil {
		return "", readable(err)
	}
	if len(data) > maxText {
		return "", fmt.Errorf("it is larger than %d MiB", maxText>>20)
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
