// Package layers is the stackerfile language: it reads stackerfiles, substitutes
// their variables, checks them, and orders their layers into a Graph. It touches
// nothing but the files it reads.
//
// The directives and their meaning are those of project-stacker's stacker.
package layers

import (
	"fmt"
	"io/fs"

	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
)

// A Position is a place in a stackerfile as its author sees it: before
// substitution, lines and columns counted from 1.
type Position struct {
	File         string // as the user named it
	Line, Column int
}

func (p Position) String() string {
	return fmt.Sprintf("%s:%d:%d", plain(p.File), p.Line, p.Column)
}

// A Stackerfile is one parsed file.
type Stackerfile struct {
	Name          string   // as the user named it: what messages show
	Path          string   // absolute, or the URL without passwords
	Dir           string   // absolute folder that relative paths in it start from; of one by URL, the working folder
	Content       string   // after substitution
	Portable      string   // the same for others to read: placeholders of absolute paths and of secrets are left, and what else looks like a secret is not there
	Prerequisites []string // their Paths, in the order of `config: prerequisites`
	Normalize     string   // `config: normalize`: "" or NormalizeGit
	Layers        []*Layer // in the order of the file
}

// NormalizeGit keeps of a file's mode only what git keeps, so that a umask does
// not count.
const NormalizeGit = "git"

// Types of a Base.
const (
	BaseDocker  = "docker"  // an image in a registry
	BaseOCI     = "oci"     // an image in a local OCI layout
	BaseTar     = "tar"     // a root filesystem in a tar file
	BaseScratch = "scratch" // nothing
	BaseBuilt   = "built"   // another layer of the graph
)

// Networks of a layer's scripts.
const (
	NetworkHost = "host" // this machine's; the default, as stacker's
	NetworkNone = "none" // a loopback of its own and nothing else
)

// A Base is what a layer starts from.
type Base struct {
	Pos      Position
	Type     string // one of the Base constants
	URL      string // as written; for BaseOCI without the tag
	Tag      string // BaseOCI: the tag, BaseBuilt: the layer's name
	Insecure bool   // BaseDocker: plain http, or https whose certificate is not checked
	Source   Source // BaseTar: where the tar is. BaseOCI: the layout's absolute path
}

// Image returns the name of a BaseOCI or BaseDocker, with its tag if it has one.
func (b Base) Image() string {
	if b.Type == BaseOCI && b.Tag != "" {
		return b.URL + ":" + b.Tag
	}
	return b.URL
}

// Schemes of a Source.
const (
	SchemeLocal   = ""
	SchemeHTTP    = "http"
	SchemeHTTPS   = "https"
	SchemeStacker = "stacker"
)

// A Source names a file or folder: on this machine, behind a URL, or in another layer.
type Source struct {
	Raw     string // as written, after substitution
	Scheme  string // one of the Scheme constants
	Path    string // SchemeLocal: absolute. SchemeStacker: rooted in the layer, e.g. /usr/bin/tool
	Layer   string // SchemeStacker: the layer's name
	Content bool   // ends in a slash: the folder's content is meant, not the folder itself
}

// An Import is a file or folder that a layer may read while it runs; with a Dest
// it is copied into the image before the run.
type Import struct {
	Pos    Position
	Source Source
	// Name is the source's base name. Without a Dest a run sees the import at
	// Folder()/Name; Name is then "" for a Source.Content, whose entries a run sees
	// in Folder() itself, as stacker shows them. With a Dest it is not seen there.
	Name      string
	Legacy    bool         // from `import` instead of `imports`
	Hash      string       // "" or 64 lower-case hexadecimal digits: sha256 of the file
	Dest      string       // "" or an absolute path in the image; a trailing slash means: into this folder
	Mode      *fs.FileMode // permission, setuid, setgid and sticky bits of what is copied to Dest
	UID, GID  *int         // owner of what is copied to Dest; root when nil
	Normalize string       // as Stackerfile.Normalize, which it has unless it says otherwise
	Ignore    []string     // patterns, as gitignore(5) has them, of what in a folder is not imported

	Copy  *Copy   // what of Source is copied, as COPY of a Dockerfile does; nil for all of it
	Text  *string // what the file at Dest holds; there is no Source then
	Make  bool    // Dest is a folder that is made; there is no Source then
	Mount string  // "" or an absolute path: where the run sees the import instead of in Folder()
	Owner string  // "" or USER[:GROUP], by name or number; of what is copied to Dest
}

// A Copy says what of a folder is copied, as COPY of a Dockerfile has it. Links on the way
// to it are resolved within the folder.
type Copy struct {
	Patterns   []string // paths below the folder, with wildcards
	Parents    bool     // what is copied keeps its path
	Exclude    []string // patterns, as .dockerignore has them, below what is copied
	IgnoreFile string   // "" or a .dockerignore's absolute path, for paths below the folder
}

// Folders in which a run sees imports that have no Dest.
const (
	ImportsFolder       = "/stacker/imports"
	LegacyImportsFolder = "/stacker"
)

// Folder is where a run sees the import, when that has no Dest.
func (i Import) Folder() string {
	if i.Legacy {
		return LegacyImportsFolder
	}
	return ImportsFolder
}

// An OverlayDir is a host folder whose content is laid over the rootfs at Dest
// and becomes a layer of the image.
type OverlayDir struct {
	Pos    Position
	Source string // absolute
	Raw    string // as written
	Dest   string // absolute path in the image, "/" by default
}

// A Bind is a host path that is mounted into a run.
type Bind struct {
	Pos    Position
	Source string // absolute
	Raw    string // the source as written
	Dest   string // absolute path in the rootfs; Source when none is given
	Track  bool   // its tree is an input of the step, and it is mounted read-only
}

// A Secret is a value that the layer's scripts see, and that nothing keeps: not the
// image, not a record, not a log.
type Secret struct {
	Pos      Position
	ID       string // what --secret calls it
	Target   string // absolute path of the file that holds it; "" when only Env does
	Env      string // the variable that holds it, or ""
	Optional bool   // the scripts run without it, too
}

// A CacheMount is a folder that the layer's scripts see, and that is kept between
// builds instead of becoming part of the image.
type CacheMount struct {
	Pos     Position
	Path    string // absolute, in the rootfs
	ID      string // which cache it is; Path when none is given
	Sharing string // one of the Sharing constants
}

// What happens to a CacheMount that two scripts want at one time.
const (
	SharingShared  = "shared"  // both have it; the default, as BuildKit's
	SharingPrivate = "private" // the second has another one
	SharingLocked  = "locked"  // the second waits
)

// A Layer is one named entry of a stackerfile: a node of the Graph.
type Layer struct {
	Name string
	Pos  Position
	File *Stackerfile

	From        Base
	Imports     []Import
	OverlayDirs []OverlayDir
	Binds       []Bind
	Secrets     []Secret
	Caches      []CacheMount

	// Run and GenerateLabels are whole scripts, beginning with their `#!` line;
	// "" when the directive is missing.
	Run               string
	GenerateLabels    string
	RunPos            Position // of the directive
	GenerateLabelsPos Position

	Network string // of Run and GenerateLabels: one of the Network constants

	BuildEnv            map[string]string
	BuildEnvPassthrough []string // regular expressions on whole names; none means the default
	BuildUser           string   // whom Run runs as, as RuntimeUser; root when ""
	Tmpfs               []string // absolute paths of folders in memory that Run and GenerateLabels see
	BuildEnvFromBase    bool     // Run and GenerateLabels see the environment of the base's image

	Environment map[string]string
	Labels      map[string]string
	Annotations map[string]string
	Volumes     []string
	WorkingDir  string
	RuntimeUser string
	Cmd         []string // nil when missing
	Entrypoint  []string // nil when missing
	FullCommand []string // nil when missing

	Expose      []string // PORT/PROTOCOL each
	StopSignal  string
	Healthcheck *dockerspec.HealthcheckConfig // nil when missing
	Shell       []string                      // nil when missing; what Docker takes for commands given as a text
	OnBuild     []string

	OS, Arch  string // of the image; this machine's by default. Arch may have a variant: SplitArch
	BuildOnly bool
}

// A Graph is the layers of all stackerfiles of a build, and what each needs.
type Graph struct {
	Files  []*Stackerfile // prerequisites before who names them; otherwise in the order they were asked for
	Layers []*Layer       // each after all that it needs; otherwise in the order of the files

	Warnings Errors   // of what is accepted and should not be written any more
	Secrets  []string // values of substitutions that are named like secrets

	byName map[string]*Layer
	needs  map[*Layer][]*Layer
}

// Layer returns the layer of that name, or nil.
func (g *Graph) Layer(name string) *Layer { return g.byName[name] }

// Needs returns the layers that must be built before l: its `built` base, those it
// takes a `stacker://` tar or import from, and earlier ones whose run has something
// bound that l reads of this machine. Each stands once, in the order of g.Layers.
func (g *Graph) Needs(l *Layer) []*Layer { return g.needs[l] }
