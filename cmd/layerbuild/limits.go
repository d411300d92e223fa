package main

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/docker/go-units"
	"github.com/spf13/cobra"

	"github.com/layerbuild/layerbuild/engine"
	"github.com/layerbuild/layerbuild/layers"
)

// limitFlags are what a run may have of the machine.
type limitFlags struct {
	network string
	memory  string
	pids    int64
	cpus    float64
	timeout time.Duration

	layerSize string // what a base's layer may come to
}

func (f *limitFlags) add(cmd *cobra.Command, o *engine.Options) {
	flags, bounds := cmd.Flags(), engine.DefaultBounds()
	flags.StringVar(&f.network, "network", "", "the `NETWORK` of layers that name none: host or none; none also refuses layers that name host (default host)")
	flags.StringVar(&f.memory, "memory", "", "limit the memory of a run to `SIZE`, such as 512MB")
	flags.Int64Var(&f.pids, "pids-limit", 0, "limit a run to `N` processes and threads")
	flags.Float64Var(&f.cpus, "cpus", 0, "limit a run to the time of `N` processors, such as 1.5")
	flags.DurationVar(&f.timeout, "timeout", 0, "end a run after `DURATION`, such as 10m")
	flags.StringVar(&f.layerSize, "max-layer-size", units.HumanSize(float64(bounds.Bytes)), "refuse layers of bases that unpack to more than `SIZE`; 0 for no limit")
	flags.Int64Var(&o.Bounds.Files, "max-layer-files", bounds.Files, "refuse layers of bases with more than `N` files; 0 for no limit")
	flags.Int64Var(&o.Bounds.Ratio, "max-layer-ratio", bounds.Ratio, "refuse layers of bases that unpack to more than 1GiB and `N` times their size; 0 for no limit")
}

// parse puts the limits into o. A limit that cannot be is refused, not left out.
func (f *limitFlags) parse(cmd *cobra.Command, o *engine.Options) (err error) {
	if f.memory != "" {
		if o.Limits.Memory, err = units.RAMInBytes(f.memory); err != nil || o.Limits.Memory < minMemory {
			return fmt.Errorf("--memory is %q: it should be a size such as 512MB, and 6MB at least", f.memory)
		}
	}
	if !slices.Contains([]string{"", layers.NetworkHost, layers.NetworkNone}, f.network) {
		return fmt.Errorf("--network is %q: it should be host or none", f.network)
	}
	for _, number := range []struct {
		flag string
		good bool
	}{{"pids-limit", f.pids > 0}, {"cpus", f.cpus >= 0.01 && f.cpus <= 1e6}, {"timeout", f.timeout > 0}} {
		if flag := cmd.Flags().Lookup(number.flag); flag.Changed && !number.good {
			return fmt.Errorf("--%s is %s: it should be more than that", number.flag, flag.Value)
		}
	}
	if o.Bounds.Bytes, err = units.FromHumanSize(f.layerSize); err != nil || min(o.Bounds.Bytes, o.Bounds.Files, o.Bounds.Ratio) < 0 {
		return errors.New("--max-layer-size, --max-layer-files and --max-layer-ratio should be a size such as 10GB and two numbers, or 0")
	}
	o.Load.Network, o.Timeout, o.Limits.PIDs, o.Limits.CPUs = f.network, f.timeout, f.pids, f.cpus
	return nil
}

// minMemory is docker's: with less, no container starts.
const minMemory = 6 << 20
