package engine

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"

	"github.com/layerbuild/layerbuild/program"
	"github.com/layerbuild/layerbuild/progress"
)

// A gitFolders knows the versions of folders in git, and asks once for each.
type gitFolders struct {
	sink func(progress.Event)

	mu       sync.Mutex
	versions map[string]func() string
}

// version returns what git calls the commit of a folder, "" outside of git.
func (g *gitFolders) version(ctx context.Context, dir string) string {
	g.mu.Lock()
	version, ok := g.versions[dir]
	if !ok {
		version = sync.OnceValue(func() string {
			v, err := gitVersion(ctx, dir)
			if err != nil && ctx.Err() == nil {
				g.sink(progress.Event{Kind: progress.Warning, Text: fmt.Sprintf("images will not say the git version of %s: %s", dir, err)})
			}
			return v
		})
		g.versions[dir] = version
	}
	g.mu.Unlock()
	return version()
}

// gitVersion is `git describe --tags`, or the commit when there are no tags, and
// -dirty when tracked files are changed. Commits are written in full: how far git
// shortens them depends on the clone.
func gitVersion(ctx context.Context, dir string) (string, error) {
	top := workTree(dir)
	if top == "" {
		return "", nil
	}
	g, err := openGit(ctx, top)
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(g.common)
	version, err := g.ask(ctx, "describe", "--tags", "--abbrev=40")
	if err != nil {
		if version, err = g.ask(ctx, "rev-parse", "HEAD"); err != nil {
			return "", err
		}
	}
	changes, err := g.ask(ctx, "status", "--porcelain", "--untracked-files=no", "--ignore-submodules=dirty")
	if err != nil {
		return "", err
	}
	if changes != "" {
		version += "-dirty"
	}
	return version, nil
}

// workTree returns the working tree that a folder is in: the nearest one above it with a
// .git, as git clone makes it. Most are in none, and git takes longer to say so than a build
// that finds everything in the cache. Git itself also takes a folder for a repository that
// looks like one inside, which is where a commit can smuggle in a configuration.
func workTree(dir string) string {
	for {
		if _, err := os.Lstat(filepath.Join(dir, ".git")); err == nil {
			return dir
		} else if !errors.Is(err, fs.ErrNotExist) {
			return ""
		}
		above := filepath.Dir(dir)
		if above == dir {
			return ""
		}
		dir = above
	}
}

// A gitRepo is a repository whose configuration git does not read. A configuration names
// programs, as fsmonitors, hooks, filters and transports, and a repository that came as an
// archive brings a stranger's. So git is told that what all working trees of the repository
// share, which is where it reads the configuration, is in a folder of ours: with links to
// the commits and tags, and the few settings that an answer depends on.
type gitRepo struct {
	top    string // the working tree
	dir    string // the repository, or what is a linked working tree's own of it
	common string // our folder
}

// gitSettings decide what a file in the working tree looks like to git, and how the
// repository is stored.
var gitSettings = regexp.MustCompile(`^(?:core\.(?:autocrlf|eol|safecrlf|filemode|symlinks|ignorecase)|extensions\.(?:objectformat|refstorage))$`)

// gitValue is what these settings can be: no text that would begin another setting.
var gitValue = regexp.MustCompile(`^[A-Za-z0-9]*$`)

// openGit finds the repository of a working tree. Git refuses one of another user, unless
// the user's own configuration says that it is safe.
func openGit(ctx context.Context, top string) (*gitRepo, error) {
	where, err := git(ctx, top, "rev-parse", "--absolute-git-dir", "--path-format=absolute", "--git-common-dir")
	if err != nil {
		return nil, err
	}
	dir, shared, ok := strings.Cut(where, "\n")
	if !ok {
		return nil, fmt.Errorf("git says that the repository is in %q", where)
	}
	settings, err := git(ctx, top, "config", "--null", "--list")
	if err != nil {
		return nil, err
	}
	g := &gitRepo{top: top, dir: dir}
	if g.common, err = os.MkdirTemp("", "layerbuild-git-"); err != nil {
		return nil, err
	}
	err = os.WriteFile(filepath.Join(g.common, "config"), []byte(gitConfig(settings)), 0o600)
	for _, name := range []string{"objects", "refs", "packed-refs", "reftable", "shallow"} {
		err = errors.Join(err, os.Symlink(filepath.Join(shared, name), filepath.Join(g.common, name)))
	}
	if err != nil {
		os.RemoveAll(g.common)
		return nil, err
	}
	return g, nil
}

// gitConfig returns a configuration with those of the listed settings that an answer
// depends on.
func gitConfig(list string) string {
	var config strings.Builder
	version := 0
	for setting := range strings.SplitSeq(list, "\x00") {
		name, value, _ := strings.Cut(setting, "\n")
		if !gitSettings.MatchString(name) || !gitValue.MatchString(value) {
			continue
		}
		section, key, _ := strings.Cut(name, ".")
		if section == "extensions" {
			version = 1 // extensions count from this version of the format on
		}
		fmt.Fprintf(&config, "[%s]\n\t%s = %s\n", section, key, value)
	}
	fmt.Fprintf(&config, "[core]\n\trepositoryformatversion = %d\n\tbare = false\n", version)
	return config.String()
}

// ask runs a git command that reads the repository and starts no other program.
func (g *gitRepo) ask(ctx context.Context, args ...string) (string, error) {
	cmd := program.Command(ctx, "git", append([]string{"--no-pager", "--no-optional-locks"}, args...)...)
	cmd.Env = append(cmd.Env, "GIT_DIR="+g.dir, "GIT_COMMON_DIR="+g.common, "GIT_WORK_TREE="+g.top, "GIT_ALLOW_PROTOCOL=none",
		"GIT_NO_LAZY_FETCH=1", "GIT_ATTR_NOSYSTEM=1", "GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL=/dev/null")
	return answer(cmd)
}

// git runs git with the repository's configuration, for questions that have it start
// nothing.
func git(ctx context.Context, top string, args ...string) (string, error) {
	cmd := program.Command(ctx, "git", append([]string{"-c", "safe.bareRepository=explicit", "--no-pager", "-C", top}, args...)...)
	program.Environment(cmd, func(name string) bool { return strings.HasPrefix(name, "GIT_CONFIG") })
	return answer(cmd)
}

// answer returns what git prints, or as an error the first line of what it complains of.
func answer(cmd *exec.Cmd) (string, error) {
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if said, _, _ := strings.Cut(strings.TrimSpace(stderr.String()), "\n"); err != nil && said != "" {
		err = errors.New(said)
	}
	return strings.TrimSpace(string(out)), err
}
