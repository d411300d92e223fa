package buildcache

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"sync"
	"time"
)

// A Step is one remembered function of a build. Remember looks it up, does it where
// that is needed and allowed, and keeps its result. What is left out of a Step is
// not needed for it, but for Kind, Inputs and Do.
type Step[R any] struct {
	Task
	Memory *Memory[R] // where results are kept; nil is the records of the Session's Cache

	// Usable fails where what the result names is neither on this machine nor can be
	// fetched. The step is a miss then, and the error its reason.
	//
	// Lazy leaves that question to those who need what the result names, for records that
	// somebody has vouched for: they fetch it, or have it made again.
	Usable func(context.Context, R) error
	Lazy   bool
	// Missed is called before a step is done, told or refused, with the reason why it
	// is not remembered; nil where it is, and is done all the same.
	Missed func(ctx context.Context, miss error) error
	// Here reports whether all that Do needs is on this machine, for a plan; nil where it
	// always is.
	Here func(context.Context) bool

	// Prepare does the nested steps that Do needs the results of. No slot and no lock
	// of this step is held meanwhile.
	Prepare func(context.Context) error
	// Slot waits until the step may be done.
	Slot func(context.Context) (release func(), err error)
	// Do does the step. It may take slots of a later class, and runs no nested step. It
	// fails with ErrCorrupt where it met damage which is put aside by now: the step is
	// prepared and done again.
	Do func(context.Context) (R, error)
	// Renew returns the step with the inputs that it has by now, or nil where Do has
	// failed for another reason than that they are no longer what they were. The slot
	// stays taken, so that a step does not wait for its turn twice.
	Renew func(ctx context.Context, failure error) (*Step[R], error)
	// Compare reports whether two results are equal, and tells people how they differ.
	Compare func(ctx context.Context, remembered, again R) (same bool, err error)
}

// A Task is what can be said of a step without its result.
type Task struct {
	Kind   Kind
	Inputs Inputs // all that the result depends on
	Origin Origin // for people; a Policy goes by its layer

	Doing     string // what those are told who wait for the step's lock, see locks.Wait; "" takes no lock
	Untracked bool   // the step reads what no input tells: it is never found, though it is kept
	Light     bool   // the step takes no time, and needs nothing that Session.Ready makes sure of
}

// Key is the step's identity.
func (t *Task) Key() Key { return t.Inputs.Key(t.Kind) }

// A Memory keeps results in another place than records: those that are looked for by
// other means than a key, or that may change.
type Memory[R any] struct {
	Recall func(context.Context) (R, error)
	Keep   func(R) error // nil where Do has kept it
}

// A Session is what the steps of one build have in common. All fields but Cache may
// be nil.
type Session struct {
	Cache  *Cache
	Policy Policy
	Remote Remote

	// Ready is called before a step is done that is not Light. Where it reports false,
	// this process does none: the step stays Unknown.
	Ready func(context.Context) (bool, error)
	// Trusts reports whether a record may serve; nil trusts all.
	Trusts func(*Record) bool
	// Served is told of records that serve, and of those that were made.
	Served func(r *Record, made bool)
	// Damaged is told once of each damaged record.
	Damaged func(Kind)
	// Again is told of damage that a step is done again for.
	Again func(damage error)

	did  sync.Map // keys of steps that were done in this session: no policy has one done twice
	said sync.Map // keys of records that Damaged was told of
}

// A Remote is a cache that is asked for steps which are not remembered here.
type Remote interface {
	// Fetch puts what it knows of a step into the Session's Cache, and reports whether
	// that was anything: the step is looked up once more.
	Fetch(ctx context.Context, kind Kind, key Key, in Inputs) bool
}

// How says how Remember came by a result.
type How int

// The ways to a result.
const (
	Unknown   How = iota // there is none: the step would be done, and was not
	Hit                  // it was remembered
	Meanwhile            // it was not, and another layer or process did the step while this one waited
	Done                 // the step was done
	Checked              // it was remembered, and the step was done again and compared
)

// An Outcome is how Remember came by a result.
type Outcome struct {
	Key     Key
	How     How
	Record  *Record       // of the result; nil where that is Unknown, or a Memory has it
	Waited  time.Duration // for a slot
	Took    time.Duration // Do
	Differs bool          // of a step that was Checked: it gave another result, and the remembered one stays
}

// Known reports whether there is a result.
func (o Outcome) Known() bool { return o.How != Unknown }

// ErrRefused says that a step is not remembered, and that the policy does not let it be
// done.
var ErrRefused = errors.New("not remembered")

// Bounds of what is met while a step is done.
const (
	mostDamage   = 3  // attempts at a step that meets damage; each finds less of it
	mostRenewals = 10 // of a step whose inputs change while it begins
)

// Remember returns a step's result, and how it came by it: where the result is Unknown
// there is none, and no error.
//
// This is the only way from a step to its result, for every kind of step:
//
//	look up → policy → reasons → nested steps → slot → lock → look up again → do → compare or keep
//
// Of two that need one step at a time, in this or another process, one does it. There
// is no deadlock, since all wait in one order: nested steps are done before anything is
// held, then comes the step's slot, then its lock; and Do waits only for slots of a
// later class, whose holders need nothing else. A step is never nested in itself.
//
// An error is that of the step, of keeping its result, or ErrRefused.
func Remember[R any](ctx context.Context, s *Session, step *Step[R]) (R, Outcome, error) {
	r := &remembering[R]{s: s, step: step, treatment: s.Policy.treatment(step.Kind, step.Origin.Layer)}
	r.out.Key = step.Key()
	r.once()
	miss := r.recall(ctx)
	if miss != nil && r.fetch(ctx) {
		miss = r.recall(ctx)
	}
	if miss == nil && !r.again && !r.verify {
		r.out.How = Hit
		return r.result, r.out, nil
	}
	r.found = miss == nil
	r.verify = r.verify && r.found
	may, err := r.may(ctx, miss)
	if err != nil || !may {
		var none R
		return none, Outcome{Key: r.out.Key}, err
	}
	for try := 1; ; try++ {
		err = r.do(ctx)
		if !errors.Is(err, ErrCorrupt) || try == mostDamage || ctx.Err() != nil {
			return r.result, r.out, err
		}
		if s.Again != nil {
			s.Again(err)
		}
	}
}

// Recall returns the result of a step that is remembered, here or elsewhere, and usable. The error says why
// there is none.
func Recall[R any](ctx context.Context, s *Session, step *Step[R]) (R, error) {
	r := &remembering[R]{s: s, step: step}
	r.out.Key = step.Key()
	err := r.recall(ctx)
	if err != nil && r.fetch(ctx) {
		err = r.recall(ctx)
	}
	return r.result, err
}

// Keep remembers the result of a step that was done along with another one, unless a
// usable one is remembered already. It returns the one that is remembered then.
func Keep[R any](ctx context.Context, s *Session, step *Step[R], result R, took time.Duration) (R, error) {
	r := &remembering[R]{s: s, step: step}
	if r.recall(ctx) == nil {
		return r.result, nil
	}
	r.out.Took = took
	return result, r.keep(result)
}

// remembering is one call of Remember.
type remembering[R any] struct {
	treatment
	s    *Session
	step *Step[R]

	found   bool // it is remembered, and done all the same
	result  R
	out     Outcome
	release func() // of the slot
}

// once lets the result of a step serve that this session has done: it is not done again.
func (r *remembering[R]) once() {
	if _, did := r.s.did.Load(r.out.Key); did {
		r.found, r.again, r.verify = false, false, false
	}
}

// recall looks the step up. The error says why it has no usable result.
func (r *remembering[R]) recall(ctx context.Context) (miss error) {
	if r.step.Untracked {
		return ErrNotFound
	}
	var result R
	var record *Record
	if m := r.step.Memory; m != nil {
		result, miss = m.Recall(ctx)
	} else {
		record, miss = r.s.get(&r.step.Task, &result)
	}
	if lazy := r.step.Lazy && record != nil && record.Vouched != nil; miss == nil && r.step.Usable != nil && !lazy {
		miss = r.step.Usable(ctx, result)
	}
	if miss != nil {
		return miss
	}
	r.s.served(record, false)
	r.result, r.out.Record = result, record
	return nil
}

// get decodes the record of a step.
func (s *Session) get(t *Task, result any) (*Record, error) {
	key := t.Key()
	record, err := s.Cache.Get(t.Kind, key)
	if err == nil && s.Trusts != nil && !s.Trusts(record) {
		return nil, ErrUntrusted
	}
	if err == nil && json.Unmarshal(record.Result, result) != nil {
		s.Cache.putAside(recordName(t.Kind, key))
		err = ErrCorrupt
	}
	if errors.Is(err, ErrCorrupt) {
		if _, said := s.said.LoadOrStore(key, true); !said && s.Damaged != nil {
			s.Damaged(t.Kind)
		}
	}
	return record, err
}

func (s *Session) served(r *Record, made bool) {
	if r != nil && s.Served != nil {
		s.Served(r, made)
	}
}

// fetch asks the remote cache for a step that is not remembered here.
func (r *remembering[R]) fetch(ctx context.Context) bool {
	t := &r.step.Task
	return r.s.Remote != nil && r.step.Memory == nil && !t.Untracked && r.s.Remote.Fetch(ctx, t.Kind, r.out.Key, t.Inputs)
}

// may reports whether the step is done now, and by this process.
func (r *remembering[R]) may(ctx context.Context, miss error) (bool, error) {
	refuse := r.refuse && !r.verify
	tell := r.plan == told || r.plan == ifHere && r.step.Here != nil && !r.step.Here(ctx)
	if !refuse && !tell && !r.step.Light && r.s.Ready != nil {
		if ready, err := r.s.Ready(ctx); err != nil || !ready {
			return false, err
		}
	}
	if !r.verify && r.step.Missed != nil {
		if err := r.step.Missed(ctx, miss); err != nil {
			return false, err
		}
	}
	if refuse {
		return false, ErrRefused
	}
	return !tell, nil
}

// do does the nested steps and, when it is its turn, the step.
func (r *remembering[R]) do(ctx context.Context) error {
	if r.step.Prepare != nil {
		if err := r.step.Prepare(ctx); err != nil {
			return err
		}
	}
	ready := time.Now()
	r.release = func() {}
	if r.step.Slot != nil {
		release, err := r.step.Slot(ctx)
		if err != nil {
			return err
		}
		r.release = sync.OnceFunc(release)
	}
	defer r.release()
	r.out.Waited += time.Since(ready)
	for renewals := 0; ; renewals++ {
		err := r.doLocked(ctx)
		if err == nil || r.step.Renew == nil || renewals == mostRenewals {
			return err
		}
		next, renewErr := r.step.Renew(ctx, err)
		if next == nil || renewErr != nil {
			return cmp.Or(renewErr, err)
		}
		r.step, r.found, r.verify = next, false, false
		r.out = Outcome{Key: next.Key(), Waited: r.out.Waited}
	}
}

// doLocked does the step unless another has done it by the time that this one has its
// lock.
func (r *remembering[R]) doLocked(ctx context.Context) error {
	if r.step.Doing != "" {
		lock, err := r.s.Cache.Lock(ctx, r.out.Key, r.step.Doing)
		if err != nil {
			return err
		}
		defer lock.Unlock()
	}
	r.once()
	if !r.found && r.recall(ctx) == nil && !r.again {
		r.out.How = Meanwhile
		return nil
	}
	start := time.Now()
	made, err := r.step.Do(ctx)
	r.out.Took = time.Since(start)
	if err != nil {
		return err
	}
	r.release()
	defer r.s.did.Store(r.out.Key, true)
	if r.verify {
		same, err := r.step.Compare(ctx, r.result, made)
		r.out.How, r.out.Differs = Checked, !same
		return err
	}
	r.result, r.out.How = made, Done
	return r.keep(made)
}

// keep remembers what the step gave.
func (r *remembering[R]) keep(result R) (err error) {
	t := &r.step.Task
	switch m := r.step.Memory; {
	case m == nil:
		r.out.Record, err = r.s.Cache.Put(t.Kind, t.Inputs, result, r.out.Took, t.Origin)
		r.s.served(r.out.Record, true)
	case m.Keep != nil:
		err = m.Keep(result)
	}
	return err
}
