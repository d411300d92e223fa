package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/docker/go-units"
	"github.com/spf13/cobra"

	"github.com/layerbuild/layerbuild/engine"
	"github.com/layerbuild/layerbuild/explain"
	"github.com/layerbuild/layerbuild/layers"
	"github.com/layerbuild/layerbuild/progress"
)

// buildFlags are the flags of all commands that build.
type buildFlags struct {
	engine.Options
	shellFail  bool
	timestamps string
	orderOnly  bool
	shown      format // of plan

	secrets     secretFlags
	limits      limitFlags
	remote      remoteFlags
	output      string
	maxDownload string
	progress    string
	trace       string
	report      string
}

func newBuildCommand(s *settings) *cobra.Command {
	var f buildFlags
	cmd := &cobra.Command{
		Use:   "build [LAYER...]",
		Short: "Build the layers of a stackerfile",
		Long: `Build the layers of a stackerfile, and of those that it names as
prerequisites, and put an image for each into the OCI layout; layers that are
build_only leave none.

Images are the same for the same inputs, wherever and by whomever they are
built. They are created at SOURCE_DATE_EPOCH if that is set, else when the base
image was, else on 1980-01-01.

Exit status: 0 when all is built, 1 on an error, 3 when --dry-run or
--fail-on-miss found something to build, 4 when --verify found a layer that is
not reproducible.`,
		Example: `  layerbuild build
  layerbuild build app                # this layer and what it needs
  layerbuild build -f images/stacker.yaml --substitute VERSION=1.2
  layerbuild build --dry-run          # what would be built, and why
  layerbuild build --shell-fail       # a shell where a run failed`,
		RunE: func(cmd *cobra.Command, targets []string) error {
			f.Targets = append(f.Targets, targets...)
			return s.build(cmd, &f)
		},
		ValidArgsFunction: s.completeLayers(&f.Stackerfile, &f.Load),
	}
	f.add(cmd, s)
	flags := cmd.Flags()
	f.addNoCache(cmd)
	mustComplete(cmd, "no-cache", s.completeLayers(&f.Stackerfile, &f.Load))
	flags.StringArrayVar(&f.Targets, "target", nil, "build only `LAYER` and what it needs, like naming it as an argument (repeatable)")
	mustComplete(cmd, "target", s.completeLayers(&f.Stackerfile, &f.Load))
	flags.BoolVar(&f.Plan, "dry-run", false, "report what would be built and why, and build nothing")
	flags.BoolVar(&f.FailOnMiss, "fail-on-miss", false, "fail with status 3 if a layer is not in the cache")
	flags.StringVarP(&f.output, "output", "o", "", "write images to `DESTINATION`: type=oci,dest=DIR, or type=cacheonly for nowhere (default: the OCI layout of --oci-dir)")
	flags.StringVar(&f.MetadataFile, "metadata-file", "", "write the digests of the images to `FILE`, as docker buildx does")
	flags.StringVar(&f.IIDFile, "iidfile", "", "write the image's ID, the digest of its config, to `FILE` (needs --target if there are several images)")
	verify := flags.Bool("verify", false, "rebuild layers that are in the cache, and compare the results")
	cmd.PreRun = func(*cobra.Command, []string) {
		if *verify {
			f.Verify = []string{engine.AllLayers}
		}
	}
	return cmd
}

func newPlanCommand(s *settings) *cobra.Command {
	var f buildFlags
	cmd := &cobra.Command{
		Use:   "plan [LAYER...]",
		Short: "Say what a build would do, and why: build --dry-run",
		Long: `Say which layers a build would find in the cache, which it would build, and why.
Nothing is built. The exit status is 3 when something would be.`,
		RunE: func(cmd *cobra.Command, targets []string) error {
			f.Plan, f.Targets = true, targets
			var report *explain.Report
			if f.shown.json() {
				s.log, s.quiet = os.Stderr, true
				f.Told = func(r *explain.Report) { report = r }
			}
			err := s.build(cmd, &f)
			if report != nil {
				err = writeJSON(cmd.OutOrStdout(), report, err)
			}
			return err
		},
		ValidArgsFunction: s.completeLayers(&f.Stackerfile, &f.Load),
	}
	f.add(cmd, s)
	f.addNoCache(cmd)
	mustComplete(cmd, "no-cache", s.completeLayers(&f.Stackerfile, &f.Load))
	addFormat(cmd, &f.shown)
	hide(cmd, "runtime", "memory", "pids-limit", "cpus", "timeout", "on-run-failure", "shell-fail", "keep-failed", "keep-going", "jobs", "trace", "report")
	return cmd
}

func newVerifyCommand(s *settings) *cobra.Command {
	var f buildFlags
	cmd := &cobra.Command{
		Use:   "verify [LAYER...]",
		Short: "Build layers again and compare: are they reproducible?",
		Long: `Build layers, or all, again although they are in the cache, and compare the
results. A layer that comes out otherwise is named, with the files that differ;
what is in the cache stays. The exit status is 4 when there is one.`,
		RunE: func(cmd *cobra.Command, targets []string) error {
			f.Targets, f.Verify = targets, targets
			if len(targets) == 0 {
				f.Verify = []string{engine.AllLayers}
			}
			return s.build(cmd, &f)
		},
		ValidArgsFunction: s.completeLayers(&f.Stackerfile, &f.Load),
	}
	f.add(cmd, s)
	return cmd
}

func (f *buildFlags) addNoCache(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.Var((*someLayers)(&f.NoCache), "no-cache", "build all layers, or only these, without the cache")
	flags.Lookup("no-cache").NoOptDefVal = everyLayer
}

// someLayers are those of a flag whose value may be left out; then they are all.
type someLayers []string

// everyLayer is what a flag without a value is set to. It shows in the help.
const everyLayer = "LAYER,..."

func (s *someLayers) Set(text string) error {
	if text == everyLayer {
		text = engine.AllLayers
	}
	*s = append(*s, strings.Split(text, ",")...)
	return nil
}

func (s *someLayers) String() string { return strings.Join(*s, ",") }
func (s *someLayers) Type() string   { return "" }

func (f *buildFlags) add(cmd *cobra.Command, s *settings) {
	addStackerfileFlags(cmd, &f.Stackerfile, &f.Load)
	f.addCommon(cmd, s)
}

// addCommon adds the flags of builds whichever stackerfiles they build.
func (f *buildFlags) addCommon(cmd *cobra.Command, s *settings) {
	flags := cmd.Flags()
	flags.BoolVar(&f.Load.RequireHash, "require-hash", false, "refuse http(s) imports that have no hash")
	flags.BoolVar(&f.Offline, "offline", false, "use no network for bases and imports: only what was downloaded before")
	flags.StringVar((*string)(&f.Pull), "pull", "", "the `POLICY` for bases in registries: always, missing or never (default: check the tag, pull if it changed, fall back to the local copy without a connection)")
	flags.BoolVar(&f.NoStatIndex, "no-stat-index", false, "read every imported file, even if its size and times are unchanged")
	flags.StringVar(&f.maxDownload, "max-download", "20GB", "refuse http(s) imports larger than `SIZE`; 0 for no limit")
	f.secrets.add(cmd)
	f.limits.add(cmd, &f.Options)
	f.remote.add(cmd)
	flags.StringVar(&f.Runtime, "runtime", "", "the OCI `RUNTIME` for steps, by name or path (default: crun or runc, whichever starts)")
	flags.StringVar(&f.OnRunFailure, "on-run-failure", "", "run `COMMAND` in the container where a run failed")
	flags.BoolVar(&f.shellFail, "shell-fail", false, "open a shell where a run failed, like --on-run-failure /bin/sh")
	flags.BoolVar(&f.KeepFailed, "keep-failed", false, "keep the files of a failed run for layerbuild shell")
	flags.StringVar(&f.timestamps, "timestamps", "reproducible", "the `TIMES` in images: reproducible or now")
	addManifestFlags(cmd, &f.Options)
	flags.BoolVar(&f.orderOnly, "order-only", false, "print the layers in build order, and build nothing")
	flags.IntVarP(&f.Jobs, "jobs", "j", 0, "run `N` steps at once (default: the number of cores, at least 8)")
	flags.BoolVar(&f.KeepGoing, "keep-going", false, "after a failure, build the layers that do not depend on it")
	if !s.stacker { // whose flag of this name is another
		flags.StringVar(&f.progress, "progress", "auto", "how to show the build, a `MODE`: auto, tty, plain, json or quiet")
	}
	flags.StringVar(&f.report, "report", "", "write a page about the build to `FILE`, for a browser")
	flags.StringVar(&f.trace, "trace", "", "write a timeline to `FILE`, for chrome://tracing or ui.perfetto.dev")
}

// build runs a build as the flags say.
func (s *settings) build(cmd *cobra.Command, f *buildFlags) (err error) {
	if f.Clock, err = s.clock(cmd, f.timestamps); err != nil {
		return err
	}
	if f.MaxDownload, err = units.FromHumanSize(f.maxDownload); err != nil || f.MaxDownload < 0 {
		return fmt.Errorf("--max-download is %q: it should be a size such as 500MB, or 0", f.maxDownload)
	}
	if err := f.secrets.parse(&f.Options); err != nil {
		return err
	}
	if err := f.limits.parse(cmd, &f.Options); err != nil {
		return err
	}
	if err = s.reading(cmd.Context(), &f.Load, f.Offline); err != nil {
		return err
	}
	if err := s.readRemote(cmd, f); err != nil {
		return err
	}
	f.AnnotationsNamespace, f.ToolVersion = namespace(cmd, f.AnnotationsNamespace, f.Clock), buildVersion()
	switch f.Pull {
	case "", engine.PullMissing, engine.PullNever:
	case engine.PullAlways:
		if f.Offline {
			return errors.New("--pull always and --offline contradict each other")
		}
	default:
		return fmt.Errorf("--pull is %q: it should be always, missing or never", f.Pull)
	}
	if f.Jobs < 0 {
		return fmt.Errorf("--jobs is %d: it should be a number of steps", f.Jobs)
	}
	if f.orderOnly {
		return s.printOrder(cmd.OutOrStdout(), f)
	}
	if f.shellFail {
		f.OnRunFailure = "/bin/sh"
	}
	if f.Policy, err = s.policy(); err != nil {
		return err
	}
	s.place(&f.Options)
	f.OCIDir = cmp.Or(f.Output.Dest, f.OCIDir)
	f.Debug, f.Author, f.CreatedBy = s.debug, s.name(), s.createdBy()
	display, err := s.display(cmp.Or(f.progress, s.progressMode()))
	if err != nil {
		return err
	}
	defer display.Close()
	f.Sink = display
	var trace *progress.Timeline
	if f.trace != "" {
		trace = progress.NewTimeline()
		f.Sink = progress.Tee{display, trace}
	}
	began := time.Now()
	err = engine.Build(cmd.Context(), f.Options)
	if trace != nil {
		err = errors.Join(err, writeTrace(f.trace, trace))
	}
	if f.report != "" {
		if failed := s.reportBuild(context.WithoutCancel(cmd.Context()), f.Stackerfile, f.report, began); err == nil {
			err = failed
		}
	}
	return withStatus(err)
}

func writeTrace(path string, trace *progress.Timeline) error {
	file, err := os.Create(path)
	if err != nil {
		return fmt.Errorf("--trace: %w", err)
	}
	return errors.Join(progress.WriteTrace(file, trace), file.Close())
}

// withStatus gives those errors an exit status of their own that scripts ask for.
func withStatus(err error) error {
	var miss *engine.MissError
	var differ *engine.DifferError
	var command *engine.CommandError
	switch {
	case errors.As(err, &miss):
		return &exitStatus{3, err}
	case errors.As(err, &differ):
		return &exitStatus{4, err}
	case errors.As(err, &command):
		return &exitStatus{command.Status, err}
	}
	return err
}

// addStackerfileFlags adds the flags of all commands that read a stackerfile.
func addStackerfileFlags(cmd *cobra.Command, file *string, load *layers.Options) {
	cmd.Flags().StringVarP(file, "stacker-file", "f", defaultStackerfile, "the stackerfile, a `FILE` or URL")
	addSubstituteFlags(cmd, load)
}

// defaultStackerfile is stacker's.
const defaultStackerfile = "stacker.yaml"

// addManifestFlags adds the flags of all commands that make manifests.
func addManifestFlags(cmd *cobra.Command, o *engine.Options) {
	flags := cmd.Flags()
	flags.StringArrayVar(&o.LayerTypes, "layer-type", nil, "the `TYPE` of the layers of images: tar, squashfs or erofs; tags of the latter two end in -squashfs and -erofs (repeatable; default tar)")
	flags.StringVar((*string)(&o.Compression), "compression-format", "gzip", "compress tar layers with `FORMAT`: gzip, zstd or none; layers of bases stay as they are")
	flags.IntVar(&o.CompressionLevel, "compression-level", 0, "the `LEVEL`: 1 to 9 for gzip, 1 to 22 for zstd (default: 6 for gzip, 3 for zstd)")
	flags.BoolVar(&o.NoVerity, "no-verity", false, "leave dm-verity data out of squashfs and erofs layers")
	flags.StringVar(&o.AnnotationsNamespace, "annotations-namespace", "", "annotate images with their git version and stackerfile under the prefix `NAME` (default: io.stackeroci with --timestamps now, otherwise no annotations)")
}

// namespace is that of the flag, or what goes with the clock.
func namespace(cmd *cobra.Command, given string, clock engine.Clock) string {
	if clock.Now && !cmd.Flags().Changed("annotations-namespace") {
		return engine.DefaultAnnotationsNamespace
	}
	return given
}

func addSubstituteFlags(cmd *cobra.Command, load *layers.Options) {
	flags := cmd.Flags()
	flags.StringVar(&load.Shell, "shell", "", "run scripts that name no interpreter with `SHELL`, a path in the layer (default /bin/sh)")
	flags.StringArrayVar(&load.Substitutions, "substitute", nil, "replace ${{K}} in stackerfiles with V, as `K=V` (repeatable)")
	flags.StringArrayVar(&load.SubstituteFiles, "substitute-file", nil, "read substitutions from `FILE`, YAML of the form K: V (repeatable)")
}

func parseClock(timestamps string) (engine.Clock, error) {
	switch timestamps {
	case "now":
		return engine.Clock{Now: true}, nil
	case "reproducible":
		epoch, err := engine.ParseEpoch(os.Getenv("SOURCE_DATE_EPOCH"))
		return engine.Clock{Epoch: epoch}, err
	default:
		return engine.Clock{}, fmt.Errorf("--timestamps is %q: it should be reproducible or now", timestamps)
	}
}
