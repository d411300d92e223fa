package overlay

import (
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
)

// TestTwoTrees makes one result in several ways: the differences are equal, down to
// times, marks and links.
func TestTwoTrees(t *testing.T) {
	s := newStore(t)
	base := commit(t, s, "", `
		mkdir -p few/sub many var/lib; echo x >few/x; echo x >few/sub/x; echo x >var/lib/db; echo x >var/x
		touch -d @100 few/x var/x; ln var/x var/linked
		cd many; seq 1001 | xargs touch -d @100; mkdir -p ../thousand; cd ../thousand; seq 1000 | xargs touch
		cd ..; touch -d @200 few few/sub many thousand var var/lib .`)
	for _, c := range []struct {
		name, left string
		ways       []string
	}{
		{"nothing", "", []string{
			"true",
			"mv var v; mv v var",
			"cp -a var v; rm -r var; mv v var; touch var",
			"chown -R 1 few; chown -R 0 few",
			"cp -a many m; rm -r many; mv m many",
			"touch few/new; rm few/new",
		}},
		{"a file changes", "few/, few/x", []string{
			"echo y >few/x",
			"rm -r few; mkdir -p few/sub; echo x >few/sub/x; echo y >few/x",
			"echo y >few/y; mv few/y few/x",
		}},
		{"a name less", "few/, few/x -", []string{
			"rm few/x",
			"mv few f; rm f/x; mv f few",
			"mkdir -p new/sub; cp -a few/sub/x new/sub; rm -r few; mv new few",
		}},
		{"few names are gone, in many ways", "few/, few/sub -, few/x -, few/y", []string{
			"rm -r few/x few/sub; echo y >few/y",
			"rm -r few; mkdir few; echo y >few/y",
			"mv few f; mkdir few; echo y >few/y; rm -r f",
		}},
		{"over a thousand names are gone", "many/!, many/new", []string{
			"rm -r many; mkdir many; echo x >many/new",
			"rm many/*; echo x >many/new",
			"rm many/1*; echo x >many/new; rm many/[2-9]*",
		}},
		{"over a thousand names are gone but one", "many/, WHITEOUTS", []string{
			"rm -r many; mkdir many; touch -d @100 many/7",
			"rm many/[!7]* many/7?*",
		}},
		{"a thousand names are gone", "thousand/, WHITEOUTS", []string{
			"rm -r thousand; mkdir thousand",
			"rm thousand/*",
			"rm thousand/1*; rm -r thousand; mkdir thousand",
		}},
		{"names in several folders are gone", "few/, few/sub/, few/sub/x -, few/x -, var/, var/lib/, var/lib/db -", []string{
			"rm few/x few/sub/x var/lib/db",
			"rm var/lib/db; rm -r few; mkdir -p few/sub",
			"echo y >few/x; rm few/sub/x few/x; mv var/lib l; rm l/db; mv l var/lib",
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			var first []string
			for _, way := range c.ways {
				m, _ := change(t, s, base.ID, way)
				left := names(t, m.Upper())
				if i := strings.Index(c.left, "WHITEOUTS"); left != c.left && (i < 0 || !strings.HasPrefix(left, c.left[:i]) || strings.Count(left, " -") < 1000) {
					t.Errorf("%s: left is %.200q, not %q", way, left, c.left)
				}
				now := listWithLinks(t, m.Upper())
				if first == nil {
					first = now
				}
				equalLines(t, way, now, first)
				ok(t, m.Drop())
			}
		})
	}
}

// listWithLinks is list with the times of folders, the links of whiteouts, and marks.
func listWithLinks(t *testing.T, dir string) []string {
	return append(list(t, dir), strings.Split(shell(t, dir, `
		find . -type d -printf '%p %T@\n' | sort
		find . -type c -links +1 -printf '%i %p\n' | sort -k2 | awk '{ if (!($1 in n)) n[$1] = ++k; print n[$1], $2 }'
		getfattr -R -P -h -m - -d . 2>/dev/null | sort`), "\n")...)
}

func TestFolderTimes(t *testing.T) {
	s := newStore(t)
	base := commit(t, s, "", "mkdir -p a/b; echo x >a/b/x; touch -d @100 a/b/x a/b; touch -d @200 a")
	for _, c := range []struct{ name, script, want string }{
		{"a file is written", "echo y >a/b/x", "1000000000 200 100"},
		{"a file is replaced", "echo y >a/b/y; mv a/b/y a/b/x", "1000000000 200 100"},
		{"another name", "echo y >a/b/y", "1000000000 200 1000000000"},
		{"a name less", "rm a/b/x", "1000000000 200 1000000000"},
		{"a folder of another mode", "chmod 700 a/b; touch -d @50 a/b", "1000000000 200 50"},
		{"a name in the root", "echo x >x; echo y >a/b/x", "1000000000 200 100"},
	} {
		t.Run(c.name, func(t *testing.T) {
			m, _ := change(t, s, base.ID, c.script)
			if got := strings.Join(strings.Fields(shell(t, m.Upper(), "stat -c %Y . a a/b")), " "); got != c.want {
				t.Errorf("the times are %s, not %s", got, c.want)
			}
			_, err := m.Commit(t.Context(), digest.FromString(c.name), Label{})
			ok(t, err)
			if got := strings.Join(strings.Fields(shell(t, m.Upper(), "stat -c %Y . a a/b")), " "); got != c.want {
				t.Errorf("after Commit the times are %s, not %s", got, c.want)
			}
		})
	}
}
