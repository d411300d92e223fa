package layers

import (
	"encoding/json"
	"regexp"
)

//go:generate go test -run ^TestSchema$ . -args -update

// A schema is a JSON schema, or a part of one.
type schema map[string]any

// Schema returns the JSON schema of stackerfiles, draft 2020-12, as editors want
// it: of the text before substitution, so that a placeholder may stand where a
// value is wanted. What it accepts may still have faults that Load finds.
func Schema() ([]byte, error) {
	properties := schema{}
	for _, d := range directives {
		properties[d.name] = d.form
		if !requiresValue(d.name) {
			properties[d.name] = either(schema{"type": "null"}, d.form)
		}
	}
	text, err := json.MarshalIndent(schema{
		"$schema":              "https://json-schema.org/draft/2020-12/schema",
		"title":                "stackerfile",
		"description":          "Layers by their names, and config: see docs/stackerfile.md of layerbuild.",
		"type":                 "object",
		"properties":           schema{"config": either(schema{"type": "null"}, configSchema())},
		"propertyNames":        nameSchema(layerName),
		"additionalProperties": object(properties, "from"),
	}, "", "  ")
	return append(text, '\n'), err
}

func object(properties schema, required ...string) schema {
	s := schema{"type": "object", "properties": properties, "additionalProperties": false}
	if len(required) > 0 {
		s["required"] = required
	}
	return s
}

func either(forms ...schema) schema { return schema{"anyOf": forms} }

// textSchema is any scalar but null: 1.10 is a text as it is written.
func textSchema() schema { return schema{"type": []string{"string", "number", "boolean"}} }

// patterns is a text of one of these forms, or with a placeholder.
func patterns(forms ...string) schema {
	var all []schema
	for _, form := range append(forms, `\$\{\{`) {
		all = append(all, schema{"type": "string", "pattern": form})
	}
	return either(all...)
}

// nameSchema is of names that have a form, and are not too long.
func nameSchema(form *regexp.Regexp) schema {
	return either(schema{"type": "string", "pattern": form.String(), "maxLength": maxName}, patterns())
}

// choice is one of these texts, or one with a placeholder.
func choice(texts ...string) schema {
	return either(schema{"enum": texts}, patterns())
}

func truthSchema() schema {
	return either(schema{"type": "boolean"}, patterns("^([Yy]|[Yy][Ee][Ss]|[Oo][Nn]|[Nn]|[Nn][Oo]|[Oo][Ff][Ff])$"))
}

func numberSchema() schema {
	return either(schema{"type": "integer", "minimum": 0}, patterns("^[0-9]+$"))
}

func oneOrMore(form schema) schema {
	return either(form, schema{"type": "array", "items": form})
}

// mapSchema is a mapping of texts whose names have no character of forbidden.
func mapSchema(forbidden string) schema {
	s := schema{"type": "object", "additionalProperties": textSchema()}
	if forbidden != "" {
		s["propertyNames"] = schema{"pattern": "^[^" + forbidden + "]+$"}
	}
	return s
}

func configSchema() schema {
	return object(schema{
		"prerequisites": either(schema{"type": "null"}, oneOrMore(textSchema())),
		"normalize":     normalizeSchema(),
	})
}

func normalizeSchema() schema {
	return either(schema{"type": "null"}, choice(NormalizeGit, "none", ""))
}

func baseSchema() schema {
	needs := func(field string, types ...string) schema {
		return schema{
			"if":   schema{"properties": schema{"type": schema{"enum": types}}},
			"then": schema{"required": []string{field}},
		}
	}
	s := object(schema{
		"type":     choice(BaseDocker, BaseOCI, BaseTar, BaseScratch, BaseBuilt),
		"url":      either(schema{"type": "null"}, textSchema()),
		"tag":      either(schema{"type": "null"}, textSchema()),
		"insecure": either(schema{"type": "null"}, truthSchema()),
	}, "type")
	s["allOf"] = []schema{needs("url", BaseDocker, BaseOCI, BaseTar), needs("tag", BaseBuilt)}
	return s
}

// destSchema is an absolute path in an image.
func destSchema() schema { return either(schema{"type": "null"}, patterns("^/", "^$")) }

func importSchema() schema {
	null := schema{"type": "null"}
	return either(textSchema(), object(schema{
		"path":      textSchema(),
		"hash":      either(null, patterns("^[0-9a-fA-F]{64}$", "^$")),
		"dest":      destSchema(),
		"mode":      either(null, schema{"type": "integer", "minimum": 0}, patterns(octalText.String())),
		"uid":       either(null, numberSchema()),
		"gid":       either(null, numberSchema()),
		"normalize": normalizeSchema(),
		"ignore":    either(null, oneOrMore(textSchema())),
	}, "path"))
}

func overlaySchema() schema {
	return object(schema{"source": textSchema(), "dest": destSchema()}, "source")
}

func bindSchema() schema {
	return either(textSchema(), object(schema{
		"source": textSchema(),
		"dest":   destSchema(),
		"track":  either(schema{"type": "null"}, truthSchema()),
	}, "source"))
}

func secretSchema() schema {
	null := schema{"type": "null"}
	return either(nameSchema(secretID), object(schema{
		"id":       nameSchema(secretID),
		"target":   destSchema(),
		"env":      either(null, patterns(variableName.String(), "^$")),
		"required": either(null, truthSchema()),
	}, "id"))
}

func cacheSchema() schema {
	null := schema{"type": "null"}
	return either(patterns("^/"), object(schema{
		"path":    patterns("^/"),
		"id":      either(null, textSchema()),
		"sharing": either(null, choice(SharingShared, SharingPrivate, SharingLocked)),
	}, "path"))
}
