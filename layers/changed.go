package layers

import (
	"fmt"
	"strings"

	"github.com/mitchellh/hashstructure/v2"
)

// Changed returns the names of the directives in which l differs from old, in the
// order of the documentation. Positions and the stackerfile's folder do not count.
// It compares 64-bit hashes: quick to say what to look at, and no identity.
func (l *Layer) Changed(old *Layer) ([]string, error) {
	var changed []string
	for _, d := range directives {
		before, err := hashstructure.Hash(d.value(old), hashstructure.FormatV2, nil)
		if err != nil {
			return nil, fmt.Errorf("compare %s of layer %s: %w", d.name, l.Name, err)
		}
		after, err := hashstructure.Hash(d.value(l), hashstructure.FormatV2, nil)
		if err != nil {
			return nil, fmt.Errorf("compare %s of layer %s: %w", d.name, l.Name, err)
		}
		if before != after {
			changed = append(changed, d.name)
		}
	}
	return changed, nil
}

// difference says what to do about two layers of one name.
func difference(first, second *Layer) string {
	changed, err := second.Changed(first)
	switch {
	case err != nil:
		return ": rename one"
	case len(changed) == 0:
		return ", and says the same: remove one"
	default:
		return ", with other " + strings.Join(changed, ", ") + ": rename one"
	}
}

// The following spell out what hashstructure would take for equal: a missing number
// and zero, a missing list and an empty one.

func importTexts(l *Layer, legacy bool) []string {
	var texts []string
	for _, i := range l.Imports {
		if i.Legacy == legacy {
			text := fmt.Sprintf("%q %s %q %s %s %s %s %q",
				i.Source.Raw, i.Hash, i.Dest, optional(i.Mode), optional(i.UID), optional(i.GID), i.Normalize, i.Ignore)
			if i.Copy != nil {
				text += fmt.Sprintf(" copy %q %t %q %q", i.Copy.Patterns, i.Copy.Parents, i.Copy.Exclude, i.Copy.IgnoreFile)
			}
			texts = append(texts, text+fmt.Sprintf(" %q %t %q %q", optional(i.Text), i.Make, i.Mount, i.Owner))
		}
	}
	return texts
}

func optional[T any](value *T) string {
	if value == nil {
		return "-"
	}
	return fmt.Sprint(*value)
}

func overlayTexts(l *Layer) []string {
	var texts []string
	for _, o := range l.OverlayDirs {
		texts = append(texts, fmt.Sprintf("%q %q", o.Raw, o.Dest))
	}
	return texts
}

func bindTexts(l *Layer) []string {
	var texts []string
	for _, b := range l.Binds {
		dest := b.Dest
		if dest == b.Source {
			dest = "" // not this machine's path
		}
		texts = append(texts, fmt.Sprintf("%q %q %t", b.Raw, dest, b.Track))
	}
	return texts
}

func secretTexts(l *Layer) []string {
	var texts []string
	for _, s := range l.Secrets {
		texts = append(texts, fmt.Sprintf("%q %q %q %t", s.ID, s.Target, s.Env, s.Optional))
	}
	return texts
}

func cacheTexts(l *Layer) []string {
	var texts []string
	for _, c := range l.Caches {
		texts = append(texts, fmt.Sprintf("%q %q %s", c.Path, c.ID, c.Sharing))
	}
	return texts
}

func commandText(words []string) string {
	if words == nil {
		return ""
	}
	return fmt.Sprintf("%q", words)
}
