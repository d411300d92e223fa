package layers

import (
	"cmp"
	"io/fs"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"gopkg.in/yaml.v3"

	"github.com/layerbuild/layerbuild/redact"
)

// A directive is one key of a layer: how it is read into the Layer, and what of the
// Layer tells whether it changed (see Layer.Changed); and what it looks like (see
// Schema).
type directive struct {
	name  string
	read  func(*parser, *Layer, *yaml.Node)
	value func(*Layer) any
	form  schema
}

// stackerfile reads text into p.file. It returns false when layers may be missing
// because of a fault.
func (p *parser) stackerfile(text string, subs []substitution) bool {
	root, ok := p.read(text, func(text string) *expanded { return p.substitute(text, subs) })
	if !ok {
		return false
	}
	p.file.Content = p.expanded.text
	p.file.Portable = redact.Text(expand(text, portable(subs), func(int, string, ...any) {}).text)
	if root == nil {
		p.failAt(0, "the file is empty: declare a layer")
		return false
	}
	entries := p.pairs(root, "a stackerfile")
	// First what applies to all layers, wherever it stands.
	for _, e := range entries {
		if e.name == "config" {
			p.config(e.value)
		}
	}
	for _, e := range entries {
		if e.name != "config" {
			p.oneLayer(e)
		}
	}
	if root.Kind == yaml.MappingNode && len(p.file.Layers) == 0 && len(p.prerequisites) == 0 {
		p.fail(root, "the file declares no layer: add one")
	}
	return root.Kind == yaml.MappingNode && len(p.unsubstituted) == 0
}

// substitute expands text and remembers the lines on which that failed.
func (p *parser) substitute(text string, subs []substitution) *expanded {
	p.unsubstituted = map[int]bool{}
	e := expand(text, subs, func(offset int, format string, args ...any) {
		line, _ := p.expanded.originalPosition(offset)
		p.unsubstituted[line] = true
		p.failAt(offset, format, args...)
	})
	p.uses.add(e, p.file.Name, subs)
	return e
}

func (p *parser) config(n *yaml.Node) {
	if isNull(n) {
		return
	}
	fields := p.fields(n, "config", "prerequisites", "normalize")
	if v := fields["prerequisites"]; v != nil {
		for _, item := range items(v) {
			path := p.nonEmpty(item, "a prerequisite")
			if path == "" {
				continue
			}
			if strings.Contains(path, "://") && !IsURL(path) {
				p.fail(item, "prerequisite %s is no path, and no http or https URL", quote(path))
				continue
			}
			p.prerequisites = append(p.prerequisites, prerequisite{p.position(item), path})
		}
	}
	if v := fields["normalize"]; v != nil {
		p.file.Normalize = p.normalize(v)
	}
}

// normalize returns "" or NormalizeGit.
func (p *parser) normalize(n *yaml.Node) string {
	switch p.text(n, "normalize") {
	case NormalizeGit:
		return NormalizeGit
	case "none", "":
	default:
		p.wrong(n, "normalize", "git or none")
	}
	return ""
}

// layerName is what an OCI tag, a file name and the host of a stacker:// may all be.
var layerName = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.@+-]*$`)

// tagName is what the tag of an image in an OCI layout may be (OCI image spec, annotations.md,
// org.opencontainers.image.ref.name).
var tagName = regexp.MustCompile(`^[A-Za-z0-9]+((?:[_.@+-]|--)[A-Za-z0-9]+)*$`)

// maxName is the most bytes of a name. A pattern that said so would take longer to
// compile than all else that a start of the program does.
const maxName = 128

func isName(name string, form *regexp.Regexp) bool {
	return len(name) <= maxName && form.MatchString(name)
}

func (p *parser) oneLayer(e pair) {
	p.layer = e.name
	defer func() { p.layer = "" }()
	l := &Layer{Name: e.name, Pos: p.position(e.key), File: p.file, Network: cmp.Or(p.network, NetworkHost), OS: runtime.GOOS, Arch: runtime.GOARCH}
	p.file.Layers = append(p.file.Layers, l)
	if !isName(e.name, layerName) {
		p.fail(e.key, "a layer's name is 1 to 128 letters, digits and any of _ . @ + - (others are forbidden), and begins with a letter, a digit or _: rename it")
	}
	if e.value.Kind != yaml.MappingNode {
		p.wrong(e.value, "a layer", "a mapping of directives")
		return
	}
	hasBase := false
	for _, d := range p.pairs(e.value, "a layer") {
		hasBase = hasBase || d.name == "from"
		p.directive(l, d)
	}
	if !hasBase {
		p.fail(e.key, "from is missing: say what the layer starts from, such as from: {type: scratch}")
	}
	if isName(e.name, layerName) && !l.BuildOnly && !tagName.MatchString(e.name) {
		p.fail(e.key, "a layer's name is its image's tag, which ends in a letter or digit and has one of _ . @ + - at a time: rename it, or write build_only: true")
	}
	p.checkNames(l)
	p.checkMounts(l)
}

func (p *parser) directive(l *Layer, e pair) {
	i := slices.IndexFunc(directives, func(d directive) bool { return d.name == e.name })
	if i < 0 {
		var known []string
		for _, d := range directives {
			if d.form["deprecated"] == nil {
				known = append(known, d.name)
			}
		}
		p.unknown(e, "unknown directive "+quote(e.name), known)
		return
	}
	switch e.name {
	case "run":
		l.RunPos = p.position(e.key)
	case "generate_labels":
		l.GenerateLabelsPos = p.position(e.key)
	}
	if !isNull(e.value) {
		directives[i].read(p, l, e.value)
		return
	}
	if requiresValue(e.name) {
		p.fail(e.key, "%s cannot be empty: give a value", quote(e.name))
	}
}

// requiresValue tells of those directives that cannot stand without a value. As in
// stacker others are then missing, but of these that can hardly be meant.
func requiresValue(name string) bool {
	return name == "from" || name == "os" || name == "arch"
}

var directives = []directive{
	{"from", (*parser).base, func(l *Layer) any {
		return []any{l.From.Type, l.From.URL, l.From.Tag, l.From.Insecure}
	}, baseSchema()},
	{"imports", func(p *parser, l *Layer, n *yaml.Node) { p.imports(l, n, false) }, func(l *Layer) any { return importTexts(l, false) }, oneOrMore(importSchema())},
	{"import", func(p *parser, l *Layer, n *yaml.Node) { p.imports(l, n, true) }, func(l *Layer) any { return importTexts(l, true) }, oneOrMore(importSchema())},
	{"overlay_dirs", (*parser).overlayDirs, func(l *Layer) any { return overlayTexts(l) }, oneOrMore(overlaySchema())},
	scriptDirective("run", func(l *Layer) *string { return &l.Run }),
	mapDirective("build_env", "=", func(l *Layer) *map[string]string { return &l.BuildEnv }),
	{"build_env_passthrough", (*parser).passthrough, func(l *Layer) any { return l.BuildEnvPassthrough }, oneOrMore(textSchema())},
	{"build_env_from_base", func(p *parser, l *Layer, n *yaml.Node) { l.BuildEnvFromBase = p.truth(n, "build_env_from_base") },
		func(l *Layer) any { return l.BuildEnvFromBase }, truthSchema()},
	textDirective("build_user", func(p *parser, n *yaml.Node, _ string) string { return p.owner(n, "build_user") }, func(l *Layer) *string { return &l.BuildUser }, textSchema()),
	{"binds", (*parser).binds, func(l *Layer) any { return bindTexts(l) }, oneOrMore(bindSchema())},
	{"secrets", (*parser).secrets, func(l *Layer) any { return secretTexts(l) }, oneOrMore(secretSchema())},
	{"caches", (*parser).caches, func(l *Layer) any { return cacheTexts(l) }, oneOrMore(cacheSchema())},
	{"tmpfs", (*parser).tmpfs, func(l *Layer) any { return l.Tmpfs }, oneOrMore(patterns("^/"))},
	textDirective("network", (*parser).networkName, func(l *Layer) *string { return &l.Network }, choice(NetworkHost, NetworkNone)),
	scriptDirective("generate_labels", func(l *Layer) *string { return &l.GenerateLabels }),
	mapDirective("environment", "=", func(l *Layer) *map[string]string { return &l.Environment }),
	mapDirective("labels", "", func(l *Layer) *map[string]string { return &l.Labels }),
	mapDirective("annotations", "", func(l *Layer) *map[string]string { return &l.Annotations }),
	{"volumes", (*parser).volumes, func(l *Layer) any { return l.Volumes }, oneOrMore(textSchema())},
	textDirective("working_dir", (*parser).text, func(l *Layer) *string { return &l.WorkingDir }, textSchema()),
	textDirective("runtime_user", (*parser).text, func(l *Layer) *string { return &l.RuntimeUser }, textSchema()),
	commandDirective("cmd", func(l *Layer) *[]string { return &l.Cmd }),
	commandDirective("entrypoint", func(l *Layer) *[]string { return &l.Entrypoint }),
	commandDirective("full_command", func(l *Layer) *[]string { return &l.FullCommand }),
	{"expose", (*parser).expose, func(l *Layer) any { return l.Expose }, oneOrMore(textSchema())},
	textDirective("stop_signal", (*parser).signal, func(l *Layer) *string { return &l.StopSignal }, textSchema()),
	{"healthcheck", (*parser).healthcheck, func(l *Layer) any { return healthcheckText(l.Healthcheck) }, healthcheckSchema()},
	commandDirective("shell", func(l *Layer) *[]string { return &l.Shell }),
	{"on_build", (*parser).onBuild, func(l *Layer) any { return l.OnBuild }, oneOrMore(textSchema())},
	textDirective("os", (*parser).nonEmpty, func(l *Layer) *string { return &l.OS }, textSchema()),
	textDirective("arch", (*parser).arch, func(l *Layer) *string { return &l.Arch }, textSchema()),
	{"bom", (*parser).bom, func(*Layer) any { return nil }, schema{"type": "object", "deprecated": true}},
	{"build_only", func(p *parser, l *Layer, n *yaml.Node) { l.BuildOnly = p.truth(n, "build_only") }, func(l *Layer) any { return l.BuildOnly }, truthSchema()},
}

// bom is a directive of stacker's that never became stable.
func (p *parser) bom(l *Layer, n *yaml.Node) {
	if n.Kind != yaml.MappingNode {
		p.wrong(n, "bom", "a mapping")
		return
	}
	p.warnings.add(p.position(n), l.Name, "bom is deprecated and has no effect: remove it")
}

func textDirective(name string, read func(*parser, *yaml.Node, string) string, field func(*Layer) *string, form schema) directive {
	return directive{
		name:  name,
		read:  func(p *parser, l *Layer, n *yaml.Node) { *field(l) = read(p, n, name) },
		value: func(l *Layer) any { return *field(l) },
		form:  form,
	}
}

func scriptDirective(name string, field func(*Layer) *string) directive {
	return textDirective(name, (*parser).script, field, oneOrMore(textSchema()))
}

// mapDirective reads a mapping whose names have no character of forbidden.
func mapDirective(name, forbidden string, field func(*Layer) *map[string]string) directive {
	return directive{
		name:  name,
		read:  func(p *parser, l *Layer, n *yaml.Node) { *field(l) = p.textMap(n, name, forbidden) },
		value: func(l *Layer) any { return *field(l) },
		form:  mapSchema(forbidden),
	}
}

func commandDirective(name string, field func(*Layer) *[]string) directive {
	return directive{
		name:  name,
		read:  func(p *parser, l *Layer, n *yaml.Node) { *field(l) = p.command(n, name) },
		value: func(l *Layer) any { return commandText(*field(l)) },
		form:  oneOrMore(textSchema()),
	}
}

// defaultShell runs scripts unless they or Options.Shell say otherwise.
const defaultShell = "/bin/sh"

var shellPath = regexp.MustCompile(`^/\S+$`)

// script returns a whole script with its interpreter. That of stacker is a shell that
// shows each command and stops at the first that fails.
func (p *parser) script(n *yaml.Node, what string) string {
	text := strings.Join(p.texts(n, what), "\n")
	if strings.TrimSpace(text) == "" {
		return ""
	}
	if !strings.HasPrefix(text, "#!") {
		text = "#!" + p.shell + " -xe\n" + text
	}
	if !strings.HasSuffix(text, "\n") {
		text += "\n"
	}
	return text
}

func (p *parser) networkName(n *yaml.Node, what string) string {
	switch {
	case n.Value != NetworkHost && n.Value != NetworkNone:
		p.wrong(n, what, "host or none")
	case n.Value == NetworkHost && p.network == NetworkNone:
		p.fail(n, "it wants the host's network, and --network none gives none: leave out one of them")
	}
	return n.Value
}

// command returns the arguments of a list, or the words of a text.
func (p *parser) command(n *yaml.Node, what string) []string {
	if n.Kind == yaml.SequenceNode {
		return p.texts(n, what)
	}
	words, err := splitWords(p.text(n, what))
	if err != nil {
		p.fail(n, "%s %s %v", what, quote(n.Value), err)
	}
	return words
}

func (p *parser) passthrough(l *Layer, n *yaml.Node) {
	for _, item := range items(n) {
		pattern := p.nonEmpty(item, "build_env_passthrough")
		if _, err := wholeName(pattern); err != nil {
			p.fail(item, "build_env_passthrough %s is no regular expression: %v", quote(pattern), patternFault(err))
			continue
		}
		l.BuildEnvPassthrough = append(l.BuildEnvPassthrough, pattern)
	}
}

func (p *parser) tmpfs(l *Layer, n *yaml.Node) {
	for _, item := range items(n) {
		l.Tmpfs = append(l.Tmpfs, folder(p.seen(item, p.destText(item, p.nonEmpty(item, "tmpfs")))))
	}
}

func (p *parser) volumes(l *Layer, n *yaml.Node) {
	for _, item := range items(n) {
		l.Volumes = append(l.Volumes, p.nonEmpty(item, "volumes"))
	}
}

func (p *parser) overlayDirs(l *Layer, n *yaml.Node) {
	for _, item := range items(n) {
		fields := p.fields(item, "overlay_dirs", "source", "dest")
		o := OverlayDir{Pos: p.position(item), Dest: "/"}
		if v := fields["source"]; v != nil {
			o.Pos = p.position(v)
			o.Raw = p.localPath(v, "source")
			o.Source = p.absolute(o.Raw)
		} else if item.Kind == yaml.MappingNode {
			p.fail(item, "overlay_dirs has no source: name a folder")
		}
		if v := fields["dest"]; v != nil {
			o.Dest = folder(p.dest(v))
		}
		l.OverlayDirs = append(l.OverlayDirs, o)
	}
}

func (p *parser) binds(l *Layer, n *yaml.Node) {
	for _, item := range items(n) {
		b := Bind{Pos: p.position(item)}
		if item.Kind == yaml.ScalarNode && !isNull(item) {
			b.Raw, b.Dest = p.bindText(item)
		} else {
			b.Raw, b.Dest, b.Track = p.bindFields(item)
		}
		b.Source = p.absolute(b.Raw)
		if b.Dest == "" {
			b.Dest = b.Source
		}
		l.Binds = append(l.Binds, b)
	}
}

// bindText reads "source" and "source -> dest".
func (p *parser) bindText(n *yaml.Node) (source, dest string) {
	words := strings.Fields(n.Value)
	switch {
	case len(words) == 1 && !strings.Contains(words[0], "->"):
		return words[0], ""
	case len(words) == 3 && words[1] == "->":
		return words[0], p.bindDest(n, words[2])
	}
	p.fail(n, `bind %s must be "source", "source -> dest", or a mapping of source and dest`, quote(n.Value))
	return "", ""
}

func (p *parser) bindFields(n *yaml.Node) (source, dest string, track bool) {
	fields := p.fields(n, "binds", "source", "dest", "track")
	if v := fields["source"]; v != nil {
		source = p.localPath(v, "source")
	} else if n.Kind == yaml.MappingNode {
		p.fail(n, "binds has no source: name a path of this machine")
	}
	if v := fields["dest"]; v != nil {
		dest = p.bindDest(v, p.nonEmpty(v, "dest"))
	}
	if v := fields["track"]; v != nil {
		track = p.truth(v, "track")
	}
	return source, dest, track
}

func (p *parser) imports(l *Layer, n *yaml.Node, legacy bool) {
	for _, item := range items(n) {
		i := Import{Pos: p.position(item), Legacy: legacy, Normalize: p.file.Normalize}
		source := item
		if item.Kind == yaml.MappingNode {
			source = p.importFields(&i, item)
		}
		if i.Make || i.Text != nil {
			i.Source.Raw = i.Dest
			l.Imports = append(l.Imports, i)
			continue
		}
		if source == nil || !p.importSource(&i, source) {
			continue
		}
		if p.requireHash && i.Hash == "" && (i.Source.Scheme == SchemeHTTP || i.Source.Scheme == SchemeHTTPS) {
			p.fail(source, "import %s needs a hash: give its sha256 as hash", quote(i.Source.Raw))
		}
		l.Imports = append(l.Imports, i)
	}
}

// importFields reads all of an import but what it is read from, which it returns.
func (p *parser) importFields(i *Import, n *yaml.Node) (source *yaml.Node) {
	fields := p.fields(n, "an import", "path", "copy", "from", "text", "folder", "hash", "dest", "mount", "mode", "uid", "gid", "owner",
		"normalize", "ignore", "exclude", "ignore_file", "parents")
	for name, v := range fields {
		switch name {
		case "hash":
			i.Hash = p.hash(v)
		case "dest":
			i.Dest = p.dest(v)
		case "mount":
			i.Mount = folder(p.dest(v))
		case "mode":
			i.Mode = p.mode(v)
		case "uid":
			i.UID = p.id(v, "uid")
		case "gid":
			i.GID = p.id(v, "gid")
		case "owner":
			i.Owner = p.owner(v, "owner")
		case "normalize":
			i.Normalize = p.normalize(v)
		case "ignore":
			i.Ignore = p.ignore(v)
		case "text":
			text := p.text(v, "text")
			i.Text = &text
		case "folder":
			i.Make, i.Dest = true, p.dest(v)
		}
	}
	return p.importKind(i, n, fields)
}

func (p *parser) importSource(i *Import, n *yaml.Node) bool {
	i.Pos = p.position(n)
	if i.Copy != nil {
		return true
	}
	var ok bool
	if i.Source, ok = p.source(n, "an import"); !ok {
		return false
	}
	if i.Source.Content && i.Dest == "" {
		return true // seen without a name of its own
	}
	if i.Name = i.Source.base(); i.Name == "" && !i.Source.Content {
		p.fail(n, "import %s has no file name: name a file or folder", quote(i.Source.Raw))
		return false
	}
	return true
}

func (p *parser) ignore(n *yaml.Node) (patterns []string) {
	for _, item := range items(n) {
		pattern := p.nonEmpty(item, "ignore")
		if strings.Contains(pattern, "\n") {
			p.fail(item, "ignore %s is several lines: write a list of patterns", quote(pattern))
		}
		patterns = append(patterns, pattern)
	}
	return patterns
}

var sha256Text = regexp.MustCompile(`^[0-9a-f]{64}$`)

func (p *parser) hash(n *yaml.Node) string {
	hash := strings.ToLower(p.text(n, "hash"))
	if hash != "" && !sha256Text.MatchString(hash) {
		p.fail(n, "hash %s is not valid: give the 64 hexadecimal digits of a sha256", quote(n.Value))
	}
	return hash
}

var octalText = regexp.MustCompile(`^(0o?)?0*[0-7]{1,4}$`)

// mode reads 0644, 0o644 and "0644". A number without a leading zero is decimal in
// YAML, which nobody means.
func (p *parser) mode(n *yaml.Node) *fs.FileMode {
	text := n.Value
	decimal := n.Style == 0 && !strings.HasPrefix(text, "0")
	if !octalText.MatchString(text) || decimal {
		p.wrong(n, "mode", "octal with a leading zero, such as 0644")
		return nil
	}
	bits, err := strconv.ParseUint(strings.TrimPrefix(text, "0o"), 8, 16)
	if err != nil {
		p.wrong(n, "mode", "at most 07777")
		return nil
	}
	mode := fs.FileMode(bits & 0o777)
	for bit, flag := range map[uint64]fs.FileMode{0o4000: fs.ModeSetuid, 0o2000: fs.ModeSetgid, 0o1000: fs.ModeSticky} {
		if bits&bit != 0 {
			mode |= flag
		}
	}
	return &mode
}

func (p *parser) id(n *yaml.Node, what string) *int {
	// 2³²-1 is no id: chown(2) takes it for "leave as it is".
	id, err := strconv.ParseUint(n.Value, 10, 32)
	if err != nil || id == 1<<32-1 {
		p.wrong(n, what, "a number from 0 to 4294967294")
		return nil
	}
	number := int(id)
	return &number
}

// checkNames refuses imports of a layer that a run would see at one place.
func (p *parser) checkNames(l *Layer) {
	seen := map[string]Import{}
	for _, i := range l.Imports {
		if i.Dest != "" || i.Mount != "" || i.Name == "" {
			continue
		}
		place := i.Folder() + "/" + i.Name
		first, ok := seen[place]
		switch {
		case place == ImportsFolder:
			p.errs.add(i.Pos, l.Name, "import %s would hide %s: use imports instead of import, or rename it", quote(i.Source.Raw), ImportsFolder)
		case !ok:
			seen[place] = i
		case !first.Source.same(i.Source):
			p.errs.add(i.Pos, l.Name, "import %s and %s at line %d are both seen at %s: rename one, or give it a dest",
				quote(i.Source.Raw), quote(first.Source.Raw), first.Pos.Line, plain(place))
		}
	}
}

// absolute resolves a path of the stackerfile. A ~ is a file name.
func (p *parser) absolute(path string) string {
	if filepath.IsAbs(path) {
		return filepath.Clean(path)
	}
	return filepath.Join(p.file.Dir, path)
}
