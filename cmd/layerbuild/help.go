package main

import (
	"fmt"
	"io"
	"os"
	"regexp"
	"slices"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/term"
)

// A flagGroup is a heading of --help, and the flags below it.
type flagGroup struct {
	title string
	flags []string
}

// flagGroups has every flag of the commands that have manyFlags.
var flagGroups = []flagGroup{
	{"Stackerfile", []string{
		"stacker-file", "substitute", "substitute-file", "shell", "require-hash",
		"search-dir", "stacker-file-pattern",
	}},
	{"What to build", []string{
		"target", "no-cache", "fail-on-miss", "verify", "dry-run", "order-only", "keep-going", "jobs",
	}},
	{"Remote caches", []string{"cache-from", "cache-to", "cache-sign-key", "cache-verify-key", "cache-to-timeout"}},
	{"Publishing", []string{"url", "tag", "image", "username", "password", "skip-tls", "show-only", "force"}},
	{"Bases and downloads", []string{
		"pull", "offline", "no-stat-index", "max-download", "max-layer-size", "max-layer-files", "max-layer-ratio",
	}},
	{"Steps", []string{
		"runtime", "network", "secret", "secret-key", "memory", "pids-limit", "cpus", "timeout",
		"on-run-failure", "shell-fail", "keep-failed",
	}},
	{"Images", []string{
		"output", "layer-type", "no-verity", "compression-format", "compression-level", "timestamps", "annotations-namespace",
	}},
	{"Reports", []string{"metadata-file", "iidfile", "format", "progress", "report", "trace", "help"}},
}

// manyFlags is from how many flags on they are listed under headings.
const manyFlags = 15

// printUsage writes the second half of --help: how a command is written, its
// examples, subcommands and flags. Flags line up in one column, and lines are as
// long as the terminal is wide.
func printUsage(cmd *cobra.Command) error {
	w := cmd.OutOrStderr()
	use := cmd.UseLine()
	if !cmd.Runnable() {
		use = cmd.CommandPath() + " COMMAND"
	}
	fmt.Fprintf(w, "Usage:\n  %s\n", use)
	if cmd.HasExample() {
		fmt.Fprintf(w, "\nExamples:\n%s\n", cmd.Example)
	}
	printCommands(w, cmd)
	global := cmd.InheritedFlags()
	var local, inherited []flagHelp
	for _, u := range usages(cmd.Flags()) { // all at once, for one column
		if global.Lookup(u.flag) != nil {
			inherited = append(inherited, u)
		} else {
			local = append(local, u)
		}
	}
	if len(local) < manyFlags {
		printFlags(w, "Flags", local)
	} else {
		for _, g := range flagGroups {
			printFlags(w, g.title, pick(local, g.flags))
		}
	}
	printFlags(w, "Global flags", inherited)
	if cmd.HasAvailableSubCommands() {
		fmt.Fprintf(w, "\n`%s COMMAND --help` tells more about a command.\n", cmd.CommandPath())
	}
	return nil
}

// printCommands lists the subcommands by their groups.
func printCommands(w io.Writer, cmd *cobra.Command) {
	list := func(title, group string) {
		heading := "\n" + title + ":\n"
		for _, c := range cmd.Commands() {
			if c.GroupID == group && (c.IsAvailableCommand() || c.Name() == "help") {
				fmt.Fprintf(w, "%s  %-*s %s\n", heading, c.NamePadding(), c.Name(), c.Short)
				heading = ""
			}
		}
	}
	for _, g := range cmd.Groups() {
		list(g.Title, g.ID)
	}
	list("Other commands", "")
}

func printFlags(w io.Writer, title string, lines []flagHelp) {
	for i, line := range lines {
		if i == 0 {
			fmt.Fprintf(w, "\n%s:\n", title)
		}
		fmt.Fprint(w, line.text)
	}
}

// A flagHelp is what --help says of one flag: a line or more, each with its end.
type flagHelp struct {
	flag, text string
}

var usageStart = regexp.MustCompile(`(?m)^ {2,6}(?:-\w, )?--([a-z-]+)`)

// usages returns what is said of flags, in the order of their names.
func usages(flags *pflag.FlagSet) (all []flagHelp) {
	text := flags.FlagUsagesWrapped(helpWidth())
	starts := usageStart.FindAllStringSubmatchIndex(text, -1)
	for i, at := range starts {
		end := len(text)
		if i+1 < len(starts) {
			end = starts[i+1][0]
		}
		all = append(all, flagHelp{text[at[2]:at[3]], text[at[0]:end]})
	}
	return all
}

// pick returns the usages of the named flags, in the order of the names.
func pick(all []flagHelp, names []string) (picked []flagHelp) {
	for _, name := range names {
		if i := slices.IndexFunc(all, func(u flagHelp) bool { return u.flag == name }); i >= 0 {
			picked = append(picked, all[i])
		}
	}
	return picked
}

// helpWidth returns how many columns --help may take: those of the terminal, at most
// 120, and 100 where there is none.
func helpWidth() int {
	width, _, err := term.GetSize(int(os.Stdout.Fd()))
	if err != nil || width <= 0 {
		return 100
	}
	return min(width, 120)
}

// hide leaves flags out of --help. They are accepted all the same, so that one set of
// flags serves several commands.
func hide(cmd *cobra.Command, names ...string) {
	for _, name := range names {
		cmd.Flags().Lookup(name).Hidden = true
	}
}

// dockerFlags are flags of docker and buildx, and what does here what they do there.
var dockerFlags = map[string]string{
	"build-arg": "write --substitute NAME=VALUE",
	"tag":       "an image's tag is its layer's name; layerbuild publish --tag TAG gives it others",
	"t":         "an image's tag is its layer's name; layerbuild publish --tag TAG gives it others",
	"push":      "layerbuild publish --url docker://HOST/PATH pushes what was built",
	"load":      "images are in the OCI layout of --oci-dir; `skopeo copy oci:oci:LAYER docker-daemon:NAME` loads one",
	"platform":  "os and arch of a layer name its platform",
	"cache-dir": "write --state-dir DIR",
}

var unknownFlag = regexp.MustCompile(`^unknown (?:shorthand )?flag: '?-*([a-z-]+)`)

// flagError says what to write instead of a flag that there is not.
func flagError(cmd *cobra.Command, err error) error {
	if unknown := unknownFlag.FindStringSubmatch(err.Error()); unknown != nil && dockerFlags[unknown[1]] != "" {
		return fmt.Errorf("%w: %s", err, dockerFlags[unknown[1]])
	}
	return fmt.Errorf("%w; see `%s --help`", err, cmd.CommandPath())
}
