package remote

import (
	"encoding/csv"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Types of a Place.
const (
	TypeRegistry = "registry" // a repository of a registry
	TypeLocal    = "local"    // an OCI layout in a folder
)

// A Place is where a remote cache is, as --cache-from and --cache-to spell it after
// docker buildx.
type Place struct {
	Type     string // one of the Type constants
	Name     string // host/repository, or the folder's absolute path
	Insecure bool   // TypeRegistry: plain http, or https whose certificate is not checked
}

// A From is a remote cache to read from.
type From struct {
	Place
	TrustRegistry bool          // believe what no key has signed
	MaxAge        time.Duration // of records; 0 is any age
}

// A Mode says of which layers the blobs are kept, beside the records of all.
type Mode string

// Modes, as buildx has them.
const (
	ModeMin Mode = "min" // of those that are in images
	ModeMax Mode = "max" // of build_only layers, too
)

// A To is a remote cache to write to.
type To struct {
	Place
	Mode        Mode
	IgnoreError bool // a build whose upload fails is as good
}

// ParseFrom reads the text of one --cache-from.
func ParseFrom(text string) (*From, error) {
	f := &From{}
	return f, parse(text, &f.Place, "src", map[string]func(string) error{
		"trust": func(v string) error {
			f.TrustRegistry = v == "registry"
			return oneOf("trust", v, "registry")
		},
		"max-age": func(v string) (err error) {
			f.MaxAge, err = parseAge(v)
			return err
		},
	})
}

// ParseTo reads the text of one --cache-to.
func ParseTo(text string) (*To, error) {
	t := &To{Mode: ModeMin, IgnoreError: true}
	return t, parse(text, &t.Place, "dest", map[string]func(string) error{
		"mode": func(v string) error {
			t.Mode = Mode(v)
			return oneOf("mode", v, string(ModeMin), string(ModeMax))
		},
		"ignore-error": boolean("ignore-error", &t.IgnoreError),
	})
}

// parse reads fields that are separated by commas and quoted as csv is. A text without
// a = is the name of a repository. The field that names a folder is called dir.
func parse(text string, place *Place, dir string, more map[string]func(string) error) error {
	fields, err := csv.NewReader(strings.NewReader(text)).Read()
	if err != nil {
		return fmt.Errorf("%q should be fields such as type=registry,ref=HOST/REPOSITORY", text)
	}
	if len(fields) == 1 && !strings.Contains(fields[0], "=") {
		fields = []string{"type=" + TypeRegistry, "ref=" + fields[0]}
	}
	set := map[string]func(string) error{
		"type": func(v string) error {
			place.Type = v
			return oneOf("type", v, TypeRegistry, TypeLocal)
		},
		"ref":               place.repository,
		dir:                 place.folder,
		"registry.insecure": boolean("registry.insecure", &place.Insecure),
	}
	for name, read := range more {
		set[name] = read
	}
	given := map[string]bool{}
	for _, field := range fields {
		name, value, _ := strings.Cut(field, "=")
		read := set[name]
		switch {
		case read == nil:
			return fmt.Errorf("unknown field %q: there are %s", name, strings.Join(sorted(set), ", "))
		case given[name]:
			return fmt.Errorf("%s is given twice", name)
		case value == "":
			return fmt.Errorf("%s has no value", name)
		}
		given[name] = true
		if err := read(value); err != nil {
			return err
		}
	}
	return place.complete(given, dir)
}

// complete refuses fields that are missing or of another type.
func (p *Place) complete(given map[string]bool, dir string) error {
	needs, refuses := "ref", []string{dir}
	switch p.Type {
	case "":
		return fmt.Errorf("type is missing: it is %s or %s", TypeRegistry, TypeLocal)
	case TypeLocal:
		needs, refuses = dir, []string{"ref", "registry.insecure"}
	}
	if !given[needs] {
		return fmt.Errorf("type=%s needs %s=", p.Type, needs)
	}
	for _, name := range refuses {
		if given[name] {
			return fmt.Errorf("%s means nothing for type=%s", name, p.Type)
		}
	}
	return nil
}

func (p *Place) repository(name string) error {
	last := name[strings.LastIndexByte(name, '/')+1:]
	if !strings.Contains(name, "/") || strings.ContainsAny(last, ":@") || strings.Contains(name, "://") {
		return fmt.Errorf("ref=%s should be HOST/REPOSITORY without a tag: the tags are layerbuild's own", name)
	}
	p.Name = name
	return nil
}

func (p *Place) folder(path string) (err error) {
	p.Name, err = filepath.Abs(path)
	return err
}

// String returns what messages call the place.
func (p Place) String() string { return p.Name }

func oneOf(name, value string, known ...string) error {
	if slices.Contains(known, value) {
		return nil
	}
	return fmt.Errorf("%s=%s should be %s", name, value, strings.Join(known, " or "))
}

func boolean(name string, to *bool) func(string) error {
	return func(v string) (err error) {
		if *to, err = strconv.ParseBool(v); err != nil {
			return fmt.Errorf("%s=%s should be true or false", name, v)
		}
		return nil
	}
}

// parseAge reads a duration such as 12h or 30d.
func parseAge(text string) (time.Duration, error) {
	if days, ok := strings.CutSuffix(text, "d"); ok {
		if n, err := strconv.Atoi(days); err == nil && n > 0 && n < 1<<16 {
			return time.Duration(n) * 24 * time.Hour, nil
		}
	} else if age, err := time.ParseDuration(text); err == nil && age > 0 {
		return age, nil
	}
	return 0, fmt.Errorf("max-age=%s should be a duration such as 12h or 30d", text)
}

func sorted(set map[string]func(string) error) []string {
	names := make([]string, 0, len(set))
	for name := range set {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}
