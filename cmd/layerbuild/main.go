// Command layerbuild builds OCI images from a stackerfile.
package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/layerbuild/layerbuild/engine"
	"github.com/layerbuild/layerbuild/layers"
	"github.com/layerbuild/layerbuild/locks"
	"github.com/layerbuild/layerbuild/progress"
)

func main() { os.Exit(run()) }

// run executes the command line and returns the process's exit status.
func run() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	defer context.AfterFunc(ctx, func() { time.AfterFunc(patience, abandon) })()
	ctx = locks.Watch(ctx, func(w locks.Waiting) { fmt.Fprintln(os.Stderr, progress.Safe(w.String())) })
	cmd := newCommand()
	cmd.SetOut(progress.NewSafeWriter(os.Stdout))
	cmd.SetErr(progress.NewSafeWriter(os.Stderr))
	err := cmd.ExecuteContext(ctx)
	switch {
	case err == nil:
		return 0
	case ctx.Err() != nil:
		fmt.Fprintln(os.Stderr, "interrupted")
		return 130
	}
	fmt.Fprintf(os.Stderr, "error: %s\n", progress.Safe(err.Error()))
	var status *exitStatus
	if errors.As(err, &status) {
		return status.code
	}
	return 1
}

// patience is how long work may take to end in good order after an interrupt.
const patience = 1800 * time.Millisecond

// abandon ends the process as a kill would: steps and mounts end with it, and the
// state folder takes no harm.
func abandon() {
	fmt.Fprintln(os.Stderr, "interrupted")
	os.Exit(130)
}

// An exitStatus is an error with an exit status of its own.
type exitStatus struct {
	code int
	err  error
}

func (e *exitStatus) Error() string { return e.err.Error() }
func (e *exitStatus) Unwrap() error { return e.err }

// settings are the flags that all commands share.
type settings struct {
	stateDir string
	rootsDir string // "" is where they were
	ociDir   string
	debug    bool
	quiet    bool
	config   string
	file     *configFile // that config names, once it has been read

	workDir      string
	storageType  string
	logFile      string
	logTimestamp bool

	command func(stackerfile string, args ...string) string // see again

	stacker bool     // the program was called by stacker's name: see stacker.go
	plain   bool     // --no-progress, a flag of stacker's
	log     *os.File // what is shown of a build goes there
}

func newCommand() *cobra.Command {
	s := &settings{stacker: filepath.Base(os.Args[0]) == stackerName, log: os.Stdout}
	cmd := &cobra.Command{
		Use:   s.name(),
		Short: "Build OCI images from a stackerfile",
		Long: `layerbuild builds OCI images from a stackerfile: YAML that names layers, what
each starts from, what it imports and what it runs.

  base:                             # an image from a local OCI layout
    from:
      type: oci
      url: ./busybox:latest
    run: adduser -D app
  app:                              # the next one starts from it
    from:
      type: built
      tag: base
    imports: [main.sh]
    run: cp /stacker/imports/main.sh /usr/bin/app
    cmd: app

  layerbuild build                  # builds what changed, and puts both images into ./oci

A layer is built again only when something that it reads has changed: its base,
its imports' content, its overlay dirs, its script or its build environment.
layerbuild says which. What is remembered lies in the state folder, which all
builds of a user share.`,
		Version:           buildVersion(),
		SilenceErrors:     true,
		SilenceUsage:      true,
		DisableAutoGenTag: true,
	}
	flags := cmd.PersistentFlags()
	flags.StringVar(&s.stateDir, "state-dir", defaultStateDir(), "the state folder: the `DIR` of what is remembered between builds")
	flags.StringVar(&s.ociDir, "oci-dir", "oci", "write images to the OCI layout `DIR`")
	flags.StringVar(&s.rootsDir, "roots-dir", "", "keep root filesystems in `DIR` from now on (default: where they were; at first the state folder)")
	flags.StringVar(&s.workDir, "work-dir", "", "the `DIR` that holds oci, unless --oci-dir is given; called as stacker, also .stacker and roots")
	flags.StringVar(&s.config, "config", "", "the configuration `FILE` (default: layerbuild/config.yaml in $XDG_CONFIG_HOME or ~/.config, if it exists)")
	flags.StringVar(&s.logFile, "log-file", "", "write the output of builds to `FILE` instead of the terminal")
	flags.BoolVar(&s.logTimestamp, "log-timestamp", false, "begin each line of a build with the time")
	flags.StringVar(&s.storageType, "storage-type", "overlay", "the storage `TYPE` of stacker; only overlay is accepted")
	flags.BoolVar(&s.debug, "debug", false, "show every reason and every step")
	flags.BoolVarP(&s.quiet, "quiet", "q", false, "show only warnings and errors")
	if s.stacker {
		flags.Bool("progress", false, "accepted for stacker; downloads are always shown")
		flags.BoolVar(&s.plain, "no-progress", false, "show a build as lines of text, even on a terminal")
	}
	cmd.SetFlagErrorFunc(flagError)
	cmd.SetUsageFunc(printUsage)
	cmd.SetGlobalNormalizationFunc(stackerFlags)
	cmd.PersistentPreRunE = func(cmd *cobra.Command, _ []string) error {
		s.command = s.again(cmd)
		return s.settle(cmd)
	}
	addGroup(cmd, "Build", newBuildCommand(s), newPlanCommand(s), newVerifyCommand(s), newRecursiveBuildCommand(s), newPublishCommand(s))
	addGroup(cmd, "Look at builds", newExplainCommand(s), newReportCommand(s), newHistoryCommand(s), newLogsCommand(s), newInspectCommand(s),
		newGrabCommand(s), newChrootCommand(s), newShellCommand(s))
	addGroup(cmd, "Stackerfiles", newValidateCommand(s), newGraphCommand(s), newConvertCommand(s), newInitCommand(s))
	addGroup(cmd, "State folder", newDiskUsageCommand(s), newPruneCommand(s), newGCCommand(s), newFsckCommand(s), newCleanCommand(s), newCacheCommand(s))
	addGroup(cmd, "This machine", newCheckCommand(s), newUnprivSetupCommand(s), newVersionCommand(s))
	return cmd
}

// addGroup adds commands that --help lists below one title.
func addGroup(root *cobra.Command, title string, commands ...*cobra.Command) {
	root.AddGroup(&cobra.Group{ID: title, Title: title})
	for _, cmd := range commands {
		cmd.GroupID = title
	}
	root.AddCommand(commands...)
}

// noArguments refuses arguments.
func noArguments(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	return fmt.Errorf("%s takes no arguments, and %q is one", cmd.CommandPath(), args[0])
}

func (s *settings) sink() progress.Sink {
	if s.logTimestamp {
		return progress.NewStamped(s.log, s.level())
	}
	return progress.NewPlain(s.log, s.level())
}

// display shows a build in one of the ways of --progress.
func (s *settings) display(mode string) (progress.Display, error) {
	if s.logTimestamp && (mode == "auto" || mode == "plain") {
		return progress.NewStamped(s.log, s.level()), nil
	}
	return progress.NewDisplay(mode, s.log, s.level(), os.Getenv)
}

func (s *settings) level() progress.Level {
	switch {
	case s.quiet:
		return progress.Quiet
	case s.debug:
		return progress.Verbose
	}
	return progress.Normal
}

// defaultStateDir follows the XDG base directory specification.
func defaultStateDir() string {
	cache, err := os.UserCacheDir()
	if err != nil {
		return ".layerbuild"
	}
	return filepath.Join(cache, "layerbuild")
}

// reading prepares options of reading stackerfiles.
func (s *settings) reading(ctx context.Context, load *layers.Options, offline bool) (err error) {
	load.URLs = &engine.Stackerfiles{
		Context: ctx, StateDir: s.stateDir, Offline: offline,
		Notice: func(text string) { fmt.Fprintf(os.Stderr, "warning: %s\n", progress.Safe(text)) },
	}
	load.Builtins, err = s.builtins()
	return err
}

// place has a command work on the folders that the flags say.
func (s *settings) place(o *engine.Options) {
	o.StateDir, o.RootsDir, o.OCIDir, o.Again = s.stateDir, s.rootsDir, s.ociDir, s.command
}

// builtins are the substitutions that every stackerfile may use.
func (s *settings) builtins() (map[string]string, error) {
	state, err := filepath.Abs(s.stateDir)
	if err != nil {
		return nil, err
	}
	oci, err := filepath.Abs(s.ociDir)
	if err != nil {
		return nil, err
	}
	roots, err := filepath.Abs(cmp.Or(s.rootsDir, filepath.Join(state, "snapshots")))
	if err != nil {
		return nil, err
	}
	return map[string]string{
		"STACKER_STACKER_DIR": state,
		"STACKER_ROOTFS_DIR":  roots,
		"STACKER_OCI_DIR":     oci,
	}, nil
}
