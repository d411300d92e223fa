package engine

import "testing"

// TestRemoteName: clones of one repository have one name, without anybody's password.
func TestRemoteName(t *testing.T) {
	for _, test := range []struct{ remotes, want string }{
		{"", "/top"},
		{"remote.origin.url https://example.org/group/app.git\n", "example.org/group/app"},
		{"remote.origin.url https://me:secret@example.org/group/app\n", "example.org/group/app"},
		{"remote.origin.url git@example.org:group/app.git\n", "example.org/group/app"},
		{"remote.origin.url ssh://git@example.org:2222/group/app.git\n", "example.org/group/app"},
		{"remote.fork.url https://example.org/me/app\nremote.origin.url https://example.org/group/app/\n", "example.org/group/app"},
		{"remote.upstream.url https://example.org/group/app\nremote.mine.url https://example.org/me/app\n", "example.org/group/app"},
		{"remote.origin.url /srv/app.git\n", "/srv/app"},
		{"remote.origin.url file:///srv/app.git\n", "/srv/app"},
		{"remote.origin.url ../app\n", "/app"},
	} {
		if got := remoteName(test.remotes, "/top"); got != test.want {
			t.Errorf("%q: %q, want %q", test.remotes, got, test.want)
		}
	}
}
