package imports

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// A Match is a path below a folder that a pattern stands for.
type Match struct {
	Path string `json:"path"`
	Dir  bool   `json:"dir,omitempty"` // a folder, or a link to one
}

// Glob returns what a pattern stands for in the folder that src is, as COPY of a
// Dockerfile has it: *, ? and [ stand for characters of one name; links in the path before
// them are followed within Root or Within, others are what matches. A pattern without
// wildcards stands for one path, which must be there. What the filters of src leave out
// does not match.
func Glob(src Source, pattern string) ([]Match, error) {
	g := globber{src: src}
	var err error
	if g.filters, err = compile(src.Filters); err != nil {
		return nil, err
	}
	parts := strings.Split(strings.Trim(path.Clean("/"+pattern), "/"), "/")
	wild := slices.IndexFunc(parts, func(part string) bool { return strings.ContainsAny(part, `*?[\`) })
	if wild < 0 {
		return g.one(path.Join(parts...))
	}
	if _, err := path.Match(path.Join(parts...), ""); err != nil {
		return nil, fmt.Errorf("%s: %w", pattern, err)
	}
	folder := path.Join(parts[:wild]...)
	if folder == "" {
		folder = "."
	}
	err = g.in(folder, parts[wild:])
	if errors.Is(err, unix.ENOENT) {
		err = nil
	}
	return g.found, err
}

type globber struct {
	src     Source
	filters *filters
	found   []Match
}

// open opens a path below the source with O_PATH.
func (g *globber) open(p string) (int, error) {
	src := g.src
	src.Path = path.Join("/", src.Path, p)
	return src.open()
}

func (g *globber) one(p string) ([]Match, error) {
	fd, err := g.open(p)
	if err != nil {
		return nil, sourceError(Source{Path: p, Root: g.src.Root, Within: g.src.Within}, err)
	}
	defer unix.Close(fd)
	st, err := statFd(fd)
	if err != nil {
		return nil, err
	}
	if picked, err := g.filters.picks(p); err != nil || !picked && (!st.isDir() || !g.filters.mayPickBelow()) {
		return nil, errors.Join(err, fmt.Errorf("%s is left out by an ignore rule", p))
	}
	if p == "" {
		p = "."
	}
	return []Match{{p, st.isDir()}}, nil
}

// in finds what matches the parts of a pattern in a folder.
func (g *globber) in(folder string, parts []string) error {
	at, err := g.open(folder)
	if err != nil {
		return err
	}
	defer unix.Close(at)
	fd, err := unix.Openat(at, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	l := lister{buf: make([]byte, copyBuffer)}
	names, err := l.list(fd)
	if err != nil {
		return err
	}
	for i := range names.len() {
		name := names.get(i)
		if ok, _ := path.Match(parts[0], name); !ok {
			continue
		}
		var st status
		if err := statAt(fd, names.ptr(i), 0, &st); err != nil {
			return err
		}
		p := join(folder, name)
		switch {
		case len(parts) == 1:
			err = g.match(p, &st)
		case st.isDir():
			err = g.in(p, parts[1:])
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (g *globber) match(p string, st *status) error {
	dir := st.isDir()
	if st.kind() == Symlink {
		fd, err := g.open(p)
		if err != nil {
			return sourceError(Source{Path: p, Root: g.src.Root, Within: g.src.Within}, err)
		}
		defer unix.Close(fd)
		to, err := statFd(fd)
		if err != nil {
			return err
		}
		dir = to.isDir()
	}
	picked, err := g.filters.picks(p)
	if err == nil && (picked || dir && g.filters.mayPickBelow()) {
		g.found = append(g.found, Match{p, dir})
	}
	return err
}
