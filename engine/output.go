package engine

import (
	"encoding/csv"
	"fmt"
	"strings"
)

// An Output says where the images of a build go. The zero one is the OCI layout of
// Options.
type Output struct {
	Type string // one of the Output constants, or ""
	Dest string // OutputOCI: the layout's folder
}

// Types of an Output, as docker buildx has them.
const (
	OutputOCI       = "oci"       // an OCI layout
	OutputCacheOnly = "cacheonly" // nowhere: they are only built
)

// ParseOutput reads the text of --output: fields as docker buildx has them.
func ParseOutput(text string) (Output, error) {
	var o Output
	fields, err := csv.NewReader(strings.NewReader(text)).Read()
	if err != nil {
		return o, fmt.Errorf("%q should be fields such as type=oci,dest=DIR", text)
	}
	for _, field := range fields {
		name, value, ok := strings.Cut(field, "=")
		switch {
		case !ok || value == "":
			return o, fmt.Errorf("%q should be a field such as type=oci", field)
		case name == "type":
			o.Type = value
		case name == "dest":
			o.Dest = value
		default:
			return o, fmt.Errorf("unknown field %q: there are dest, type", name)
		}
	}
	switch {
	case o.Type == OutputOCI && o.Dest == "":
		return o, fmt.Errorf("type=oci needs dest=")
	case o.Type == OutputCacheOnly && o.Dest != "":
		return o, fmt.Errorf("dest means nothing for type=cacheonly")
	case o.Type != OutputOCI && o.Type != OutputCacheOnly:
		return o, fmt.Errorf("type=%s should be oci or cacheonly", o.Type)
	}
	return o, nil
}
