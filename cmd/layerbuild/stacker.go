package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/layerbuild/layerbuild/engine"
)

// stackerName is the name under which the program has the defaults of stacker: the
// state in .stacker of the work folder, and wall-clock times and user@host in
// images, unless SOURCE_DATE_EPOCH is set; then the author is stacker.
const stackerName = "stacker"

func (s *settings) name() string {
	if s.stacker {
		return stackerName
	}
	return "layerbuild"
}

// stackerFlags returns our name of a flag: stacker has others, also in its former
// releases, and docker's for the stackerfile is --file.
func stackerFlags(_ *pflag.FlagSet, name string) pflag.NormalizedName {
	switch name {
	case "file":
		name = "stacker-file"
	case "stacker-dir":
		name = "state-dir"
	case "no-squashfs-verity":
		name = "no-verity"
	case "layer":
		name = "image"
	}
	return pflag.NormalizedName(name)
}

// settle finds out what the flags that were not given are, from the config file
// and the name of the program.
func (s *settings) settle(cmd *cobra.Command) error {
	if s.debug && s.quiet {
		return errors.New("--debug and --quiet contradict each other")
	}
	if s.storageType != "overlay" {
		return fmt.Errorf("--storage-type is %q: it should be overlay", s.storageType)
	}
	_, file, err := s.configuration()
	if err != nil {
		return err
	}
	given := cmd.Flags().Changed
	if file.WorkDir != "" && !given("work-dir") {
		s.workDir = file.WorkDir
	}
	for _, dir := range []struct {
		flag   string
		place  *string
		inFile string
		moves  bool // to the work folder, where it is called so
		name   string
	}{
		{"state-dir", &s.stateDir, file.StackerDir, s.stacker, ".stacker"},
		{"roots-dir", &s.rootsDir, file.RootFSDir, s.stacker, "roots"},
		{"oci-dir", &s.ociDir, file.OCIDir, true, s.ociDir},
	} {
		switch {
		case given(dir.flag):
		case dir.inFile != "":
			*dir.place = dir.inFile
		case dir.moves:
			*dir.place = filepath.Join(s.workDir, dir.name)
		}
	}
	if s.logFile != "" {
		if s.log, err = os.Create(s.logFile); err != nil {
			return fmt.Errorf("--log-file: %w", err)
		}
	}
	return nil
}

// clock is what --timestamps says, or goes with the name of the program.
func (s *settings) clock(cmd *cobra.Command, timestamps string) (engine.Clock, error) {
	if s.stacker && !cmd.Flags().Changed("timestamps") && os.Getenv("SOURCE_DATE_EPOCH") == "" {
		return engine.Clock{Now: true}, nil
	}
	clock, err := parseClock(timestamps)
	clock.Seen = s.stacker
	return clock, err
}

// createdBy is what entries of images' histories begin with.
func (s *settings) createdBy() string {
	if s.stacker {
		return stackerName + " build"
	}
	return s.name()
}

// progressMode is how a build is shown where --progress names no mode.
func (s *settings) progressMode() string {
	if s.plain {
		return "plain"
	}
	return "auto"
}

// printOrder prints what is built in its order: the layers, or as stacker does the
// stackerfiles with what each requires.
func (s *settings) printOrder(w io.Writer, f *buildFlags) error {
	files := append([]string{f.Stackerfile}, f.Others...)
	if !s.stacker {
		names, err := engine.Order(files, f.Load, f.Targets...)
		for _, name := range names {
			fmt.Fprintln(w, printable(name))
		}
		return err
	}
	graph, err := engine.Validate(files, f.Load)
	if err != nil {
		return err
	}
	for i, file := range graph.Files {
		fmt.Fprintf(w, "%d build %s: requires: %s\n", i, printable(file.Path), printable(fmt.Sprint(file.Prerequisites)))
	}
	return nil
}
