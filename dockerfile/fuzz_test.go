package dockerfile

import (
	"strings"
	"testing"
	"testing/fstest"

	"gopkg.in/yaml.v3"
)

// Whatever BuildKit's parser takes becomes YAML: a mapping of layers, each with
// what it starts from.
func FuzzConvert(f *testing.F) {
	for _, seed := range []string{
		"FROM scratch",
		"ARG A=1\nFROM a:$A AS b\nARG A\nENV P=$PATH:/x Q=\"$A b\"\nRUN echo $A\nCOPY --from=b --chown=u:g --chmod=755 /a /b/\nFROM b\nCOPY --from=0 / /\nCOPY --from=img:1 /a b c/\n",
		"FROM --platform=linux/arm64 a\nRUN <<A cat <<B\na\nA\nb\nB\nCOPY <<F /f\nx\nF\nSHELL [\"bash\",\"-c\"]\nRUN a\nUSER 1:2\nRUN [\"a\",\"b c\"]\nCMD a\nONBUILD RUN a\n",
		"FROM a AS b\nFROM c\nCOPY b/* /d/\nCOPY --from=b /x/*.so y\nCOPY b/** /p\nADD b /e\nRUN --mount=type=bind,target=/m --mount=type=bind,from=b,source=/s,target=/t --mount=type=cache,target=/c --network=none x\nRUN y",
		"FROM a\nWORKDIR ..\nADD http://h/a.tar /\nADD a.tgz b\nADD git@h:r.git c\nCOPY * .\nVOLUME a b\nSTOPSIGNAL 9\nMAINTAINER m\nEXPOSE 1\nLABEL a=b 'c d'=\"e\nf\"\n",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		result, err := Convert(strings.NewReader(text), Options{
			Name: "app",
			File: "Dockerfile",
			Files: fstest.MapFS{
				"a": {}, "b/c": {}, "b/d/e.tar": {}, "x.tar.gz": {},
				".dockerignore": {Data: []byte("b/d\n!b/d/e.tar\n**/x*\n")},
			},
		})
		if err != nil {
			return
		}
		var layers map[string]struct {
			From map[string]string `yaml:"from"`
		}
		if err := yaml.Unmarshal(result.Stackerfile, &layers); err != nil {
			t.Fatalf("%v in\n%s", err, result.Stackerfile)
		}
		for name, l := range layers {
			if l.From["type"] == "" {
				t.Errorf("layer %q starts from nothing in\n%s", name, result.Stackerfile)
			}
		}
	})
}
