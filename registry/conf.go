package registry

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/BurntSushi/toml"
	"github.com/google/go-containerregistry/pkg/name"
)

// registriesConf maps names of images to the places they are read from, as
// containers-registries.conf(5) describes. It ignores short names and their search
// lists: a name after docker:// always has a host, Docker Hub's by default.
type registriesConf []registryConf

// A registryConf is a [[registry]] table.
type registryConf struct {
	Prefix             string       `toml:"prefix"`   // of names, or *.domain; Location when empty
	Location           string       `toml:"location"` // replaces the prefix; empty for nothing does
	Insecure           bool         `toml:"insecure"`
	Blocked            bool         `toml:"blocked"`
	MirrorByDigestOnly bool         `toml:"mirror-by-digest-only"`
	Mirrors            []mirrorConf `toml:"mirror"`

	file string // it stands in
}

// A mirrorConf is a [[registry.mirror]] table.
type mirrorConf struct {
	Location       string `toml:"location"`
	Insecure       bool   `toml:"insecure"`
	PullFromMirror string `toml:"pull-from-mirror"` // all when empty, digest-only, tag-only
}

// registriesVariable is the environment variable that overrides registries.conf.
const registriesVariable = "CONTAINERS_REGISTRIES_CONF"

// registriesFiles returns the files to read; later ones override earlier ones. The
// user's registries.conf replaces the system's files altogether.
func registriesFiles() ([]string, error) {
	file, folders := "/etc/containers/registries.conf", []string{"/etc/containers/registries.conf.d"}
	if dir, err := os.UserConfigDir(); err == nil {
		user := filepath.Join(dir, "containers/registries.conf")
		if _, err := os.Stat(user); err == nil && os.Getenv(registriesVariable) == "" {
			file, folders = user, nil
		}
		folders = append(folders, user+".d")
	}
	files := []string{cmp.Or(os.Getenv(registriesVariable), file)}
	for _, folder := range folders {
		entries, err := os.ReadDir(folder)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		for _, entry := range entries {
			if strings.HasSuffix(entry.Name(), ".conf") {
				files = append(files, filepath.Join(folder, entry.Name()))
			}
		}
	}
	return files, nil
}

// readRegistriesConf reads all files of the environment. Missing ones are skipped,
// unless registriesVariable names them.
func readRegistriesConf() (registriesConf, error) {
	files, err := registriesFiles()
	if err != nil {
		return nil, err
	}
	var conf registriesConf
	for _, file := range files {
		text, err := os.ReadFile(file)
		if errors.Is(err, fs.ErrNotExist) && file != os.Getenv(registriesVariable) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if err := conf.add(file, string(text)); err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
	}
	return conf, nil
}

// add adds the tables of a file. A table replaces an earlier file's of the same prefix.
func (c *registriesConf) add(file, text string) error {
	var doc struct {
		Registry   []registryConf `toml:"registry"`
		Registries map[string]any `toml:"registries"`
	}
	if _, err := toml.Decode(text, &doc); err != nil {
		return errors.New(strings.Join(strings.Fields(err.Error()), " "))
	}
	if doc.Registries != nil {
		return errors.New("it has the form of version 1, [registries.search] and the like: " +
			"write [[registry]] tables, see containers-registries.conf(5)")
	}
	seen := map[string]bool{}
	for _, r := range doc.Registry {
		if err := r.complete(); err != nil {
			return err
		}
		if seen[r.Prefix] {
			return fmt.Errorf("two [[registry]] tables have the prefix %q", r.Prefix)
		}
		seen[r.Prefix], r.file = true, file
		*c = append(slices.DeleteFunc(*c, func(old registryConf) bool { return old.Prefix == r.Prefix }), r)
	}
	return nil
}

// complete fills in the defaults of a table, and checks it.
func (r *registryConf) complete() error {
	r.Prefix, r.Location = strings.TrimRight(r.Prefix, "/"), strings.TrimRight(r.Location, "/")
	r.Prefix = cmp.Or(r.Prefix, r.Location)
	wild := strings.HasPrefix(r.Prefix, "*.")
	switch {
	case r.Prefix == "":
		return errors.New("a [[registry]] table has neither prefix nor location")
	case strings.Contains(strings.TrimPrefix(r.Prefix, "*."), "*"), wild && strings.ContainsAny(r.Prefix, "/:@"):
		return fmt.Errorf("prefix %q: * stands only at the beginning of a host's name, as in *.example.com", r.Prefix)
	case r.Location == "" && !wild:
		return fmt.Errorf("the [[registry]] table of %q has no location", r.Prefix)
	}
	for i := range r.Mirrors {
		m := &r.Mirrors[i]
		m.Location = strings.TrimRight(m.Location, "/")
		if m.Location == "" {
			return fmt.Errorf("a mirror of %q has no location", r.Prefix)
		}
		if !slices.Contains([]string{"", "all", "digest-only", "tag-only"}, m.PullFromMirror) {
			return fmt.Errorf("the mirror %q has pull-from-mirror = %q: want all, digest-only or tag-only", m.Location, m.PullFromMirror)
		}
		if r.MirrorByDigestOnly && m.PullFromMirror != "" {
			return fmt.Errorf("the mirror %q has pull-from-mirror beside mirror-by-digest-only: only one of them is allowed", m.Location)
		}
	}
	return nil
}

// match returns the length of the part of a name that the table's prefix matches, or
// -1 if it does not match.
func (r *registryConf) match(text string) int {
	if domain, wild := strings.CutPrefix(r.Prefix, "*"); wild {
		host, _, _ := strings.Cut(text, "/")
		if without, _, _ := strings.Cut(host, ":"); strings.HasSuffix(without, domain) {
			return len(host)
		}
		return -1
	}
	rest, ok := strings.CutPrefix(text, r.Prefix)
	if !ok || rest != "" && rest[0] != '/' && (!strings.ContainsRune(":@", rune(rest[0])) || !strings.Contains(r.Prefix, "/")) {
		return -1
	}
	return len(r.Prefix)
}

// find returns the table with the longest prefix that matches, or nil.
func (c registriesConf) find(ref name.Reference) *registryConf {
	var best *registryConf
	for i := range c {
		if c[i].match(fullName(ref)) >= 0 && (best == nil || len(c[i].Prefix) > len(best.Prefix)) {
			best = &c[i]
		}
	}
	return best
}

// fullName returns the name that prefixes are compared with.
func fullName(ref name.Reference) string {
	return strings.Replace(ref.Name(), name.DefaultRegistry+"/", "docker.io/", 1)
}

// An endpoint is one place that an image may be read from.
type endpoint struct {
	ref      name.Reference
	insecure bool
}

// endpoints returns the places to try for an image, in order: its mirrors, then its
// location. It fails if the registry is blocked.
func (c registriesConf) endpoints(image Ref) ([]endpoint, error) {
	ref, err := image.parse()
	if err != nil {
		return nil, err
	}
	r := c.find(ref)
	if r == nil {
		return []endpoint{{ref, image.Insecure}}, nil
	}
	if r.Blocked {
		return nil, r.blocked(image, ref)
	}
	rest := fullName(ref)[r.match(fullName(ref)):]
	_, byDigest := ref.(name.Digest)
	var all []endpoint
	for _, m := range r.Mirrors {
		if !byDigest && (r.MirrorByDigestOnly || m.PullFromMirror == "digest-only") || byDigest && m.PullFromMirror == "tag-only" {
			continue
		}
		at, err := r.at(m.Location+rest, m.Insecure)
		if err != nil {
			return nil, err
		}
		all = append(all, at)
	}
	text := fullName(ref)
	if r.Location != "" {
		text = r.Location + rest
	}
	at, err := r.at(text, r.Insecure || image.Insecure)
	return append(all, at), err
}

func (r *registryConf) at(text string, insecure bool) (endpoint, error) {
	ref, err := Ref{Name: text, Insecure: insecure}.parse()
	host, _, _ := strings.Cut(text, "/")
	if err == nil && !slices.Contains(plainHostNames(ref.Context().RegistryStr()), host) {
		err = fmt.Errorf("%q, in which %q is no host: write its port or domain", text, host)
	}
	if err != nil {
		return endpoint{}, fmt.Errorf("%s: the registry %s leads to %w", r.file, r.Prefix, err)
	}
	return endpoint{ref, insecure}, nil
}

func (r *registryConf) blocked(image Ref, ref name.Reference) error {
	return fmt.Errorf("%s: registry %s is blocked by %s", image.Name, ref.Context().RegistryStr(), r.file)
}
