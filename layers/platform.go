package layers

import (
	"regexp"
	"slices"
	"strings"

	"gopkg.in/yaml.v3"
)

// variants are those of the architectures that have some.
var variants = map[string][]string{
	"amd64": {"v1", "v2", "v3", "v4"},
	"arm":   {"v5", "v6", "v7", "v8"},
	"arm64": {"v8", "v9"},
}

// systems are those that an architecture may be mistaken for.
var systems = []string{"windows", "darwin", "freebsd", "netbsd", "openbsd", "solaris", "aix", "plan9"}

var anyVariant = regexp.MustCompile(`^[a-z0-9._]+$`)

// arch parses the name of an architecture, as in arm64, with or without a variant and the
// OS: arm/v7, linux/arm/v7.
func (p *parser) arch(n *yaml.Node, what string) string {
	text := strings.TrimPrefix(p.nonEmpty(n, what), "linux/")
	arch, variant := SplitArch(text)
	if arch == text {
		return text
	}
	known := variants[arch]
	if slices.Contains(known, "v"+variant) {
		variant = "v" + variant
	}
	switch {
	case len(known) > 0 && !slices.Contains(known, variant):
		p.fail(n, "%s %s: %s has no variant %s: it can be %s", what, quote(n.Value), arch, quote(variant), strings.Join(known, ", "))
	case arch == "" || slices.Contains(systems, arch) || !anyVariant.MatchString(variant):
		p.fail(n, "%s %s is no architecture: write a name with or without a variant, such as arm64 or arm/v7, and another OS as os", what, quote(n.Value))
	}
	return arch + "/" + variant
}

// SplitArch splits a layer's Arch into the architecture and the variant, "" for none.
func SplitArch(text string) (arch, variant string) {
	arch, variant, _ = strings.Cut(text, "/")
	return arch, variant
}
