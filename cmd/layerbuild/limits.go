package main

import (
	"fmt"
	"slices"
	"time"

	"github.com/docker/go-units"
	"github.com/spf13/cobra"

	"github.com/layerbuild/layerbuild/build"
	"github.com/layerbuild/layerbuild/layers"
)

// limitFlags are what a run may have of the machine.
type limitFlags struct {
	network string
	memory  string
	pids    int64
	cpus    float64
	timeout time.Duration
}

func (f *limitFlags) add(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&f.network, "network", "", "the network of layers that name none: `host`, the default, or none, with which a layer that names host is refused")
	flags.StringVar(&f.memory, "memory", "", "the most memory that a run may take, as a `SIZE` such as 512MB")
	flags.Int64Var(&f.pids, "pids-limit", 0, "the most processes and threads that a run may have at a time")
	flags.Float64Var(&f.cpus, "cpus", 0, "how many processors' time a run may take, such as 1.5")
	flags.DurationVar(&f.timeout, "timeout", 0, "how long a run may take, as a `duration` such as 10m")
}

// parse puts the limits into o. A limit that cannot be is refused, not left out.
func (f *limitFlags) parse(cmd *cobra.Command, o *build.Options) (err error) {
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
	o.Load.Network, o.Timeout, o.Limits.PIDs, o.Limits.CPUs = f.network, f.timeout, f.pids, f.cpus
	return nil
}

// minMemory is docker's: with less, no container starts.
const minMemory = 6 << 20
