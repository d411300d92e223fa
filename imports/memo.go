package imports

import (
	"encoding/json"
	"path/filepath"

	"github.com/opencontainers/go-digest"

	"github.com/layerbuild/layerbuild/statedir"
)

// A memo is the last tree of a source that is a folder, and what stat told of all
// that is in it. While stat tells the same, the tree is the same, for the same
// reason as a file of the stat index: a memo is only written when everything in the
// folder, and the folders, are old enough to be trusted. Like the index it is a
// hint that may be lost. It lies in statindex/trees, one file a source, as JSON
// behind its digest.
type memo struct {
	Look string `json:"look"`
	Tree Tree   `json:"tree"`
}

func (s *Store) memoPath(source string) string {
	return filepath.Join(s.state, "statindex", "trees", source)
}

// readMemo returns false for a file that is missing or damaged.
func readMemo(path string) (m memo, ok bool) {
	data, err := statedir.ReadFile(path)
	sum := len(digest.FromBytes(nil))
	if err != nil || len(data) < sum || digest.FromBytes(data[sum:]) != digest.Digest(data[:sum]) {
		return m, false
	}
	return m, json.Unmarshal(data[sum:], &m) == nil && m.Tree.Digest.Validate() == nil
}

// remember writes the memo of a source. What cannot be written costs time later.
func (s *Store) remember(src Source, m memo) {
	if data, err := json.Marshal(m); err == nil {
		_ = s.writeHint(s.memoPath(src.id()), string(digest.FromBytes(data))+string(data))
	}
}
