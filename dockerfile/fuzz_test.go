package dockerfile

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/moby/buildkit/frontend/dockerfile/shell"

	"github.com/layerbuild/layerbuild/layers"
)

// unknownImage knows no image.
func unknownImage(string, string, string) (*Image, error) { return nil, errors.New("no registry here") }

// Whatever BuildKit's parser takes becomes a stackerfile that is valid.
func FuzzConvert(f *testing.F) {
	for _, seed := range []string{
		"FROM scratch",
		"ARG A=1\nFROM a:$A AS b\nARG A\nENV P=$PATH:/x Q=\"$A b\"\nRUN echo $A\nCOPY --from=b --chown=u:g --chmod=755 /a /b/\nFROM b\nCOPY --from=0 / /\nCOPY --from=img:1 /a b c/\n",
		"FROM --platform=linux/arm64 a\nRUN <<A cat <<B\na\nA\nb\nB\nCOPY <<F /f\nx\nF\nSHELL [\"bash\",\"-c\"]\nRUN a\nUSER 1:2\nRUN [\"a\",\"b c\"]\nCMD a\nONBUILD RUN a\n",
		"FROM a AS b\nFROM c\nCOPY b/* /d/\nCOPY --from=b /x/*.so y\nCOPY b/** /p\nADD b /e\nRUN --mount=type=bind,target=/m --mount=type=bind,from=b,source=/s,target=/t --mount=type=cache,target=/c --network=none x\nRUN y",
		"FROM a\nWORKDIR ..\nADD http://h/a.tar /\nADD a.tgz b\nADD git@h:r.git c\nCOPY * .\nVOLUME a b\nSTOPSIGNAL 9\nMAINTAINER m\nEXPOSE 1\nLABEL a=b 'c d'=\"e\nf\"\n",
		"ARG A\nFROM ${A:-x}\nARG U=/srv/app\nWORKDIR ${U}\nUSER ${U#/srv/}\nCOPY --parents --exclude=*.x a ${U}/\nEXPOSE $U 80-81/udp\nHEALTHCHECK --interval=5s CMD a\nENV X=${A:?no}\n",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		result, err := Convert(strings.NewReader(text), Options{
			Name: "app", File: "Dockerfile", Context: ".", Image: unknownImage,
			Files: fstest.MapFS{"a": {}, "b/c": {}, "b/d/e.tar": {}, "x.tar.gz": {}, ".dockerignore": {Data: []byte("b/d\n!b/d/e.tar\n**/x*\n")}},
		})
		if err != nil {
			return
		}
		file := filepath.Join(t.TempDir(), "stacker.yaml")
		if err := os.WriteFile(file, result.Stackerfile, 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := layers.Load(file, layers.Options{}); err != nil && !strings.Contains(err.Error(), "has no value: give one") {
			t.Fatalf("%v in\n%s", err, result.Stackerfile)
		}
	})
}

// A word becomes a text that the values of a build make the word that BuildKit makes of it
// with these values, or it is fixed, and then it is what they are by default.
func FuzzWord(f *testing.F) {
	for _, seed := range []string{
		"plain", "$A", "${A}", "a${A}b$B", "'$A' \"$A\" \\$A", "${A:-d}", "${A-d}", "${E:-d}", "${E-d}$E", "${U:-d}", "${U-d}", "${A:+y}", "${E:+y}",
		"${A#/s}", "${A##*/}", "${A%/*}", "${A/p/q}", "${A//p/q}", "${F}", "$F/${U}", "${U:?no}", "${A:?no}", "${{A}}", "$", "${", "$1 $$ $?", "${N:-${A}}",
		"/srv/${A}/../x", "~$A", "\"${A:-x y}\"", "é$A", "<<$A", "$AB", "${A}B", "\uE000", "${U:-a'b}", "${A:-$B}",
	} {
		f.Add(seed, "/other", "")
		f.Add(seed, "", "new")
	}
	f.Fuzz(func(t *testing.T, word, a, u string) {
		if strings.Contains(a+u, "${{") || strings.Contains(a+u, "}}") {
			return // a value is no placeholder
		}
		v := variables{
			"A": {text: placeholder("ARG_A", "/srv/app"), set: true, arg: true},
			"B": {text: placeholder("ARG_B", placeholder("ARG_A", "/srv/app")+"/b"), set: true, arg: true},
			"E": {text: placeholder("ARG_E", ""), set: true, arg: true},
			"F": {text: literal("fixed ${{x"), set: true},
			"U": {text: placeholder("ARG_U", ""), arg: true},
		}
		r := newResolver('\\')
		text, err := r.word(word, v)
		want, _, wantErr := shell.NewLex('\\').ProcessWord(word, environment(map[string]string{"A": "/srv/app", "B": "/srv/app/b", "E": "", "F": "fixed ${{x"}))
		if err != nil {
			if wantErr == nil {
				t.Fatalf("%q: %v", word, err)
			}
			return
		}
		if wantErr != nil {
			if !required.MatchString(word) {
				t.Fatalf("%q is %q, which BuildKit refuses: %v", word, text, wantErr)
			}
			return
		}
		if got := value(text); got != want {
			t.Fatalf("%q is %q by default, want %q", word, got, want)
		}
		if len(r.fixed) > 0 || a == "" || strings.ContainsRune(word, markOpen) {
			return
		}
		given := map[string]string{"A": a, "B": a + "/b", "E": "", "F": "fixed ${{x"}
		give := map[string]string{"ARG_A": a}
		if u != "" {
			given["U"], give["ARG_U"] = u, u
		}
		want, _, err = shell.NewLex('\\').ProcessWord(word, environment(given))
		if got := substitute(text, give); err == nil && got != want {
			t.Errorf("%q is %q, with A=%q U=%q %q, want %q", word, text, a, u, got, want)
		}
	})
}

func environment(values map[string]string) shell.EnvGetter {
	var env []string
	for name, value := range values {
		env = append(env, name+"="+value)
	}
	slices.Sort(env)
	return shell.EnvsFromSlice(env)
}

// substitute is what package layers does with the placeholders of a text.
func substitute(text string, given map[string]string) string {
	var out strings.Builder
	eachPart(text, func(part string, isPlaceholder bool) {
		if isPlaceholder {
			name, def, _ := cutPlaceholder(part)
			if value, ok := given[name]; ok {
				part = value
			} else {
				part = substitute(def, given)
			}
		}
		out.WriteString(part)
	})
	return out.String()
}
