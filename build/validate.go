package build

import "github.com/layerbuild/layerbuild/layers"

// Validate reads stackerfiles and all that they name as prerequisites, and
// returns how many layers they declare. Its error has all their faults. Nothing
// that layers read is looked at.
func Validate(stackerfiles []string, o layers.Options) (int, error) {
	graph, err := layers.LoadAll(stackerfiles, o)
	if err != nil {
		return 0, err
	}
	return len(graph.Layers), nil
}
