package engine

import (
	"cmp"
	"context"
	"slices"
	"strings"
)

// branches returns the branches whose scopes of a remote cache a build reads, and of which
// it writes the first: its own, the one that it is to be merged into, and the default one.
// CI systems check commits out without a branch, and say in variables which it is; outside
// of them git knows. There is at least one, which is "" where nobody knows.
func branches(ctx context.Context, dir string, env func(string) string) []string {
	first := func(names ...string) (value string) {
		for _, name := range names {
			value = cmp.Or(value, env(name))
		}
		return value
	}
	// GitHub Actions; GitLab; Jenkins, which calls a pull request a change.
	own := first("GITHUB_HEAD_REF", "CI_MERGE_REQUEST_SOURCE_BRANCH_NAME", "CI_COMMIT_BRANCH", "CHANGE_BRANCH", "BRANCH_NAME")
	if env("GITHUB_REF_TYPE") == "branch" {
		own = cmp.Or(own, env("GITHUB_REF_NAME"))
	}
	into := first("GITHUB_BASE_REF", "CI_MERGE_REQUEST_TARGET_BRANCH_NAME", "CHANGE_TARGET")
	standard := first("CI_DEFAULT_BRANCH")
	if top := workTree(dir); top != "" {
		if own == "" {
			own, _ = git(ctx, top, "symbolic-ref", "--quiet", "--short", "HEAD") // it fails where none is checked out
		}
		if standard == "" {
			standard, _ = git(ctx, top, "symbolic-ref", "--quiet", "--short", "refs/remotes/origin/HEAD")
			standard = strings.TrimPrefix(standard, "origin/")
		}
	}
	all := []string{own}
	for _, branch := range []string{into, cmp.Or(standard, "main")} {
		if branch != "" && !slices.Contains(all, branch) {
			all = append(all, branch)
		}
	}
	return all
}
