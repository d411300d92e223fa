package dockerfile

import (
	"errors"
	"runtime"
	"strconv"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
)

// A parsed is a Dockerfile as BuildKit's parser has it.
type parsed struct {
	escape   rune
	stages   []instructions.Stage
	metaArgs []instructions.ArgCommand
	flags    map[instructions.Command]extraFlags
}

// extraFlags are those that BuildKit's parser knows only when it is compiled for it.
type extraFlags struct {
	parents bool
	exclude []string
	none    []string // what a stackerfile has nothing for
}

const thisOS, thisArch = runtime.GOOS, runtime.GOARCH

func parse(text string) (*parsed, error) {
	result, err := parser.Parse(strings.NewReader(text))
	if err != nil {
		return nil, err
	}
	flags := map[int]extraFlags{} // by the line that their instruction begins at
	for _, node := range result.AST.Children {
		takeFlags(node, flags)
	}
	p := &parsed{escape: result.EscapeToken, flags: map[instructions.Command]extraFlags{}}
	if p.stages, p.metaArgs, err = instructions.Parse(result.AST, nil); err != nil {
		return nil, err
	}
	for _, stage := range p.stages {
		for _, command := range stage.Commands {
			p.flags[command] = flags[line(command.Location())]
		}
	}
	return p, nil
}

// takeFlags takes from an instruction the flags that BuildKit's parser refuses.
func takeFlags(node *parser.Node, flags map[int]extraFlags) {
	switch strings.ToLower(node.Value) {
	case "copy", "add", "run":
	case "onbuild":
		if node.Next != nil {
			for _, inner := range node.Next.Children {
				takeFlags(inner, flags)
			}
		}
		return
	default:
		return
	}
	var taken extraFlags
	var left []string
	for _, flag := range node.Flags {
		name, value, hasValue := strings.Cut(flag, "=")
		switch name {
		case "--exclude":
			taken.exclude = append(taken.exclude, value)
		case "--parents":
			on, err := strconv.ParseBool(value)
			taken.parents = !hasValue || err == nil && on
		case "--security", "--device":
			taken.none = append(taken.none, flag)
		default:
			left = append(left, flag)
		}
	}
	node.Flags = left
	flags[node.StartLine] = taken
}

// parseTrigger reads what an ONBUILD says: a stage with one command, or none.
func parseTrigger(text string) (*parsed, error) {
	p, err := parse("FROM scratch\n" + text + "\n")
	if err == nil && len(p.stages) != 1 {
		err = errors.New("a trigger is one instruction, and no FROM")
	}
	return p, err
}
