// Package engine walks the graph of layers, asks the cache for
// each, and where the cache does not know, drives the rooms that do the work:
//
//	stackerfile → layers.Graph → per layer: inputs → key → record, or run → snapshots → blobs → manifest
//
// The rooms do not know each other; what they share passes through here as
// plain values.
package engine

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/layerbuild/layerbuild/buildcache"
	"github.com/layerbuild/layerbuild/explain"
	"github.com/layerbuild/layerbuild/gc"
	"github.com/layerbuild/layerbuild/imports"
	"github.com/layerbuild/layerbuild/layers"
	"github.com/layerbuild/layerbuild/locks"
	"github.com/layerbuild/layerbuild/namespace"
	"github.com/layerbuild/layerbuild/oci"
	"github.com/layerbuild/layerbuild/overlay"
	"github.com/layerbuild/layerbuild/progress"
	"github.com/layerbuild/layerbuild/registry"
	"github.com/layerbuild/layerbuild/sandbox"
	"github.com/layerbuild/layerbuild/stores"
)

// Options say what to build and how.
type Options struct {
	Stackerfile string
	Others      []string // more stackerfiles, whose layers are built with it
	Load        layers.Options
	StateDir    string // what is remembered between builds
	RootsDir    string // where root filesystems are from now on; "" is where they were: in StateDir, unless one was named before
	OCIDir      string // the OCI layout that images go to
	Clock       Clock
	Runtime     string // an OCI runtime's name or path; "" takes the first that starts
	Jobs        int    // how many steps run at once; 0 is one a core, and 8 at least
	KeepGoing   bool   // after a failure go on with what does not need what failed

	Offline     bool       // ask no server: what is here serves
	Pull        Pull       // when registries are asked
	Remote      Remote     // other machines' caches
	Output      Output     // where images go
	NoStatIndex bool       // read every file of an import, whatever stat says
	MaxDownload int64      // bytes of an http(s) import; 0 for no limit
	Bounds      oci.Bounds // of bases' layers

	Targets    []string // the layers to build, with all they need; none is all
	NoCache    []string // layers that are built whatever the cache knows; AllLayers is every one
	Plan       bool     // find out what would be built, and build nothing
	FailOnMiss bool     // stop where the cache does not know
	Verify     []string // layers that are built again and compared with what the cache knows

	LayerTypes []string // of the images, one tag each; none is TypeTar
	NoVerity   bool     // append no dm-verity data to layers that are filesystems

	// Compression and CompressionLevel are of layers that are tars and not a base's;
	// "" is gzip, 0 the compression's default.
	Compression      oci.Compression
	CompressionLevel int

	// AnnotationsNamespace begins the names of the annotations that say of what an
	// image was built; without one there are none.
	AnnotationsNamespace string
	ToolVersion          string // for images with wall-clock times
	Author               string // of images whose times are not the wall clock's; "" is layerbuild
	CreatedBy            string // what entries of images' histories begin with; "" is layerbuild

	// MetadataFile and IIDFile are written when all has been built: see writeFiles.
	MetadataFile string
	IIDFile      string

	// Secrets are shown to the scripts of layers that name them. The digests of those
	// that are Keyed are keyed with SecretKey, or with the state folder's key if that
	// is nil.
	Secrets   []*Secret
	SecretKey *Secret

	Limits  sandbox.Limits // of each script; they change no key
	Timeout time.Duration  // of each script; 0 is none; it changes no key

	// OnRunFailure is a command that runs in a step's container after the step
	// failed, on the terminal; "" is none.
	OnRunFailure string
	KeepFailed   bool   // keep what a failed run leaves, for Shell
	Shell        *Shell // run this instead of building its layer

	// Policy is what is removed from the state folder after the build, when it is
	// time to look.
	Policy []gc.Rule

	// Again spells out a command of the program about a stackerfile, as hints name it.
	Again func(stackerfile string, args ...string) string

	// Told is given what a Plan tells; nil keeps it to the Sink.
	Told func(*explain.Report)

	Debug bool // explain misses in full
	Sink  progress.Sink
}

// DefaultBounds let any honest layer pass.
func DefaultBounds() oci.Bounds { return oci.DefaultBounds }

// A Pull says when a registry is asked for a base image. Without one it is asked
// what the reference stands for, and the image is pulled when it is new; when it
// cannot be reached, the image that is here is used, and that is said.
type Pull string

// Policies of pulling.
const (
	PullAlways  Pull = "always"  // ask, and fail when it cannot be reached
	PullMissing Pull = "missing" // ask only when no image of that name is here
	PullNever   Pull = "never"   // never ask
)

// AllLayers stands for every layer of the graph in Options.
const AllLayers = "*"

// A Builder has the rooms of one build open.
type Builder struct {
	Options
	*stores.Set
	graph *layers.Graph

	mayMount  bool         // what is missing is made by this process
	look      *look        // what ends when something is missing; nil in a build that makes it
	ready     func() error // see enter
	environ   []string
	runner    Runner
	runtime   *lazyRuntime // which is the runner, but in tests
	rights    func() string
	registry  func() *registry.Client
	inquiry   *inquiry // of registries
	downloads *downloader
	git       *gitFolders
	projects  projects
	makers    *makers
	layers    map[*layers.Layer]*outcome
	numbered  func() (int, error)    // the build's number: that of its log and its journal
	needed    map[*layers.Layer]bool // by others
	session   *buildcache.Session    // of the steps
	remote    *remoteCaches          // nil without any
	limits    limits
	comparer  func() (*stores.Comparer, error)
	worth     func() map[*layers.Layer]time.Duration // see paths
	failures  failures

	timeline *progress.Timeline // of the work of this build

	before space // what was left of the disks when the build began

	mu   sync.Mutex
	used map[string]bool // see use
}

// Build builds what the options say. When everything is found in the cache, nothing is
// mounted, unpacked or run. Otherwise the process enters a mount namespace, which ends with
// it however it ends. That of a user starts itself once more for it, and comes here again: it
// finds again what it found the first time, and takes over what it measured and was answered.
func Build(ctx context.Context, o Options) error {
	err := buildAll(ctx, o)
	if err != nil {
		o.Sink.Report(progress.Event{Time: time.Now(), Kind: progress.Error, Text: err.Error()})
	}
	return err
}

func buildAll(ctx context.Context, o Options) error {
	graph, err := load(append([]string{o.Stackerfile}, o.Others...), o.Load, o.Targets)
	if err != nil {
		return err
	}
	for _, name := range slices.Concat(o.NoCache, o.Verify) {
		if name == AllLayers {
			continue
		}
		if _, err := graph.Only(name); err != nil {
			return err
		}
	}
	if !o.KeepGoing {
		if err := present(graph); err != nil {
			return err
		}
	}
	mayCollect(o)
	if (len(o.NoCache)+len(o.Verify) > 0 || o.Shell != nil) && !o.Plan && !o.FailOnMiss {
		if err := namespace.Enter(); err != nil { // there is nothing to look up first
			return err
		}
	}
	o.Remote.answers = &answers{}
	left, err := attempt(ctx, o, graph)
	if left && err == nil {
		if err := namespace.Enter(); err != nil { // where that ends this life, the next one is told what this one learned
			return err
		}
		_, err = attempt(ctx, o, graph)
	}
	var lost *lostError
	for try := 1; errors.As(err, &lost) && try < attempts; try++ {
		o.Sink.Report(progress.Event{Time: time.Now(), Kind: progress.Warning, Text: lost.Error() + ": what is built on it is built again"})
		_, err = attempt(ctx, o, graph)
	}
	if err == nil && !o.Plan {
		collect(ctx, o)
	}
	return err
}

// reportWaiting has it reported for whom something waits.
func reportWaiting(ctx context.Context, report func(progress.Event)) context.Context {
	return locks.Watch(ctx, func(w locks.Waiting) {
		report(progress.Event{Time: time.Now(), Kind: progress.Notice, Layer: w.Layer, Text: w.String()})
	})
}

func load(stackerfiles []string, o layers.Options, targets []string) (*layers.Graph, error) {
	graph, err := layers.LoadAll(stackerfiles, o)
	if err != nil {
		return nil, err
	}
	return graph.Only(targets...)
}

// Order returns the names of the layers in the order in which they are built.
func Order(stackerfiles []string, o layers.Options, targets ...string) ([]string, error) {
	graph, err := load(stackerfiles, o, targets)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, l := range graph.Layers {
		names = append(names, l.Name)
	}
	return names, nil
}

// open opens the rooms.
func open(ctx context.Context, o Options, graph *layers.Graph) (*Builder, error) {
	var err error
	for _, dir := range []*string{&o.StateDir, &o.OCIDir} {
		if *dir, err = filepath.Abs(*dir); err != nil {
			return nil, err
		}
	}
	if err := o.placeRoots(); err != nil {
		return nil, err
	}
	if o.LayerTypes, err = checkTypes(o.LayerTypes); err != nil {
		return nil, err
	}
	if o.Compression, o.CompressionLevel, err = o.Compression.Check(o.CompressionLevel); err != nil {
		return nil, fmt.Errorf("--compression-format and --compression-level: %w", err)
	}
	inquiry := newInquiry() // before the environment is looked at
	b := &Builder{
		Options:  o,
		graph:    graph,
		mayMount: namespace.Entered(),
		environ:  o.environWithoutSecrets(),
		registry: sync.OnceValue(func() *registry.Client { return registry.New(registry.Options{}) }),
		inquiry:  inquiry,
		layers:   map[*layers.Layer]*outcome{},
		needed:   map[*layers.Layer]bool{},
		limits:   newLimits(o.Jobs),
		used:     map[string]bool{},
		timeline: progress.NewTimeline(),
	}
	b.ready = sync.OnceValue(func() error { return b.enter(ctx) })
	b.comparer = sync.OnceValues(func() (*stores.Comparer, error) { return b.NewComparer(ctx) })
	b.runtime = &lazyRuntime{b: b}
	b.runner = b.runtime
	b.rights = sync.OnceValue(rights)
	b.worth = sync.OnceValue(b.paths)
	b.downloads = newDownloader(b)
	b.makers = &makers{versions: map[oci.Filesystem]string{}}
	b.git = &gitFolders{sink: b.report, versions: map[string]func() string{}}
	b.Set, err = stores.Open(ctx, o.StateDir, imports.Options{NoStatIndex: o.NoStatIndex, Forbidden: append(outputFiles(), o.StateDir, o.OCIDir)})
	if err != nil {
		return nil, err
	}
	b.Cache.Conceal(graph.Secrets)
	if b.remote, err = b.openRemote(ctx); err != nil {
		b.Close()
		return nil, err
	}
	b.session = b.newSession()
	b.Blobs.Bounds = o.Bounds
	b.Blobs.ByUmoci = os.Getenv("LAYERBUILD_UNPACK") == "umoci"
	b.numbered = sync.OnceValues(b.Cache.NextBuild)
	b.before = spaceOf(b.Folders()...)
	for _, l := range graph.Layers {
		b.layers[l] = &outcome{done: make(chan struct{})}
		for _, need := range graph.Needs(l) {
			b.needed[need] = true
		}
	}
	return b, nil
}

// knowsMachine tells whether it is known that the machine can do what the build needs. If
// not, it is found out, and said, before anything else is.
func (b *Builder) knowsMachine() bool {
	_, err := b.Cache.Resolution(b.mountQuestion())
	return err == nil && b.runtime.known()
}

// enter moves the process to where it may mount, and finds out whether the machine can do
// what the build needs.
func (b *Builder) enter(ctx context.Context) error {
	err := namespace.Enter()
	if err == nil {
		err = stores.CheckOwners(b.Roots)
	}
	if err == nil {
		err = b.canMount()
	}
	if err == nil && b.runner == Runner(b.runtime) {
		err = b.runtime.expect(ctx)
	}
	return err
}

// close ends the processes of the build and leaves its rooms.
func (b *Builder) close() {
	b.runtime.close()
	b.Close()
}

// canMount fails where root filesystems cannot be mounted. A trial costs as much as
// the mounts of a step: where it went well, that is remembered. Where only the state
// folder's filesystem is at fault, as in a container, they are kept in memory until
// the process ends: it unpacks what it needs of them again.
func (b *Builder) canMount() error {
	question := b.mountQuestion()
	if _, err := b.Cache.Resolution(question); err == nil {
		return nil
	}
	fault := b.Snapshots.Supported()
	if fault == nil {
		return b.Cache.SetResolution(question, "works")
	}
	store, err := inMemory(b.StateDir, fault)
	if err != nil {
		return err
	}
	_ = b.Snapshots.Close()
	b.Snapshots, b.Roots = store, store.Dir()
	b.before = spaceOf(b.Folders()...)
	b.report(progress.Event{Kind: progress.Warning, Text: fault.Error() + untilThen})
	return nil
}

func (b *Builder) mountQuestion() string {
	return fmt.Sprintf("overlayfs %s %s", filesystem(b.Roots), b.rights())
}

const untilThen = "; until then root filesystems are in memory, and unpacked anew for each build, which is slower"

// inMemory returns a store in memory, or the fault of the state folder's own if that
// does not help.
func inMemory(state string, fault error) (*overlay.Store, error) {
	if !errors.Is(fault, overlay.ErrFilesystem) {
		return nil, fault
	}
	store, err := overlay.InMemory(state, namespace.Space{})
	if err != nil {
		return nil, fault
	}
	if store.Supported() != nil {
		_ = store.Close()
		return nil, fault
	}
	return store, nil
}

// outputFiles returns the files that this process writes its messages to: `layerbuild
// build >log` grows a file of the very folder that may be imported.
func outputFiles() (files []string) {
	for _, fd := range []*os.File{os.Stdout, os.Stderr} {
		if info, err := fd.Stat(); err != nil || !info.Mode().IsRegular() {
			continue
		}
		if file, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd.Fd())); err == nil {
			files = append(files, file)
		}
	}
	return files
}

// writable tells whether images can be put into the OCI layout. One that is not
// there is not made: a build that fails leaves nothing behind.
func (b *Builder) writable(ctx context.Context) error {
	if b.Output.Type == OutputCacheOnly {
		return nil
	}
	ociDir := b.OCIDir
	if _, err := os.Lstat(ociDir); err == nil {
		_, err := b.layout(ctx)
		return err
	}
	for above := filepath.Dir(ociDir); ; above = filepath.Dir(above) {
		err := unix.Access(above+"/.", unix.W_OK|unix.X_OK)
		if errors.Is(err, unix.ENOENT) && above != "/" {
			continue
		}
		if err != nil {
			return &explainedError{fmt.Errorf("the OCI layout %s cannot be made: %s: %w", ociDir, above, err), "--oci-dir names another place"}
		}
		return nil
	}
}

// build builds all layers, keeps the journal of it, and sums it up.
func (b *Builder) build(ctx context.Context) error {
	start := time.Now()
	for _, warning := range b.graph.Warnings {
		b.report(progress.Event{Kind: progress.Warning, Text: warning.Error()})
	}
	b.checkSecrets()
	err := b.buildLayers(ctx)
	if b.look.over() {
		return nil
	}
	if b.Shell != nil {
		return err
	}
	complete := err == nil
	if ctx.Err() == nil {
		err = errors.Join(err, b.remote.finish(ctx, complete))
	}
	if complete && err == nil {
		err = b.verdict()
	}
	switch {
	case !b.Plan:
		b.keepJournal(b.reportOf(ctx, start, err))
	case b.Told != nil:
		b.Told(b.reportOf(ctx, start, err))
	}
	if complete {
		b.sumUp(start)
	}
	return err
}

// keepJournal keeps what explains the build. Without it, as on a full disk, the
// build is as good.
func (b *Builder) keepJournal(report *explain.Report) {
	ended := time.Now()
	if err := b.tell(report); err != nil {
		b.report(progress.Event{Kind: progress.Warning, Text: fmt.Sprintf("the build cannot be explained later: %s", err)})
	}
	b.report(progress.Event{Kind: progress.Debug, Text: fmt.Sprintf("kept the journal of the build in %dµs", time.Since(ended).Microseconds())})
}

// buildLayers builds every layer as soon as those it needs are there. The first
// failure stops the others.
func (b *Builder) buildLayers(ctx context.Context) error {
	if err := b.writable(ctx); err != nil && !b.Plan { // better to know now than after all is built
		return err
	}
	if namespace.Ready() && slices.ContainsFunc(b.Folders(), hasLeftovers) {
		if err := errors.Join(b.Snapshots.Sweep(ctx), sandbox.Sweep(ctx, filepath.Join(b.StateDir, "tmp"))); err != nil {
			b.report(progress.Event{Kind: progress.Warning, Text: err.Error()})
		}
	}
	b.report(progress.Event{Kind: progress.Begin, Total: int64(len(b.graph.Layers))})
	for _, l := range b.graph.Layers {
		if len(b.graph.Needs(l)) == 0 { // all these may want to run at once
			b.layers[l].turn = b.limits.steps.expect()
		}
	}
	group, layerCtx := errgroup.WithContext(ctx)
	for _, l := range b.graph.Layers {
		group.Go(func() error { return b.layerInTurn(layerCtx, l) })
	}
	if err := group.Wait(); err != nil || b.look.over() || b.Shell != nil {
		return err
	}
	if !b.Plan {
		if err := b.putImages(ctx); err != nil || b.look.over() {
			return err
		}
	}
	b.countUses()
	if err := b.failure(); err != nil {
		return err
	}
	if !b.Plan {
		if err := b.writeFiles(); err != nil {
			return err
		}
	}
	return nil
}

// hasLeftovers tells whether something is being made in a folder, or was and was left.
func hasLeftovers(dir string) bool {
	left, err := os.ReadDir(filepath.Join(dir, "tmp"))
	return err == nil && len(left) > 0
}

// use notes that the build uses something, by the hexadecimal digits of its
// digest or key.
func (b *Builder) use(hex string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.used[hex] = true
}

// countUses adds to what is known of how often things are used. That may be lost,
// and so is never an error.
func (b *Builder) countUses() {
	for _, o := range b.layers {
		for c := o.chain; c != nil; c = c.below {
			b.use(c.id.Encoded())
		}
	}
	_ = b.Cache.Used(time.Now(), slices.Sorted(maps.Keys(b.used)))
}

// verdict is nil for a build that went well and has nothing to say that is no
// success: what would be built, what is not reproducible.
func (b *Builder) verdict() error {
	var misses, differs []string
	for _, l := range b.graph.Layers {
		switch o := b.layers[l]; {
		case o.differs:
			differs = append(differs, l.Name)
		case o.image == nil:
			misses = append(misses, l.Name)
		}
	}
	switch {
	case len(misses) > 0:
		return &MissError{misses}
	case len(differs) > 0:
		return &DifferError{differs}
	}
	return nil
}

// sumUp reports which layers were rebuilt since others were, and what the cache
// has saved.
func (b *Builder) sumUp(start time.Time) {
	report := &explain.Report{Layers: b.told()}
	report.Count()
	for _, text := range slices.Concat(report.Causes(), report.Reused()) {
		b.report(progress.Event{Kind: progress.Notice, Text: text})
	}
	b.report(progress.Event{Kind: progress.Summary, Text: report.Cache.String(), Took: time.Since(start)})
}

// A MissError says that layers are not in the cache, when nothing was to be built.
type MissError struct{ Layers []string }

func (e *MissError) Error() string {
	return fmt.Sprintf("%s would be built: %s", count(len(e.Layers), "layer"), strings.Join(e.Layers, ", "))
}

// A DifferError says that layers came out otherwise when they were built again of
// the same inputs.
type DifferError struct{ Layers []string }

func (e *DifferError) Error() string {
	return fmt.Sprintf("%s not reproducible: %s", isAre(len(e.Layers), "layer"), strings.Join(e.Layers, ", "))
}

func isAre(n int, noun string) string {
	if n == 1 {
		return "1 " + noun + " is"
	}
	return count(n, noun) + " are"
}

// layerInTurn makes a layer when those that it reads are there. It is left out when
// one of them could not be made.
func (b *Builder) layerInTurn(ctx context.Context, l *layers.Layer) error {
	o := b.layers[l]
	for _, need := range b.graph.Needs(l) {
		select {
		case <-b.layers[need].done:
		case <-ctx.Done():
			return ctx.Err()
		}
		if needed := b.layers[need]; needed.config == nil && (needed.failed || needed.skipped) {
			o.skipped = true
			close(o.done)
			return nil
		}
	}
	err := inside(b.layer(locks.For(ctx, l.Name), l))
	if err == nil {
		return nil
	}
	if err = b.failed(ctx, l, err); err == nil && o.config == nil {
		o.failed = true
		close(o.done)
	}
	return err
}

// fail makes an error about a place in a stackerfile.
func fail(l *layers.Layer, pos layers.Position, err error) error {
	return &layers.Error{Pos: pos, Layer: l.Name, Msg: err.Error()}
}

func count(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}
