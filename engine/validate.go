package engine

import "github.com/layerbuild/layerbuild/layers"

// Validate reads stackerfiles and all that they name as prerequisites, and
// returns their graph. Its error has all their faults. Nothing
// that layers read is looked at.
func Validate(stackerfiles []string, o layers.Options) (*layers.Graph, error) {
	return layers.LoadAll(stackerfiles, o)
}
