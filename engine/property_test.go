package engine

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/layerbuild/layerbuild/layers"
	"github.com/layerbuild/layerbuild/progress"
	"github.com/layerbuild/layerbuild/sandbox"
)

var (
	propertySeeds = flag.Int("property.seeds", 6, "how many random histories TestRandomHistories builds")
	propertyFirst = flag.Int("property.first", 0, "the seed of the first of them")
)

// edits is how many states a random history has.
const edits = 12

// TestRandomHistories builds random graphs through random edits. After each edit
// the images must be those of a build with an empty cache, and the steps that ran
// must be those whose inputs had never been seen before, no more and no fewer. At times
// all snapshots are lost: from then on more steps may run, where there is no blob to restore
// them from, and the images are the same.
func TestRandomHistories(t *testing.T) {
	for n := range *propertySeeds {
		seed := *propertyFirst + n
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			r := rand.New(rand.NewPCG(uint64(seed), 1))
			p := newProject(r)
			state := t.TempDir()
			seen := map[string]bool{}
			var history []project
			lost := false
			for edit := range edits {
				if edit > 0 {
					p = p.edited(r, history)
				}
				history = append(history, p)
				dir := t.TempDir() // each state of the project is another checkout
				p.write(t, dir)
				want := buildProject(t, dir, t.TempDir())
				if edit > 0 && r.IntN(2*edits) == 0 {
					lost = true
					if err := os.RemoveAll(filepath.Join(state, "snapshots")); err != nil {
						t.Fatal(err)
					}
				}
				got := buildProject(t, dir, state)
				if !maps.Equal(got.manifests, want.manifests) {
					t.Fatalf("edit %d: images differ from a build without cache:\n got %v\nwant %v\n%s", edit, got.manifests, want.manifests, p)
				}
				fresh := map[string]bool{}
				for _, inputs := range want.ran {
					if !seen[inputs] {
						fresh[inputs] = true
						seen[inputs] = true
					}
				}
				if ran := set(got.ran); !lost && (!maps.Equal(ran, fresh) || len(got.ran) != len(fresh)) {
					t.Fatalf("edit %d: %d steps ran, the least is %d\n%s\n%s", edit, len(got.ran), len(fresh), p, got.log)
				}
			}
		})
	}
}

func set(items []string) map[string]bool {
	out := map[string]bool{}
	for _, item := range items {
		out[item] = true
	}
	return out
}

// built is what came of building a project.
type built struct {
	manifests map[string]string // by tag
	ran       []string          // a digest of all that each step could see
	scripts   []string          // of these steps
	packs     int               // how many packed layers are remembered
	log       string
}

func buildProject(t *testing.T, dir, state string) built {
	t.Helper()
	return buildWith(t, dir, state, Options{})
}

// buildWith builds the project in dir with a fake runner.
func buildWith(t *testing.T, dir, state string, o Options) built {
	t.Helper()
	graph, err := layers.Load(filepath.Join(dir, "stacker.yaml"), layers.Options{})
	if err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	o.StateDir = state
	if o.OCIDir == "" {
		o.OCIDir = filepath.Join(t.TempDir(), "oci")
	}
	o.Sink = progress.NewPlain(&log, progress.Verbose)
	b, err := open(t.Context(), o, graph)
	if err != nil {
		t.Fatal(err)
	}
	defer b.close()
	fake := &fakeRunner{b: b}
	b.mayMount, b.runner = true, fake
	if err := b.build(t.Context()); err != nil {
		t.Fatalf("%v\n%s", err, &log)
	}
	out := built{manifests: map[string]string{}, ran: fake.ran, scripts: fake.scripts, log: log.String()}
	for l, o := range b.layers {
		if !l.BuildOnly {
			out.manifests[l.Name] = string(o.image.Manifest.Digest)
		}
	}
	packs, err := filepath.Glob(filepath.Join(state, "records/pack/*/*"))
	if err != nil {
		t.Fatal(err)
	}
	out.packs = len(packs)
	return out
}

// A fakeRunner stands for a container: it writes a function of everything that a
// step can see into the rootfs.
type fakeRunner struct {
	b       *Builder
	mu      sync.Mutex
	ran     []string
	scripts []string
}

func (f *fakeRunner) Run(_ context.Context, s sandbox.Step) error {
	script, err := os.ReadFile(filepath.Join(s.Mounts[0].Source, scriptName))
	if err != nil {
		return err
	}
	var seen bytes.Buffer
	fmt.Fprintln(&seen, s.Args, s.Env, s.Network, f.known(s.Env, strings.Contains(string(script), "label ")))
	hidden := map[string]bool{} // what is mounted on
	for _, point := range must(s.Mountpoints()) {
		hidden[filepath.Join(s.Rootfs, point.Path)] = true
	}
	if err := list(&seen, "rootfs", s.Rootfs, hidden); err != nil {
		return err
	}
	mounts := slices.SortedFunc(slices.Values(s.Mounts), func(a, b sandbox.Mount) int { return strings.Compare(a.Dest, b.Dest) })
	for _, m := range mounts {
		if err := list(&seen, m.Dest, m.Source, nil); err != nil {
			return err
		}
	}
	sum := sha256.Sum256(seen.Bytes())
	all := hex.EncodeToString(sum[:])
	f.mu.Lock()
	f.ran, f.scripts = append(f.ran, all), append(f.scripts, string(script))
	f.mu.Unlock()
	for line := range strings.Lines(string(script)) {
		if err := f.do(strings.Fields(line), s.Rootfs, all); err != nil {
			return err
		}
	}
	return nil
}

// known is what a step's layer is made of besides what the run sees: the layers
// of its base, and what was laid over or copied into it, though it may have been
// there already. For labels that is the layer itself.
func (f *fakeRunner) known(env []string, labels bool) string {
	var out strings.Builder
	for _, variable := range env {
		name, ok := strings.CutPrefix(variable, layers.LayerNameVariable+"=")
		if !ok {
			continue
		}
		l := f.b.graph.Layer(name)
		if labels {
			return string(f.b.layers[l].chain.ID())
		}
		if l.From.Type == layers.BaseBuilt {
			fmt.Fprintln(&out, f.b.layers[f.b.graph.Layer(l.From.Tag)].chain.ID())
		}
		for _, imp := range l.Imports {
			fmt.Fprintln(&out, imp.Dest)
		}
		for _, dir := range l.OverlayDirs {
			fmt.Fprintln(&out, dir.Dest)
		}
	}
	return out.String()
}

// do interprets one line of a script.
func (f *fakeRunner) do(words []string, root, seen string) error {
	switch words[0] {
	case "see": // a file that depends on everything
		return os.WriteFile(filepath.Join(root, words[1]), []byte(seen), 0o644)
	case "put": // a file that does not
		return os.WriteFile(filepath.Join(root, words[1]), []byte(words[2]), 0o644)
	case "label":
		if words[2] == "all" {
			words[2] = seen
		}
		return os.WriteFile(filepath.Join(root, labelsDir, words[1]), []byte(words[2]), 0o644)
	case "replace": // a folder by another of one file, which overlayfs makes opaque
		dir := filepath.Join(root, words[1])
		return errors.Join(os.RemoveAll(dir), os.Mkdir(dir, 0o755), os.WriteFile(filepath.Join(dir, words[2]), nil, 0o644))
	case "remove":
		return os.RemoveAll(filepath.Join(root, words[1]))
	}
	return nil
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// list writes down all that a step could see of a tree, its times included.
func list(w *bytes.Buffer, name, root string, hidden map[string]bool) error {
	return filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || hidden[path] {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(root, path)
		fmt.Fprintln(w, name, rel, info.Mode(), info.ModTime().UnixNano())
		if link, err := os.Readlink(path); err == nil {
			fmt.Fprintf(w, "%q\n", link)
		}
		value := make([]byte, 100)
		if n, err := unix.Lgetxattr(path, "user.x", value); err == nil {
			fmt.Fprintf(w, "%q\n", value[:n])
		}
		if info.Mode().IsRegular() {
			content, err := os.ReadFile(path)
			fmt.Fprintf(w, "%q\n", content)
			return err
		}
		return nil
	})
}

// A project is a stackerfile and the files that it names.
type project struct {
	layers []projectLayer
	files  map[string]projectFile // below src/
}

type projectFile struct {
	content string
	mode    fs.FileMode
}

type projectLayer struct {
	name      string
	from      string // "" is scratch
	imports   []string
	overlay   string
	bind      string
	labels    string // a script
	script    []string
	env       string
	cmd       string
	buildOnly bool
}

func newProject(r *rand.Rand) project {
	p := project{files: map[string]projectFile{}}
	for range 6 {
		p.files[randomFile(r)] = randomContent(r)
	}
	p.files["a/1"], p.files["b/1"] = randomContent(r), randomContent(r)
	for range 2 + r.IntN(4) {
		p.layers = append(p.layers, p.randomLayer(r))
	}
	return p
}

func randomFile(r *rand.Rand) string {
	return fmt.Sprintf("%c/%d", "ab"[r.IntN(2)], 1+r.IntN(4))
}

func randomContent(r *rand.Rand) projectFile {
	return projectFile{fmt.Sprint(r.IntN(3)), []fs.FileMode{0o644, 0o755}[r.IntN(2)]}
}

func (p project) randomLayer(r *rand.Rand) projectLayer {
	l := projectLayer{name: fmt.Sprintf("layer%d", len(p.layers)), buildOnly: r.IntN(4) == 0}
	if len(p.layers) > 0 && r.IntN(3) > 0 {
		l.from = p.layers[r.IntN(len(p.layers))].name
	}
	l.imports = p.randomImports(r)
	if r.IntN(3) == 0 {
		l.overlay = []string{"src/a", "src/b"}[r.IntN(2)]
	}
	l.script = randomScript(r)
	l.env = fmt.Sprint(r.IntN(2))
	l.bind, l.labels = randomBind(r), randomLabels(r)
	return l
}

func (p project) randomImports(r *rand.Rand) []string {
	choice := []string{"path: src/a", "path: src/b/1", "path: src/a/, dest: /into/", "path: src/b, dest: /b"}
	var out []string
	for range r.IntN(3) {
		i := r.IntN(len(choice))
		out = append(out, choice[i])
		choice = slices.Delete(choice, i, i+1)
	}
	if len(p.layers) > 0 && r.IntN(3) == 0 {
		out = append(out, "path: stacker://"+p.layers[r.IntN(len(p.layers))].name+"/")
	}
	return out
}

func randomBind(r *rand.Rand) string {
	return []string{"", "", "{source: src/a, dest: /bound, track: true}", "{source: src/b/1, dest: /bound/1, track: true}"}[r.IntN(4)]
}

func randomLabels(r *rand.Rand) string {
	return []string{"", "", "label constant 1", "label seen all"}[r.IntN(4)]
}

func randomScript(r *rand.Rand) []string {
	lines := []string{"see everything", "put constant 1", "put constant 2", "replace folder x", "replace folder y", "remove folder", "remove constant", "remove into", "nothing"}
	var out []string
	for range r.IntN(3) {
		out = append(out, lines[r.IntN(len(lines))])
	}
	return out
}

// edited returns the project after one random edit, or an earlier state of it.
func (p project) edited(r *rand.Rand, history []project) project {
	p.layers, p.files = slices.Clone(p.layers), maps.Clone(p.files)
	i := r.IntN(len(p.layers))
	l := &p.layers[i]
	switch r.IntN(11) {
	case 0:
		return history[r.IntN(len(history))]
	case 1:
		p.layers = append(p.layers, p.randomLayer(r))
	case 2:
		l.cmd = fmt.Sprint(r.IntN(100))
	case 3:
		l.script = randomScript(r)
	case 4:
		l.env = fmt.Sprint(r.IntN(3))
	case 5:
		l.buildOnly = !l.buildOnly
	case 6:
		l.imports = project{layers: p.layers[:i]}.randomImports(r)
	case 7:
		l.bind = randomBind(r)
	case 8:
		l.labels = randomLabels(r)
	case 9:
		if file := randomFile(r); file != "a/1" && file != "b/1" {
			delete(p.files, file)
		}
	default:
		p.files[randomFile(r)] = randomContent(r)
	}
	return p
}

func (p project) write(t *testing.T, dir string) {
	t.Helper()
	for name, file := range p.files {
		path := filepath.Join(dir, "src", name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(file.content), file.mode); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "stacker.yaml"), []byte(p.String()), 0o644); err != nil {
		t.Fatal(err)
	}
}

// String is the project's stackerfile.
func (p project) String() string {
	var w strings.Builder
	for _, l := range p.layers {
		fmt.Fprintf(&w, "%s:\n", l.name)
		if l.from == "" {
			fmt.Fprintf(&w, "  from: {type: scratch}\n")
		} else {
			fmt.Fprintf(&w, "  from: {type: built, tag: %s}\n", l.from)
		}
		for i, imp := range l.imports {
			if i == 0 {
				fmt.Fprintf(&w, "  imports:\n")
			}
			fmt.Fprintf(&w, "  - {%s}\n", imp)
		}
		if l.overlay != "" {
			fmt.Fprintf(&w, "  overlay_dirs: [{source: %s, dest: /over}]\n", l.overlay)
		}
		if len(l.script) > 0 {
			fmt.Fprintf(&w, "  run: |\n    #!fake\n    %s\n", strings.Join(l.script, "\n    "))
		}
		if l.bind != "" {
			fmt.Fprintf(&w, "  binds: [%s]\n", l.bind)
		}
		if l.labels != "" {
			fmt.Fprintf(&w, "  generate_labels: |\n    #!fake\n    %s\n", l.labels)
		}
		fmt.Fprintf(&w, "  build_env: {X: %q}\n  build_only: %v\n", l.env, l.buildOnly)
		if l.cmd != "" {
			fmt.Fprintf(&w, "  cmd: [%q]\n", l.cmd)
		}
	}
	return w.String()
}
