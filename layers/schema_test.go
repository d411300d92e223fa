package layers

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"gopkg.in/yaml.v3"
)

var update = flag.Bool("update", false, "write docs/stackerfile.schema.json")

// The schema in docs is that of the directives.
func TestSchema(t *testing.T) {
	const file = "../docs/stackerfile.schema.json"
	want, err := Schema()
	if err != nil {
		t.Fatal(err)
	}
	if *update {
		if err := os.WriteFile(file, want, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(file)
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("%s is not current (%v): run `go generate ./layers`", file, err)
	}
}

func compileSchema(t *testing.T) *jsonschema.Schema {
	t.Helper()
	text, err := Schema()
	if err != nil {
		t.Fatal(err)
	}
	document, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	compiler := jsonschema.NewCompiler()
	if err := compiler.AddResource("stackerfile.json", document); err != nil {
		t.Fatal(err)
	}
	compiled, err := compiler.Compile("stackerfile.json")
	if err != nil {
		t.Fatal(err)
	}
	return compiled
}

// Every stackerfile that the tests build and the documents show has the schema.
func TestSchemaAcceptsStackerfiles(t *testing.T) {
	compiled := compileSchema(t)
	checked := 0
	err := filepath.WalkDir("../testdata/stackerfiles", func(path string, entry os.DirEntry, err error) error {
		if err != nil || entry.IsDir() || !strings.HasSuffix(path, ".yaml") || strings.Contains(path, "/invalid/") {
			return err
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		var document any
		if err := yaml.Unmarshal(text, &document); err != nil {
			return err
		}
		checked++
		if err := compiled.Validate(document); err != nil {
			t.Errorf("%s: %v", path, err)
		}
		return nil
	})
	if err != nil || checked < 9 {
		t.Fatalf("%d stackerfiles, %v", checked, err)
	}
}

// What the schema and Load say of small stackerfiles is the same.
func TestSchemaAgreesWithLoad(t *testing.T) {
	compiled := compileSchema(t)
	for directive, forms := range map[string]map[string]bool{
		"from":                  {"{type: scratch}": true, "{type: built}": false, "{type: scratchy}": false, "{url: x}": false, "{type: scratch, colour: x}": false, "": false, "scratch": false, "{type: tar, url: a.tar}": true, "{type: docker}": false},
		"imports":               {"a": true, "[a, {path: b}]": true, "{path: a, mode: 0644}": true, "{path: a, mode: x}": false, "{dest: /a}": false, "{path: a, dest: b}": false, "{path: a, hash: abc}": false, "{path: a, uid: -1}": false, "{path: a, uid: 1}": true, "": true, "[[a]]": false},
		"overlay_dirs":          {"[{source: a}]": true, "[{source: a, dest: b}]": false, "[a]": false, "{source: a}": true},
		"run":                   {"a": true, "[a, b]": true, "{a: b}": false, "1": true, "[[a]]": false},
		"build_env":             {"{A: 1.10}": true, "{A: [b]}": false, "{A=B: c}": false, "[a]": false},
		"build_env_passthrough": {"[a.*]": true, "{a: b}": false},
		"binds":                 {"[a]": true, "[a -> /b]": true, "[{source: a, dest: /b, track: true}]": true, "[{dest: /b}]": false, "[{source: a, dest: b}]": false, "[{source: a, track: 7}]": false},
		"secrets":               {"a": true, "[a, {id: b}]": true, "{id: a, env: A, target: /a, required: no}": true, "{env: A}": false, "{id: a b}": false, "{id: a, target: b}": false, "{id: a, env: 1}": false},
		"caches":                {"/a": true, "[/a, {path: /b, id: 1, sharing: locked}]": true, "a": false, "{id: a}": false, "{path: /a, sharing: x}": false},
		"network":               {"host": true, "none": true, "bridge": false},
		"labels":                {"{a: b}": true, "a": false},
		"volumes":               {"a": true, "[a]": true, "{a: b}": false},
		"cmd":                   {"a b": true, "[a, b]": true, "{a: b}": false},
		"build_env_from_base":   {"true": true, "maybe": false, "": true},
		"build_user":            {"app": true, "'1000:100'": true, "[a]": false},
		"tmpfs":                 {"/a": true, "[/a, /b]": true, "a": false},
		"expose":                {"80": true, "[80/tcp, 53/UDP, 8000-8010]": true},
		"stop_signal":           {"SIGRTMIN+3": true, "9": true, "[9]": false},
		"healthcheck":           {"none": true, "{test: curl -f x, interval: 1m30s, retries: 3}": true, "{test: [CMD, x]}": true, "{interval: 1s}": false, "{test: a, interval: soon}": false, "{test: a, retries: -1}": false, "some": false, "{test: a, colour: b}": false},
		"shell":                 {"[/bin/bash, -c]": true, "{a: b}": false},
		"on_build":              {"RUN a": true, "[RUN a, COPY . .]": true, "{a: b}": false},
		"working_dir":           {"/a": true, "[a]": false},
		"os":                    {"linux": true, "": false},
		"build_only":            {"true": true, "yes": true, "OFF": true, "1": false, "maybe": false},
		"bom":                   {"{generate: true}": true, "true": false},
		"colour":                {"blue": false},
	} {
		for form, valid := range forms {
			text := "app:\n  " + directive + ": " + form + "\n"
			if directive != "from" {
				text += "  from: {type: scratch}\n"
			}
			file := filepath.Join(t.TempDir(), "stacker.yaml")
			if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
			var document any
			if err := yaml.Unmarshal([]byte(text), &document); err != nil {
				t.Fatal(err)
			}
			if err := compiled.Validate(document); (err == nil) != valid {
				t.Errorf("the schema says of\n%s%v", text, err)
			}
			if _, err := Load(file, Options{}); (err == nil) != valid {
				t.Errorf("Load says of\n%s%v", text, err)
			}
		}
	}
}

// Every directive has a hover, whose example both the schema and Load accept.
func TestHovers(t *testing.T) {
	compiled := compileSchema(t)
	for _, d := range directives {
		if hovers[d.name].text == "" {
			t.Errorf("%s has no hover", d.name)
		}
		text := "x:\n  from: {type: scratch}\n  " + d.name + ": " + hovers[d.name].example
		if d.name == "from" {
			text = "x:\n  from: " + hovers[d.name].example
		}
		var document any
		if err := yaml.Unmarshal([]byte(text), &document); err != nil {
			t.Fatal(err)
		}
		if err := compiled.Validate(document); err != nil {
			t.Errorf("the example of %s: %v", d.name, err)
		}
		write(t, map[string]string{"stacker.yaml": text})
		if _, err := Load("stacker.yaml", Options{}); err != nil {
			t.Errorf("the example of %s: %v", d.name, err)
		}
	}
	if len(hovers) != len(directives) {
		t.Errorf("there are %d hovers for %d directives", len(hovers), len(directives))
	}
}
