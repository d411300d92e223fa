package buildcache

import (
	"cmp"
	"slices"
)

// A Reason is one cause of a miss. For a changed input, Old and New are its
// values; one of them is "" when the input was added or is gone.
type Reason struct {
	Code Code   `json:"code"`
	Name string `json:"name,omitempty"`
	Old  string `json:"old,omitempty"`
	New  string `json:"new,omitempty"`

	// Uncertain tells that nobody can say whether the input changed: its old and
	// new value were redacted by different state folders.
	Uncertain bool `json:"uncertain,omitempty"`
}

// Diff returns every input in which a step with these inputs differs from a
// record's, ordered by code and name.
func (c *Cache) Diff(old *Record, in Inputs) ([]Reason, error) {
	redacted, err := c.redact(in)
	if err != nil {
		return nil, err
	}
	return Diff(old.Inputs, redacted), nil
}

// Diff returns every input in which the inputs of two records differ, ordered by
// code and name.
func Diff(old, new Inputs) []Reason {
	before := make(map[string]Input, len(old))
	for _, input := range old {
		before[input.Name] = input
	}
	var reasons []Reason
	for _, input := range new {
		was, ok := before[input.Name]
		delete(before, input.Name)
		if !ok || was.Value != input.Value || was.Code != input.Code {
			uncertain := ok && input.Redacted && was.Redacted && unredacted(was.Value) == unredacted(input.Value) && redactor(was.Value) != redactor(input.Value)
			reasons = append(reasons, Reason{input.Code, input.Name, was.Value, input.Value, uncertain})
		}
	}
	for _, was := range before {
		reasons = append(reasons, Reason{Code: was.Code, Name: was.Name, Old: was.Value})
	}
	slices.SortFunc(reasons, func(a, b Reason) int {
		return cmp.Or(cmp.Compare(a.Code, b.Code), cmp.Compare(a.Name, b.Name))
	})
	return reasons
}
