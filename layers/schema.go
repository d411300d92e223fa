package layers

import (
	"encoding/json"
	"fmt"
	"regexp"

	"gopkg.in/yaml.v3"
)

//go:generate go test -run ^TestSchema$ . -args -update

// A schema is a JSON schema, or a part of one.
type schema map[string]any

// Schema returns the JSON schema of stackerfiles, draft-07, for editors. It
// describes the text before substitution, so a placeholder may stand for any value,
// and shows for each directive its hover. Load may still find faults in what the
// schema accepts. An error means that an example is not YAML.
func Schema() ([]byte, error) {
	properties := schema{}
	for _, d := range directives {
		shown, err := d.shown()
		if err != nil {
			return nil, err
		}
		properties[d.name] = shown
	}
	text, err := json.MarshalIndent(schema{
		"$schema":              "http://json-schema.org/draft-07/schema#",
		"$id":                  "https://github.com/layerbuild/layerbuild/raw/main/docs/stackerfile.schema.json",
		"title":                "stackerfile",
		"description":          "Layers by their names, and config: see docs/stackerfile.md of layerbuild.",
		"type":                 "object",
		"properties":           schema{"config": nullable(configSchema())},
		"propertyNames":        nameSchema(layerName),
		"additionalProperties": object(properties, "from"),
		"definitions":          definitions,
	}, "", "  ")
	return append(text, '\n'), err
}

// shown returns the schema of a directive with its hover.
func (d directive) shown() (schema, error) {
	var example any
	if err := yaml.Unmarshal([]byte(hovers[d.name].example), &example); err != nil {
		return nil, fmt.Errorf("the example of %s: %w", d.name, err)
	}
	s := nullable(d.form)
	if requiresValue(d.name) {
		s = either(d.form)
	}
	s["description"], s["examples"] = hovers[d.name].text, []any{example}
	return s, nil
}

// definitions are what several directives and fields share.
var definitions = schema{
	"text": schema{
		"description": "Any scalar but null: 1.10 is the text that is written.",
		"anyOf":       []schema{{"type": "string"}, {"type": "number"}, {"type": "boolean"}},
	},
	"placeholder": schema{"type": "string", "pattern": `\$\{\{`},
	"truth":       either(schema{"type": "boolean"}, patterns("^([Yy]|[Yy][Ee][Ss]|[Oo][Nn]|[Nn]|[Nn][Oo]|[Oo][Ff][Ff])$")),
	"number":      either(schema{"type": "integer", "minimum": 0}, patterns("^[0-9]+$")),
	"dest":        nullable(patterns("^/", "^$")),
	"normalize":   nullable(choice(NormalizeGit, "none", "")),
}

func defined(name string) schema { return schema{"$ref": "#/definitions/" + name} }

func object(properties schema, required ...string) schema {
	s := schema{"type": "object", "properties": properties, "additionalProperties": false}
	if len(required) > 0 {
		s["required"] = required
	}
	return s
}

func either(forms ...schema) schema { return schema{"anyOf": forms} }

// nullable accepts what one of the forms accepts, and null.
func nullable(forms ...schema) schema { return either(append([]schema{{"type": "null"}}, forms...)...) }

func textSchema() schema { return defined("text") }

// patterns accepts a text of one of these forms, or with a placeholder.
func patterns(forms ...string) schema {
	var all []schema
	for _, form := range forms {
		all = append(all, schema{"type": "string", "pattern": form})
	}
	return either(append(all, defined("placeholder"))...)
}

// nameSchema accepts names of up to maxName bytes that match form.
func nameSchema(form *regexp.Regexp) schema {
	return either(schema{"type": "string", "pattern": form.String(), "maxLength": maxName}, defined("placeholder"))
}

// choice accepts one of these texts, or one with a placeholder.
func choice(texts ...string) schema {
	return either(schema{"type": "string", "enum": texts}, defined("placeholder"))
}

func truthSchema() schema { return defined("truth") }

func oneOrMore(form schema) schema {
	return either(form, schema{"type": "array", "items": form})
}

// mapSchema accepts a mapping of texts whose names have no character of forbidden.
func mapSchema(forbidden string) schema {
	s := schema{"type": "object", "additionalProperties": either(schema{"type": "null"}, textSchema())}
	if forbidden != "" {
		s["propertyNames"] = schema{"type": "string", "pattern": "^[^" + forbidden + "]+$"}
	}
	return s
}

func configSchema() schema {
	return object(schema{
		"prerequisites": nullable(oneOrMore(textSchema())),
		"normalize":     normalizeSchema(),
	})
}

func normalizeSchema() schema { return defined("normalize") }

func baseSchema() schema {
	needs := func(field string, types ...string) schema {
		of := func(field string, form any) schema { // names each field that it requires, as ajv's strict mode wants
			return schema{"type": "object", "properties": schema{field: form}, "required": []string{field}}
		}
		return schema{"if": of("type", schema{"type": "string", "enum": types}), "then": of(field, true)}
	}
	s := object(schema{
		"type":     choice(BaseDocker, BaseOCI, BaseTar, BaseScratch, BaseBuilt),
		"url":      nullable(textSchema()),
		"tag":      nullable(textSchema()),
		"insecure": nullable(truthSchema()),
	}, "type")
	s["allOf"] = []schema{needs("url", BaseDocker, BaseOCI, BaseTar), needs("tag", BaseBuilt)}
	return s
}

// destSchema accepts an absolute path in an image.
func destSchema() schema { return defined("dest") }

func importSchema() schema {
	fields := schema{
		"hash":        nullable(patterns("^[0-9a-fA-F]{64}$", "^$")),
		"dest":        destSchema(),
		"mount":       destSchema(),
		"mode":        nullable(schema{"type": "integer", "minimum": 0}, patterns(octalText.String())),
		"uid":         nullable(defined("number")),
		"gid":         nullable(defined("number")),
		"owner":       nullable(patterns(ownerText.String()), defined("number")),
		"normalize":   normalizeSchema(),
		"ignore":      nullable(oneOrMore(textSchema())),
		"from":        nullable(textSchema()),
		"exclude":     nullable(oneOrMore(textSchema())),
		"ignore_file": nullable(textSchema()),
		"parents":     nullable(truthSchema()),
	}
	kinds := map[string]schema{"path": textSchema(), "copy": oneOrMore(textSchema()), "text": textSchema(), "folder": patterns("^/")}
	forms := []schema{textSchema()}
	for _, kind := range importKinds {
		properties := schema{kind.field: kinds[kind.field]}
		for _, other := range kind.others {
			properties[other] = fields[other]
		}
		forms = append(forms, object(properties, kind.field))
	}
	return either(forms...)
}

func overlaySchema() schema {
	return object(schema{"source": textSchema(), "dest": destSchema()}, "source")
}

func bindSchema() schema {
	return either(textSchema(), object(schema{
		"source": textSchema(),
		"dest":   destSchema(),
		"track":  nullable(truthSchema()),
	}, "source"))
}

func secretSchema() schema {
	return either(nameSchema(secretID), object(schema{
		"id":       nameSchema(secretID),
		"target":   destSchema(),
		"env":      nullable(patterns(variableName.String(), "^$")),
		"required": nullable(truthSchema()),
	}, "id"))
}

func cacheSchema() schema {
	return either(patterns("^/"), object(schema{
		"path":    patterns("^/"),
		"id":      nullable(textSchema()),
		"sharing": nullable(choice(SharingShared, SharingPrivate, SharingLocked)),
	}, "path"))
}

func healthcheckSchema() schema {
	duration := nullable(patterns("^[0-9.]+(ns|us|µs|ms|s|m|h)([0-9.]+(ns|us|µs|ms|s|m|h))*$", "^0$"))
	return either(choice("none"), object(schema{
		"test":           oneOrMore(textSchema()),
		"interval":       duration,
		"timeout":        duration,
		"start_period":   duration,
		"start_interval": duration,
		"retries":        nullable(defined("number")),
	}, "test"))
}
