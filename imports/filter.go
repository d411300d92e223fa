package imports

import (
	"fmt"
	"path"
	"slices"
	"sync"

	"github.com/moby/patternmatcher"
)

// A Filter picks some of what is in a folder, by patterns as .dockerignore has them.
type Filter struct {
	Below   string   // what the paths of the folder begin with for the patterns; "" for nothing
	Include []string // nil means all
	Exclude []string // of what is included
}

// filters are what a Source's Filters say, ready for use by several goroutines.
type filters struct {
	mu  sync.Mutex // a PatternMatcher is for one goroutine
	all []compiledFilter
}

type compiledFilter struct {
	below            string
	include, exclude *patternmatcher.PatternMatcher
}

// compile returns nil when there are no filters.
func compile(all []Filter) (*filters, error) {
	if len(all) == 0 {
		return nil, nil
	}
	fs := &filters{}
	for _, f := range all {
		c := compiledFilter{below: f.Below}
		var err error
		if c.exclude, err = patternmatcher.New(f.Exclude); err != nil {
			return nil, fmt.Errorf("patterns %q: %w", f.Exclude, err)
		}
		if f.Include != nil {
			if c.include, err = patternmatcher.New(f.Include); err != nil {
				return nil, fmt.Errorf("patterns %q: %w", f.Include, err)
			}
		}
		fs.all = append(fs.all, c)
	}
	return fs, nil
}

// picks reports whether all filters leave what is at a path of the source.
func (fs *filters) picks(p string) (bool, error) {
	if fs == nil {
		return true, nil
	}
	fs.mu.Lock()
	defer fs.mu.Unlock()
	for _, f := range fs.all {
		at := path.Join(f.below, p)
		if at == "." {
			continue // the folder itself is always there
		}
		out, err := f.exclude.MatchesOrParentMatches(at)
		if err != nil || out {
			return false, err
		}
		if f.include == nil {
			continue
		}
		if in, err := f.include.MatchesOrParentMatches(at); err != nil || !in {
			return false, err
		}
	}
	return true, nil
}

// mayPickBelow reports whether there may be something to pick in a folder that is not
// picked itself.
func (fs *filters) mayPickBelow() bool {
	return slices.ContainsFunc(fs.all, func(f compiledFilter) bool { return f.include != nil || f.exclude.Exclusions() })
}

// prune drops the folders below l that are not picked and in which nothing is.
func (l *looked) prune() {
	kept, folders, next := 0, 0, 0
	for i := range l.seen {
		if l.seen[i].isDir() {
			below := l.below[next]
			next++
			if below.prune(); below.spare && below.names.len() == 0 {
				continue
			}
			l.below[folders] = below
			folders++
		}
		l.seen[kept], l.names.at[kept] = l.seen[i], l.names.at[i]
		kept++
	}
	l.seen, l.names.at, l.below = l.seen[:kept], l.names.at[:kept], l.below[:folders]
}
