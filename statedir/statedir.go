// Package statedir is how files come into a state folder and leave it. The stores of the folder
// share these rules:
//
//   - A file is born in tmp/, synced, renamed to its place, and never modified after. So what is
//     in its place is whole, whatever was killed or cut off.
//   - What this process is making in tmp/ it has locked, and the lock dies with the process. What
//     is there and unlocked is swept.
//   - What a store has found or made it holds by a shared lock until it is closed. What is to be
//     removed is locked exclusively first, then renamed into tmp/ and removed there.
//   - What is damaged is put aside in corrupt/, for inspection, and is not met again.
//
// The locks themselves are those of package locks.
package statedir

import "path/filepath"

// A Dir is the path of a state folder, or of the folder that --roots-dir names.
type Dir string

// Path returns the path of something in the folder.
func (d Dir) Path(elem ...string) string {
	return filepath.Join(append([]string{string(d)}, elem...)...)
}
