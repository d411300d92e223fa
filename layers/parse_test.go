package layers

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"strings"
	"testing"
)

// write makes files in a new folder, goes there, and returns it.
func write(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	t.Chdir(dir)
	for name, text := range files {
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// layer loads a stackerfile of one layer with these directives.
func layer(t *testing.T, directives string) *Layer {
	t.Helper()
	write(t, map[string]string{"stacker.yaml": "x:\n  from: {type: scratch}\n  " + strings.ReplaceAll(directives, "\n", "\n  ")})
	g, err := Load("stacker.yaml", Options{})
	if err != nil {
		t.Fatal(err)
	}
	return g.Layer("x")
}

func TestDirectives(t *testing.T) {
	const sh = "#!/bin/sh -xe\n"
	mode := func(m fs.FileMode) *fs.FileMode { return &m }
	for _, test := range []struct {
		directives string
		got        func(*Layer) any
		want       any
	}{
		{"run: make", func(l *Layer) any { return l.Run }, sh + "make\n"},
		{"run: |\n  a\n  b\n", func(l *Layer) any { return l.Run }, sh + "a\nb\n"},
		{"run: [a, true, 1.10]", func(l *Layer) any { return l.Run }, sh + "a\ntrue\n1.10\n"},
		{"run: |\n  #!/usr/bin/python3\n  print()\n", func(l *Layer) any { return l.Run }, "#!/usr/bin/python3\nprint()\n"},
		{"run: ['#!/bin/bash', x]", func(l *Layer) any { return l.Run }, "#!/bin/bash\nx\n"},
		{"run: ' '", func(l *Layer) any { return l.Run }, ""},
		{"run:", func(l *Layer) any { return l.Run }, ""},
		{"generate_labels: x", func(l *Layer) any { return l.GenerateLabels }, sh + "x\n"},
		{`cmd: sh -c "printf 'a\n'" # c`, func(l *Layer) any { return l.Cmd }, []string{"sh", "-c", `printf 'a\n'`}},
		{"cmd: [sh, -c, 'a b', 1]", func(l *Layer) any { return l.Cmd }, []string{"sh", "-c", "a b", "1"}},
		{"cmd: []", func(l *Layer) any { return l.Cmd }, []string{}},
		{"run: a", func(l *Layer) any { return l.Cmd }, []string(nil)},
		{"entrypoint: a 'b c'", func(l *Layer) any { return l.Entrypoint }, []string{"a", "b c"}},
		{"full_command: a", func(l *Layer) any { return l.FullCommand }, []string{"a"}},
		{"volumes: /data", func(l *Layer) any { return l.Volumes }, []string{"/data"}},
		{"volumes: [/a, /b]", func(l *Layer) any { return l.Volumes }, []string{"/a", "/b"}},
		{"working_dir: /w", func(l *Layer) any { return l.WorkingDir }, "/w"},
		{"network: none", func(l *Layer) any { return l.Network }, "none"},
		{"runtime_user: 1000", func(l *Layer) any { return l.RuntimeUser }, "1000"},
		{"expose: [80, 53/UDP, 8000-8002/sctp]", func(l *Layer) any { return l.Expose }, []string{"80/tcp", "53/udp", "8000/sctp", "8001/sctp", "8002/sctp"}},
		{"healthcheck: none", func(l *Layer) any { return healthcheckText(l.Healthcheck) }, `["NONE"] 0s 0s 0s 0s 0`},
		{"healthcheck: {test: a | b, interval: 30s, timeout: 1m, start_period: 5ms, start_interval: 2s, retries: 3}",
			func(l *Layer) any { return healthcheckText(l.Healthcheck) }, `["CMD-SHELL" "a | b"] 30s 1m0s 5ms 2s 3`},
		{"healthcheck: {test: [curl, -f, x]}", func(l *Layer) any { return healthcheckText(l.Healthcheck) }, `["CMD" "curl" "-f" "x"] 0s 0s 0s 0s 0`},
		{"shell: /bin/bash -c", func(l *Layer) any { return l.Shell }, []string{"/bin/bash", "-c"}},
		{"on_build: [RUN a, COPY . /src]", func(l *Layer) any { return l.OnBuild }, []string{"RUN a", "COPY . /src"}},
		{"stop_signal: 9", func(l *Layer) any { return l.StopSignal }, "9"},
		{"environment: {A: 1.10, B: true, C: '', D: 0x1F}", func(l *Layer) any { return l.Environment }, map[string]string{"A": "1.10", "B": "true", "C": "", "D": "0x1F"}},
		{"labels: {a=b: c}", func(l *Layer) any { return l.Labels }, map[string]string{"a=b": "c"}},
		{"annotations: {a.b: 2001-01-01}", func(l *Layer) any { return l.Annotations }, map[string]string{"a.b": "2001-01-01"}},
		{"build_env: {K: v}", func(l *Layer) any { return l.BuildEnv }, map[string]string{"K": "v"}},
		{"build_env_passthrough: [A.*, B]", func(l *Layer) any { return l.BuildEnvPassthrough }, []string{"A.*", "B"}},
		{"build_env_passthrough: []", func(l *Layer) any { return l.BuildEnvPassthrough }, []string(nil)},
		{"os: plan9", func(l *Layer) any { return l.OS }, "plan9"},
		{"arch: s390x", func(l *Layer) any { return l.Arch }, "s390x"},
		{"run: a", func(l *Layer) any { return l.OS + "/" + l.Arch }, runtime.GOOS + "/" + runtime.GOARCH},
		{"build_only: yes", func(l *Layer) any { return l.BuildOnly }, true},
		{"build_only: false", func(l *Layer) any { return l.BuildOnly }, false},
		{"imports: {path: f, mode: 0644}", func(l *Layer) any { return l.Imports[0].Mode }, mode(0o644)},
		{"imports: {path: f, mode: 0o755}", func(l *Layer) any { return l.Imports[0].Mode }, mode(0o755)},
		{`imports: {path: f, mode: "4755"}`, func(l *Layer) any { return l.Imports[0].Mode }, mode(0o755 | fs.ModeSetuid)},
		{`imports: {path: f, mode: "07777"}`, func(l *Layer) any { return l.Imports[0].Mode }, mode(0o777 | fs.ModeSetuid | fs.ModeSetgid | fs.ModeSticky)},
		{"imports: {path: f, mode: 0}", func(l *Layer) any { return l.Imports[0].Mode }, mode(0)},
		{"imports: {path: f, uid: 1, gid: 0}", func(l *Layer) any { return fmt.Sprint(*l.Imports[0].UID, *l.Imports[0].GID) }, "1 0"},
		{"imports: {path: f, hash: " + strings.Repeat("AB", 32) + "}", func(l *Layer) any { return l.Imports[0].Hash }, strings.Repeat("ab", 32)},
		{"imports: {path: f, hash: " + strings.Repeat("1", 64) + "}", func(l *Layer) any { return l.Imports[0].Hash }, strings.Repeat("1", 64)},
		{"imports: {path: f, normalize: git}", func(l *Layer) any { return l.Imports[0].Normalize }, "git"},
		{"imports: {path: f, ignore: '*.pyc'}", func(l *Layer) any { return l.Imports[0].Ignore }, []string{"*.pyc"}},
		{"imports: [{path: f, ignore: [.git/, '!a']}]", func(l *Layer) any { return l.Imports[0].Ignore }, []string{".git/", "!a"}},
		{"imports: {path: f, dest: /a//b/./}", func(l *Layer) any { return l.Imports[0].Dest }, "/a/b/"},
		{"imports: {path: f, dest: /}", func(l *Layer) any { return l.Imports[0].Dest }, "/"},
		{"overlay_dirs: [{source: o}]", func(l *Layer) any { return l.OverlayDirs[0].Dest }, "/"},
		{"overlay_dirs: [{source: o, dest: /usr/}]", func(l *Layer) any { return l.OverlayDirs[0].Dest }, "/usr"},
	} {
		t.Run(test.directives, func(t *testing.T) {
			if got := test.got(layer(t, test.directives)); !reflect.DeepEqual(got, test.want) {
				t.Errorf("got %#v, want %#v", got, test.want)
			}
		})
	}
}

func TestSources(t *testing.T) {
	for _, test := range []struct{ path, want string }{
		{"f", "DIR/f name=f"},
		{"a/../f", "DIR/f name=f"},
		{"../f", "UP/f name=f"},
		{"~/f", "DIR/~/f name=f"},
		{"/abs/f", "/abs/f name=f"},
		{"d/", "DIR/d name= content"},
		{"http://h/a/f.tar?x=/y#z", "http name=f.tar"},
		{"https://h:8/f%20g", "https name=f%20g"},
		{"stacker://y/usr/bin/../bin2", ""},
		{"stacker://y/usr/bin/tool", "stacker y /usr/bin/tool name=tool"},
		{"stacker://y//usr/", "stacker y /usr name= content"},
		{"stacker://y/", "stacker y / name= content"},
	} {
		t.Run(test.path, func(t *testing.T) {
			dir := write(t, map[string]string{"stacker.yaml": "y: {from: {type: scratch}}\nx: {from: {type: scratch}, imports: \"" + test.path + "\"}"})
			g, err := Load("stacker.yaml", Options{})
			if err != nil {
				if test.want != "" {
					t.Fatal(err)
				}
				return
			}
			i := g.Layer("x").Imports[0]
			s := i.Source
			got := strings.TrimLeft(strings.Join([]string{s.Scheme, s.Layer, s.Path, "name=" + i.Name}, " "), " ")
			got = strings.Join(strings.Fields(got), " ")
			if s.Content {
				got += " content"
			}
			got = strings.Replace(got, dir, "DIR", 1)
			got = strings.Replace(got, filepath.Dir(dir), "UP", 1)
			if got != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
			if s.Raw != test.path {
				t.Errorf("raw is %q", s.Raw)
			}
		})
	}
}

func TestBases(t *testing.T) {
	for _, test := range []struct{ from, want string }{
		{"type: docker, url: 'docker://h:5/r:1', insecure: true, tag: ignored", `docker "docker://h:5/r:1" "" true ""`},
		{"type: oci, url: 'a/b:c'", `oci "a/b" "c" false "DIR/a/b"`},
		{"type: oci, url: 'oci:a/b:c'", `oci "a/b" "c" false "DIR/a/b"`},
		{"type: oci, url: 'oci:c'", `oci "oci" "c" false "DIR/oci"`},
		{"type: oci, url: '/o:x:c'", `oci "/o" "x:c" false "/o"`},
		{"type: tar, url: f.tar", `tar "f.tar" "" false "DIR/f.tar"`},
		{"type: tar, url: 'http://h/f.tar'", `tar "http://h/f.tar" "" false ""`},
		{"type: tar, url: 'stacker://y/f.tar'", `tar "stacker://y/f.tar" "" false "/f.tar"`},
		{"type: built, tag: y, url: ignored", `built "" "y" false ""`},
		{"type: scratch, url: ignored", `scratch "" "" false ""`},
	} {
		t.Run(test.from, func(t *testing.T) {
			dir := write(t, map[string]string{"stacker.yaml": "y: {from: {type: scratch}}\nx: {from: {" + test.from + "}}"})
			g, err := Load("stacker.yaml", Options{})
			if err != nil {
				t.Fatal(err)
			}
			b := g.Layer("x").From
			got := fmt.Sprintf("%s %q %q %t %q", b.Type, b.URL, b.Tag, b.Insecure, b.Source.Path)
			if got = strings.Replace(got, dir, "DIR", 1); got != test.want {
				t.Errorf("got  %s\nwant %s", got, test.want)
			}
		})
	}
}

func TestBinds(t *testing.T) {
	l := layer(t, `binds:
  - /a
  - b -> /c
  - {source: d e, dest: /f/, track: true}
  - source: ../g`)
	dir := l.File.Dir
	var got []string
	for _, b := range l.Binds {
		got = append(got, fmt.Sprint(b.Source, "|", b.Raw, "|", b.Dest, "|", b.Track))
	}
	up := filepath.Dir(dir) + "/g"
	want := []string{"/a|/a|/a|false", dir + "/b|b|/c|false", dir + "/d e|d e|/f|true", up + "|../g|" + up + "|false"}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestSecretForms(t *testing.T) {
	for directives, want := range map[string]string{
		"secrets: token":                             "token /run/secrets/token  false",
		"secrets: [a, {id: b}]":                      "a /run/secrets/a  false, b /run/secrets/b  false",
		"secrets: {id: a, target: /root//.npmrc}":    "a /root/.npmrc  false",
		"secrets: {id: a, env: TOKEN}":               "a  TOKEN false",
		"secrets: {id: a, env: A_1, target: /t}":     "a /t A_1 false",
		"secrets: [{id: a, required: false, env: }]": "a /run/secrets/a  true",
		"secrets: [{id: a}, {id: a, env: A}]":        "a /run/secrets/a  false, a  A false",
		"secrets:":                                   "",
	} {
		var seen []string
		for _, s := range layer(t, directives).Secrets {
			seen = append(seen, fmt.Sprint(s.ID, " ", s.Target, " ", s.Env, " ", s.Optional))
		}
		if got := strings.Join(seen, ", "); got != want {
			t.Errorf("%s: got %q, want %q", directives, got, want)
		}
	}
}

func TestCacheForms(t *testing.T) {
	for directives, want := range map[string]string{
		"caches: /root/.cache/":                              "/root/.cache /root/.cache shared",
		"caches: [/a, {path: /b, id: x}]":                    "/a /a shared, /b x shared",
		"caches: {path: /var/cache/apt, sharing: locked}":    "/var/cache/apt /var/cache/apt locked",
		"caches: {path: /b, id: go build, sharing: private}": "/b go build private",
	} {
		var seen []string
		for _, c := range layer(t, directives).Caches {
			seen = append(seen, fmt.Sprint(c.Path, " ", c.ID, " ", c.Sharing))
		}
		if got := strings.Join(seen, ", "); got != want {
			t.Errorf("%s: got %q, want %q", directives, got, want)
		}
	}
}

func TestImportForms(t *testing.T) {
	for directives, want := range map[string]string{
		"imports: a":                            "/stacker/imports/a",
		"imports: {path: a}":                    "/stacker/imports/a",
		"imports: [a, {path: b}]":               "/stacker/imports/a /stacker/imports/b",
		"import: a":                             "/stacker/a",
		"import: a\nimports: a":                 "/stacker/a /stacker/imports/a",
		"imports: [a, ./a]":                     "/stacker/imports/a /stacker/imports/a",
		"imports: d/":                           "/stacker/imports/",
		"imports: [a/x, {path: b/x, dest: /y}]": "/stacker/imports/x /stacker/imports/x",
		"imports: []":                           "",
		"imports:":                              "",
	} {
		var seen []string
		for _, i := range layer(t, directives).Imports {
			seen = append(seen, i.Folder()+"/"+i.Name)
		}
		if got := strings.Join(seen, " "); got != want {
			t.Errorf("%s: got %q, want %q", directives, got, want)
		}
	}
}

func TestNormalizeOfConfig(t *testing.T) {
	write(t, map[string]string{"stacker.yaml": `
x: {from: {type: scratch}, imports: [a, {path: b, normalize: none}]}
config: {normalize: git}`})
	g, err := Load("stacker.yaml", Options{})
	if err != nil {
		t.Fatal(err)
	}
	if i := g.Layers[0].Imports; i[0].Normalize != NormalizeGit || i[1].Normalize != "" || g.Files[0].Normalize != NormalizeGit {
		t.Errorf("got %+v", i)
	}
}

func TestMergeKeys(t *testing.T) {
	write(t, map[string]string{"stacker.yaml": `
base: &base
  from: &scratch {type: scratch}
  environment: {A: one}
  cmd: base
more: &more
  from: *scratch
  labels: {l: more}
  cmd: more
one:
  <<: *base
  cmd: one
two:
  <<: [*base, *more]
  environment: *nothing-of-base
`})
	_, err := Load("stacker.yaml", Options{})
	if want := "stacker.yaml:15:3: the YAML is not valid: unknown anchor 'nothing-of-base' referenced"; err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
	text, err := os.ReadFile("stacker.yaml")
	if err != nil {
		t.Fatal(err)
	}
	mended := strings.ReplaceAll(string(text), "*nothing-of-base", "{}")
	if err := os.WriteFile("stacker.yaml", []byte(mended), 0o644); err != nil {
		t.Fatal(err)
	}
	g, err := Load("stacker.yaml", Options{})
	if err != nil {
		t.Fatal(err)
	}
	one, two := g.Layer("one"), g.Layer("two")
	if one.Cmd[0] != "one" || one.Environment["A"] != "one" || one.From.Type != "scratch" {
		t.Errorf("one is %+v", one)
	}
	if two.Cmd[0] != "base" || len(two.Environment) != 0 || two.Labels["l"] != "more" {
		t.Errorf("two is %+v", two)
	}
}

// TestFaults gives stackerfiles and all that is said of them.
func TestFaults(t *testing.T) {
	const scratch = "from: {type: scratch}"
	for _, test := range []struct{ name, text, want string }{
		{"empty", "", `1:1: the file is empty: declare a layer`},
		{"comment only", "# a\n", `1:1: the file is empty: declare a layer`},
		{"no layer", "config: {normalize: git}", `1:1: the file declares no layer: add one`},
		{"list", "- a", `1:1: a stackerfile must be a mapping, not a list`},
		{"name my__app", "my__app:\n  from: {type: scratch}", `1:1: layer "my__app": a layer's name is its image's tag, which ends in a letter or digit and has one of _ . @ + - at a time: rename it, or write build_only: true`},
		{"name _base", "_base:\n  from: {type: scratch}", `1:1: layer "_base": a layer's name is its image's tag, which ends in a letter or digit and has one of _ . @ + - at a time: rename it, or write build_only: true`},
		{"name app-", "app-:\n  from: {type: scratch}", `1:1: layer "app-": a layer's name is its image's tag, which ends in a letter or digit and has one of _ . @ + - at a time: rename it, or write build_only: true`},
		{"name v1.", "v1.:\n  from: {type: scratch}", `1:1: layer "v1.": a layer's name is its image's tag, which ends in a letter or digit and has one of _ . @ + - at a time: rename it, or write build_only: true`},
		{"name a_-b", "a_-b:\n  from: {type: scratch}", `1:1: layer "a_-b": a layer's name is its image's tag, which ends in a letter or digit and has one of _ . @ + - at a time: rename it, or write build_only: true`},
		{"import at /stacker/imports/a", "x:\n  from: {type: scratch}\n  imports: [{path: a, dest: /stacker/imports/a}]", `3:29: layer "x": dest "/stacker/imports/a" is layerbuild's own in each run: choose another place`},
		{"import at /proc/a", "x:\n  from: {type: scratch}\n  imports: [{path: a, dest: /proc/a}]", `3:29: layer "x": dest "/proc/a" is layerbuild's own in each run: choose another place`},
		{"overlay at /stacker", "x:\n  from: {type: scratch}\n  overlay_dirs: [{source: a, dest: /stacker}]", `3:36: layer "x": dest "/stacker" is layerbuild's own in each run: choose another place`},
		{"bind at /proc", "x:\n  from: {type: scratch}\n  binds: [{source: a, dest: /proc}]", `3:29: layer "x": dest "/proc" is layerbuild's own in each run: choose another place`},
		{"bind at /stacker/a", "x:\n  from: {type: scratch}\n  binds: [a -> /stacker/a]", `3:11: layer "x": dest "/stacker/a" is layerbuild's own in each run: choose another place`},
		{"layer is text", "x: y", `1:4: layer "x": a layer must be a mapping of directives, not "y"`},
		{"second document", "x: {" + scratch + "}\n---\ny: 1", `2:1: a second YAML document begins here: keep one, without ---`},
		{"unknown directive", "x:\n  " + scratch + "\n  rnu: a", `3:3: layer "x": unknown directive "rnu": did you mean "run"?`},
		{"directive of no kin", "x:\n  " + scratch + "\n  zzzzzz: a", `3:3: layer "x": unknown directive "zzzzzz": it can be from, imports, import, overlay_dirs, run, build_env, build_env_passthrough, build_env_from_base, build_user, binds, secrets, caches, tmpfs, network, generate_labels, environment, labels, annotations, volumes, working_dir, runtime_user, cmd, entrypoint, full_command, expose, stop_signal, healthcheck, shell, on_build, os, arch, build_only`},
		{"secret without id", "x:\n  " + scratch + "\n  secrets: {target: /a}", `3:12: layer "x": the secret has no id: give what --secret id=… calls it`},
		{"secret's id", "x:\n  " + scratch + "\n  secrets: [a/b]", `3:13: layer "x": secret "a/b" is no id: it has up to 128 letters, digits and any of _ . - and begins with a letter, a digit or _`},
		{"secret's target", "x:\n  " + scratch + "\n  secrets: {id: a, target: b}", `3:28: layer "x": target "b" must be absolute: write "/b"`},
		{"secret in proc", "x:\n  " + scratch + "\n  secrets: {id: a, target: /proc/x}", `3:28: layer "x": target "/proc/x" is layerbuild's own in each run: choose another place`},
		{"secret's variable", "x:\n  " + scratch + "\n  secrets: {id: a, env: A-B}", `3:25: layer "x": env "A-B" is no name of a variable: it has letters, digits and _, and does not begin with a digit`},
		{"secret's variable in build_env", "x:\n  " + scratch + "\n  build_env: {A: b}\n  secrets: {id: a, env: A}", `4:12: layer "x": the variable "A" is in build_env, too: remove one`},
		{"two tracked binds at one place", "x:\n  " + scratch + "\n  binds:\n  - {source: a, dest: /t, track: true}\n  - {source: b, dest: /t, track: true}", `5:5: layer "x": the bind at "/t" is given twice, first at line 4: remove one`},
		{"a tracked bind at the place of another", "x:\n  " + scratch + "\n  binds:\n  - a -> /t\n  - {source: b, dest: /t, track: true}", `5:5: layer "x": the bind at "/t" is given twice, first at line 4: remove one`},
		{"two secrets at one place", "x:\n  " + scratch + "\n  secrets:\n  - a\n  - {id: b, target: /run/secrets/a}", `5:5: layer "x": the mount at "/run/secrets/a" is given twice, first at line 4: remove one`},
		{"cache without path", "x:\n  " + scratch + "\n  caches: {id: a}", `3:11: layer "x": the cache has no path: name the folder that is kept between builds`},
		{"cache at the root", "x:\n  " + scratch + "\n  caches: /", `3:11: layer "x": path "/" is layerbuild's own in each run: choose another place`},
		{"cache that climbs", "x:\n  " + scratch + "\n  caches: /a/../b", `3:11: layer "x": path "/a/../b" climbs: write a path without ..`},
		{"cache's sharing", "x:\n  " + scratch + "\n  caches: {path: /a, sharing: public}", `3:31: layer "x": sharing must be shared, private or locked, not "public"`},
		{"cache over a bind", "x:\n  " + scratch + "\n  binds: [a -> /a]\n  caches: /a", `4:11: layer "x": the mount at "/a" is given twice, first at line 3: remove one`},
		{"one cache at two places", "x:\n  " + scratch + "\n  caches: [{path: /a, id: i}, {path: /b, id: i}]", `3:31: layer "x": the cache "i" is given twice, first at line 3: remove one`},
		{"network", "x:\n  " + scratch + "\n  network: bridge", `3:12: layer "x": network must be host or none, not "bridge"`},
		{"user", "x:\n  " + scratch + "\n  user: a", `3:3: layer "x": unknown directive "user": did you mean "runtime_user"?`},
		{"unknown key", "x:\n  " + scratch + "\n  imports: {path: a, perms: 0644}", `3:22: layer "x": unknown key "perms" in an import: did you mean "mode"?`},
		{"config key", "config: {prerequisits: []}\nx: {" + scratch + "}", `1:10: unknown key "prerequisits" in config: did you mean "prerequisites"?`},
		{"duplicate layer", "x: {" + scratch + "}\nx: {" + scratch + "}", `2:1: "x" is given twice, first at line 1: remove one`},
		{"duplicate directive", "x:\n  " + scratch + "\n  run: a\n  run: b", `4:3: layer "x": "run" is given twice, first at line 3: remove one`},
		{"duplicate variable", "x:\n  " + scratch + "\n  labels:\n    a: 1\n    a: 2", `5:5: layer "x": "a" is given twice, first at line 4: remove one`},
		{"no from", "x: {run: a}", `1:1: layer "x": from is missing: say what the layer starts from, such as from: {type: scratch}`},
		{"empty from", "x: {from: }", `1:5: layer "x": "from" cannot be empty: give a value`},
		{"from is text", "x: {from: scratch}", `1:11: layer "x": from must be a mapping, not "scratch"`},
		{"no type", "x:\n  from: {url: a}", `2:9: layer "x": from has no type: it can be docker, oci, tar, scratch, built`},
		{"unknown type", "x:\n  from: {type: dokcer, url: a}", `2:16: layer "x": unknown base type "dokcer": did you mean "docker"?`},
		{"type of no kin", "x:\n  from: {type: zip}", `2:16: layer "x": unknown base type "zip": it can be docker, oci, tar, scratch, built`},
		{"type is list", "x:\n  from: {type: [a]}", `2:16: layer "x": type must be a text, not a list`},
		{"no url", "a: {from: {type: docker}}\nb: {from: {type: oci}}\nc: {from: {type: tar}}\nd: {from: {type: built}}", `1:11: layer "a": from has no url, which type docker needs: give docker://host/repository:tag
2:11: layer "b": from has no url, which type oci needs: give folder:tag of an OCI layout
3:11: layer "c": from has no url, which type tar needs: give a tar file
4:11: layer "d": from has no tag, which type built needs: give the name of a layer`},
		{"bad transports", "a: {from: {type: docker, url: \"docker-daemon:x:1\"}}\nb: {from: {type: docker, url: \"oci:x\"}}\nc: {from: {type: docker, url: \"oci-archive:\"}}",
			`1:31: layer "a": url "docker-daemon:x:1" is for a program that layerbuild does not use: run ` + "`skopeo copy docker-daemon:x:1 oci:FOLDER:TAG`" + `, and write type: oci and url: FOLDER:TAG
3:31: layer "c": url "oci-archive:" names no tag: write folder:tag of an OCI layout`},
		{"bad urls", "a: {from: {type: docker, url: busybox}}\nb: {from: {type: oci, url: oci}}\nc: {from: {type: oci, url: docker://x/y:z}}\nd: {from: {type: tar, url: d/}}", `1:31: layer "a": url "busybox" is no image: write docker://host/repository:tag
2:28: layer "b": url "oci" names no tag: write folder:tag of an OCI layout
3:28: layer "c": url "docker://x/y:z" is no folder: write folder:tag of an OCI layout on this machine
4:28: layer "d": url "d/" names no file: name a tar file`},
		{"insecure", "x: {from: {type: docker, url: docker://h/r:t, insecure: maybe}}", `1:57: layer "x": insecure must be true or false, not "maybe"`},
		{"unknown layer", "base: {" + scratch + "}\nx:\n  from: {type: built, tag: bsae}\n  imports: [stacker://other/f]", `3:28: layer "x": there is no layer "bsae": did you mean "base"?
4:13: layer "x": there is no layer "other": declare it here or in a prerequisite`},
		{"climbing", "x:\n  " + scratch + "\n  imports: [stacker://x/../f, {path: f, dest: /a/../b}]", `3:13: layer "x": "stacker://x/../f" climbs out of the layer: write a path without ..
3:47: layer "x": dest "/a/../b" climbs: write a path without ..`},
		{"stacker without file", "x:\n  " + scratch + "\n  imports: stacker://x", `3:12: layer "x": "stacker://x" names no file: write stacker://layer/path`},
		{"scheme", "x:\n  " + scratch + "\n  imports: [ftp://h/f, http:///f, https://h/]", `3:13: layer "x": unknown scheme in "ftp://h/f": write a path, or a URL that begins with http://, https:// or stacker://
3:24: layer "x": "http:///f" is no URL: write http://host/file
3:35: layer "x": import "https://h/" has no file name: name a file or folder`},
		{"relative dest", "x:\n  " + scratch + "\n  imports: {path: a, dest: b}\n  overlay_dirs: [{source: a, dest: c}]\n  binds: a -> d", `3:28: layer "x": dest "b" must be absolute: write "/b"
4:36: layer "x": dest "c" must be absolute: write "/c"
5:10: layer "x": dest "d" must be absolute: write "/d"`},
		{"hash", "x:\n  " + scratch + "\n  imports: {path: a, hash: 12ab}", `3:28: layer "x": hash "12ab" is not valid: give the 64 hexadecimal digits of a sha256`},
		{"mode", "x:\n  " + scratch + "\n  imports:\n  - {path: a, mode: 644}\n  - {path: b, mode: 0888}\n  - {path: c, mode: u+x}\n  - {path: d, mode: '17777'}\n  - {path: e, mode: [1]}\n  - {path: f, mode: -1}", `4:21: layer "x": mode must be octal with a leading zero, such as 0644, not "644"
5:21: layer "x": mode must be octal with a leading zero, such as 0644, not "0888"
6:21: layer "x": mode must be octal with a leading zero, such as 0644, not "u+x"
7:21: layer "x": mode must be octal with a leading zero, such as 0644, not "17777"
8:21: layer "x": mode must be octal with a leading zero, such as 0644, not a list
9:21: layer "x": mode must be octal with a leading zero, such as 0644, not "-1"`},
		{"ids", "x:\n  " + scratch + "\n  imports: {path: a, uid: -1, gid: 4294967295}", `3:27: layer "x": uid must be a number from 0 to 4294967294, not "-1"
3:36: layer "x": gid must be a number from 0 to 4294967294, not "4294967295"`},
		{"no path", "x:\n  " + scratch + "\n  imports: [{dest: /a}, '', {path: ''}]", `3:13: layer "x": the import has no path: name a file, folder or URL
3:25: layer "x": an import cannot be empty
3:36: layer "x": an import cannot be empty`},
		{"nested list", "x:\n  " + scratch + "\n  imports: [a, [b, c]]", `3:16: layer "x": an import must be a text, not a list`},
		{"same name", "x:\n  " + scratch + "\n  imports: [a/f, b/f]\n  import: imports", `3:18: layer "x": import "b/f" and "a/f" at line 3 are both seen at /stacker/imports/f: rename one, or give it a dest
4:11: layer "x": import "imports" would hide /stacker/imports: use imports instead of import, or rename it`},
		{"overlay and binds", "x:\n  " + scratch + "\n  overlay_dirs: [{dest: /a}, b, {source: 'http://h/d'}]\n  binds: [a b, a->b, {dest: /a}, [c], ~]", `3:18: layer "x": overlay_dirs has no source: name a folder
3:30: layer "x": overlay_dirs must be a mapping, not "b"
3:42: layer "x": source "http://h/d" is no path of this machine: name a file or folder
4:11: layer "x": bind "a b" must be "source", "source -> dest", or a mapping of source and dest
4:16: layer "x": bind "a->b" must be "source", "source -> dest", or a mapping of source and dest
4:22: layer "x": binds has no source: name a path of this machine
4:34: layer "x": binds must be a mapping, not a list
4:39: layer "x": binds must be a mapping, not nothing`},
		{"passthrough", "x:\n  " + scratch + "\n  build_env_passthrough: ['a(', 'b)', c]", `3:27: layer "x": build_env_passthrough "a(" is no regular expression: missing closing ) in "a("
3:33: layer "x": build_env_passthrough "b)" is no regular expression: unexpected ) in "b)"`},
		{"empty os", "x:\n  " + scratch + "\n  os:\n  arch: ''", `3:3: layer "x": "os" cannot be empty: give a value
4:9: layer "x": arch cannot be empty`},
		{"container", "x:\n  " + scratch + "\n  expose: [80/icmp, 9-8, 65536, a]\n  stop_signal: 'a b'\n  healthcheck: {test: [], interval: 1us}", `3:12: layer "x": expose "80/icmp": write a port from 0 to 65535 or a range of them, and /tcp, /udp or /sctp
3:21: layer "x": expose "9-8": write a port from 0 to 65535 or a range of them, and /tcp, /udp or /sctp
3:26: layer "x": expose "65536": write a port from 0 to 65535 or a range of them, and /tcp, /udp or /sctp
3:33: layer "x": expose "a": write a port from 0 to 65535 or a range of them, and /tcp, /udp or /sctp
4:16: layer "x": stop_signal must be a signal's name or number, such as SIGQUIT or 9, not "a b"
5:23: layer "x": test is empty: give a command
5:37: layer "x": interval must be a time of at least 1ms, such as 30s or 1m30s, not "1us"`},
		{"variables", "x:\n  " + scratch + "\n  environment: {A=B: c, D: , E: [f], '': g}\n  build_env: [h]", `3:17: layer "x": the name "A=B" in environment cannot contain =
3:33: layer "x": "E" in environment must be a text, not a list
3:38: layer "x": a name in environment cannot be empty
4:14: layer "x": build_env must be a mapping, not a list`},
		{"run", "x:\n  " + scratch + "\n  run:\n  - echo: a\n  - \n  generate_labels: {a: b}", `4:5: layer "x": run must be a text or a list of texts, not a mapping: quote a text that contains ": "
5:4: layer "x": run must be a text or a list of texts, not nothing
6:20: layer "x": generate_labels must be a text or a list of texts, not a mapping: quote a text that contains ": "`},
		{"words", "x:\n  " + scratch + "\n  cmd: \"a 'b\"\n  entrypoint: a\\", `3:8: layer "x": cmd "a 'b" has a quote that is not closed: close it, or write the command as a list
4:15: layer "x": entrypoint "a\\" ends in a backslash: remove it, or write the command as a list`},
		{"build_only", "x:\n  " + scratch + "\n  build_only: 'true'", `3:15: layer "x": build_only must be true or false, not "true"`},
		{"normalize", "config: {normalize: svn}\nx: {" + scratch + "}", `1:21: normalize must be git or none, not "svn"`},
		{"layer names", "a:b: {" + scratch + "}\n'': {" + scratch + "}\n~: {" + scratch + "}\n[c]: {" + scratch + "}", `1:1: layer "a:b": a layer's name is 1 to 128 letters, digits and any of _ . @ + - (others are forbidden), and begins with a letter, a digit or _: rename it
2:1: a layer's name is 1 to 128 letters, digits and any of _ . @ + - (others are forbidden), and begins with a letter, a digit or _: rename it
3:1: a key must be a text, not nothing
4:1: a key must be a text, not a list`},
		{"cycle", "a:\n  from: {type: built, tag: b}\nb:\n  " + scratch + "\n  imports: stacker://c/f\nc:\n  from: {type: tar, url: stacker://a/f}", `2:28: layer "a": layers need each other in a cycle, a → b → c → a: break it at one of them`},
		{"self", "a:\n  from: {type: built, tag: a}", `2:28: layer "a": layers need each other in a cycle, a → a: break it at one of them`},
		{"YAML", "x:\n  " + scratch + "\n  run: 'a\n  cmd: b\n", `3:3: the YAML is not valid: found unexpected end of stream`},
		{"YAML indentation", "x:\n  " + scratch + "\n run: a\n", `3:2: the YAML is not valid: did not find expected key`},
		{"tab", "x:\n\tfrom: y", `2:1: the YAML is not valid: found character that cannot start any token`},
		{"control character", "x:\n  run: \"\x1b[31m\"", `2:3: the YAML is not valid: control characters are not allowed`},
		{"escapes", "x:\n  " + scratch + "\n  \"\\e[31mred\": a\n  imports: \"ftp://\\e[0m\\u202e\"", `3:3: layer "x": unknown directive "\x1b[31mred": it can be from, imports, import, overlay_dirs, run, build_env, build_env_passthrough, build_env_from_base, build_user, binds, secrets, caches, tmpfs, network, generate_labels, environment, labels, annotations, volumes, working_dir, runtime_user, cmd, entrypoint, full_command, expose, stop_signal, healthcheck, shell, on_build, os, arch, build_only
4:12: layer "x": unknown scheme in "ftp://\x1b[0m\u202e": write a path, or a URL that begins with http://, https:// or stacker://`},
		{"NUL", "x:\n  " + scratch + "\n  run: \"a\\0b\"", `3:8: text must not contain a NUL character, as "a\x00b" does`},
		{"UTF-8", "x:\n  # é \xff", `2:7: the byte 0xff is not UTF-8: save the file as UTF-8`},
		{"UTF-16", "\xff\xfex\x00", `1:1: the byte 0xff is not UTF-8: save the file as UTF-8`},
		{"byte order mark", "\ufeffx: y", `1:4: layer "x": a layer must be a mapping of directives, not "y"`},
		{"tag", "x:\n  " + scratch + "\n  run: !!binary aGk=\n  cmd: !foo a", `3:8: unknown YAML tag "!!binary": remove it
4:8: unknown YAML tag "!foo": remove it`},
		{"merge", "x:\n  <<: 1\n  " + scratch, `2:7: layer "x": what << merges must be a mapping, not "1"`},
		{"alias in itself", "x: &a\n  " + scratch + "\n  run: *a", `3:8: the alias *a stands within what it is an alias for: remove it`},
		{"long value", "x: {from: {type: " + strings.Repeat("é", 200) + "}}", `1:18: layer "x": unknown base type "` + strings.Repeat("é", 50) + `"…: it can be docker, oci, tar, scratch, built`},
		{"several at once", "a: {}\nb:\n  run: [x]\n  form: {type: scratch}\n  cmd: {}", `1:1: layer "a": from is missing: say what the layer starts from, such as from: {type: scratch}
2:1: layer "b": from is missing: say what the layer starts from, such as from: {type: scratch}
4:3: layer "b": unknown directive "form": did you mean "from"?
5:8: layer "b": cmd must be a text, not a mapping: quote a text that contains ": "`},
	} {
		t.Run(test.name, func(t *testing.T) {
			write(t, map[string]string{"s.yaml": test.text})
			_, err := Load("s.yaml", Options{})
			var faults Errors
			if !errors.As(err, &faults) {
				t.Fatalf("got %v", err)
			}
			if got := strings.ReplaceAll("\n"+err.Error(), "\ns.yaml:", "\n")[1:]; got != test.want {
				t.Errorf("got\n%s\nwant\n%s", got, test.want)
			}
		})
	}
}

// TestInvalidStackerfiles reads stackerfiles that say in comments what is wrong with them.
func TestInvalidStackerfiles(t *testing.T) {
	paths, err := filepath.Glob("../testdata/stackerfiles/invalid/*.yaml")
	if err != nil || len(paths) == 0 {
		t.Fatalf("found %v, %v", paths, err)
	}
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		var want []string
		for line := range strings.Lines(string(text)) {
			if line, ok := strings.CutPrefix(line, "# want: "); ok {
				want = append(want, path+":"+strings.TrimSuffix(line, "\n"))
			}
		}
		_, err = Load(path, Options{Substitutions: []string{"VERSION=1"}})
		if got := fmt.Sprint(err); got != strings.Join(want, "\n") {
			t.Errorf("got\n%s\nwant\n%s", got, strings.Join(want, "\n"))
		}
	}
}

// TestDocument has the reference name all that can be written.
func TestDocument(t *testing.T) {
	data, err := os.ReadFile("../docs/stackerfile.md")
	if err != nil {
		t.Fatal(err)
	}
	text := string(data)
	for _, d := range directives {
		if !strings.Contains(text, "`"+d.name+"`") {
			t.Errorf("the document does not say what %s is", d.name)
		}
	}
	_, example, _ := strings.Cut(text, "```yaml\n")
	example, _, _ = strings.Cut(example, "```")
	write(t, map[string]string{"stacker.yaml": example})
	if _, err := Load("stacker.yaml", Options{}); err != nil {
		t.Error(err)
	}
}
