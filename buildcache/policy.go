package buildcache

// A Policy says what a build does with its steps besides looking them up. The zero
// Policy does what is not remembered, and nothing else.
//
//	          NoCache        FailOnMiss  Plan                 Verify
//	rootfs    done again     refused     told                 done again, compared
//	labels    done again     refused     told                 done again, compared
//	pack      done again     refused     told                 done again, compared
//	digest    done again     done        done if it is here   done again, compared
//	resolve   -              done        done if it is here   -
//	base      -              done        done if it is here   -
//
// Whether a resolve step is done again is decided by the pull policy, which its Memory
// knows. A step that is told is reported as a miss and its result stays Unknown; what a
// plan may do, it does only where that is not remembered.
type Policy struct {
	NoCache    func(layer string) bool // layers whose steps are done whatever is remembered; nil is none
	Verify     func(layer string) bool // layers whose remembered steps are done again and compared; nil is none
	FailOnMiss bool                    // nothing is done for a layer that is not remembered: Remember fails with ErrRefused
	Plan       bool                    // nothing is done that takes long or changes anything
}

// A treatment is what a Policy makes of one step.
type treatment struct {
	again  bool // it is done although it is remembered
	verify bool // it is done although it is remembered, and compared
	refuse bool // it is not done, which is an error
	plan   planned
}

// planned is what a plan does with a step that is not remembered.
type planned int

const (
	done   planned = iota // as any build does
	ifHere                // done if its content is on this machine, else told
	told                  // it would be done
)

// treatment returns what becomes of a layer's step.
func (p Policy) treatment(kind Kind, layer string) treatment {
	t := p.allows(kind)
	t.again = t.again && p.NoCache != nil && p.NoCache(layer) && (!p.Plan || t.plan != ifHere)
	t.verify = t.verify && p.Verify != nil && p.Verify(layer) && !p.Plan
	t.refuse = t.refuse && p.FailOnMiss
	if !p.Plan {
		t.plan = done
	}
	return t
}

// allows is the table at Policy: what of it may apply to a kind of step.
func (Policy) allows(kind Kind) treatment {
	switch kind {
	case Rootfs, Labels, Pack:
		return treatment{again: true, verify: true, refuse: true, plan: told}
	case Digest:
		return treatment{again: true, verify: true, plan: ifHere}
	default:
		return treatment{plan: ifHere}
	}
}
