package gc

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/docker/go-units"
)

// A Filter selects items, as BuildKit's do.
type Filter struct {
	key, op, value string
	match          *regexp.Regexp // for ~=
	before         time.Duration  // for until
}

// filterKeys holds the keys of filters. Those that are true or false need no value.
var filterKeys = map[string]bool{
	"id": false, "parent": false, "description": false, "type": false, "until": false,
	"inuse": true, "mutable": true, "immutable": true, "shared": true, "private": true,
}

// ParseFilters reads filters: KEY, KEY=VALUE, KEY==VALUE, KEY!=VALUE or KEY~=EXPRESSION,
// several with commas between them. An item must match all.
func ParseFilters(texts []string) ([]Filter, error) {
	var filters []Filter
	for _, text := range texts {
		for one := range strings.SplitSeq(text, ",") {
			f, err := parseFilter(one)
			if err != nil {
				return nil, fmt.Errorf("filter %q: %w", one, err)
			}
			filters = append(filters, f)
		}
	}
	return filters, nil
}

func parseFilter(text string) (f Filter, err error) {
	at := strings.IndexAny(text, "=!~")
	if at < 0 {
		f.key, f.op, f.value = text, "==", "true"
	} else {
		f.key = text[:at]
		f.op, f.value = "==", text[at+1:]
		switch rest := text[at:]; {
		case strings.HasPrefix(rest, "=="), strings.HasPrefix(rest, "!="), strings.HasPrefix(rest, "~="):
			f.op, f.value = rest[:2], rest[2:]
		case rest[0] != '=':
			return f, fmt.Errorf("after %q should come =, ==, != or ~=", f.key)
		}
	}
	flag, known := filterKeys[f.key]
	switch {
	case !known:
		return f, fmt.Errorf("there is no %q to filter by: id, parent, description, type, inuse, mutable, immutable, shared, private and until are", f.key)
	case at < 0 && !flag:
		return f, fmt.Errorf("%s needs a value: %s=VALUE", f.key, f.key)
	case flag:
		if _, err = strconv.ParseBool(f.value); err != nil {
			return f, fmt.Errorf("%s is true or false, not %q", f.key, f.value)
		}
	case f.key == "type" && f.op != "~=" && !slices.Contains(Kinds(), f.value):
		return f, fmt.Errorf("there is no type %q: there are %s", f.value, strings.Join(Kinds(), ", "))
	case f.key == "until":
		f.before, err = parseAge(f.value)
		return f, err
	}
	if f.op == "~=" {
		f.match, err = regexp.Compile(f.value)
	}
	return f, err
}

// parseAge reads a duration, also in days, or a time, which gives the duration
// since then.
func parseAge(text string) (time.Duration, error) {
	for _, layout := range []string{time.RFC3339, time.DateTime, time.DateOnly} {
		if t, err := time.ParseInLocation(layout, text, time.Local); err == nil {
			return time.Since(t), nil
		}
	}
	return ParseDuration(text)
}

// ParseDuration reads a duration as Go writes it, or a number of days: 7d.
func ParseDuration(text string) (time.Duration, error) {
	if days, ok := strings.CutSuffix(text, "d"); ok {
		if n, err := strconv.ParseFloat(days, 64); err == nil && n >= 0 {
			return time.Duration(n * 24 * float64(time.Hour)), nil
		}
	}
	d, err := time.ParseDuration(text)
	if err != nil || d < 0 {
		return 0, fmt.Errorf("%q is no duration: write 90m, 36h or 7d", text)
	}
	return d, nil
}

// ParseSize reads a number of bytes, as 10GB or 512MiB, or a share of the disk, as 10%.
func ParseSize(text string) (Size, error) {
	if share, ok := strings.CutSuffix(text, "%"); ok {
		n, err := strconv.Atoi(share)
		if err != nil || n < 0 || n > 100 {
			return Size{}, fmt.Errorf("%q is no share of a disk: write 0%% to 100%%", text)
		}
		return Size{Percent: n}, nil
	}
	parse := units.FromHumanSize
	if strings.HasSuffix(strings.ToLower(text), "ib") {
		parse = units.RAMInBytes
	}
	n, err := parse(text)
	if err != nil || n < 0 {
		return Size{}, fmt.Errorf("%q is no size: write 10GB, 512MiB or 10%%", text)
	}
	return Size{Bytes: n}, nil
}

// asksInUse reports whether the filter depends on what processes use.
func (f Filter) asksInUse() bool { return f.key == "inuse" }

// matches reports whether an item matches all filters.
func matches(filters []Filter, i *Item, now time.Time) bool {
	for _, f := range filters {
		if !f.matches(i, now) {
			return false
		}
	}
	return true
}

func (f Filter) matches(i *Item, now time.Time) bool {
	if f.key == "until" {
		return now.Sub(i.LastUsed) >= f.before
	}
	value := i.field(f.key)
	switch f.op {
	case "~=":
		return f.match.MatchString(value)
	case "!=":
		return !f.equal(value)
	default:
		return f.equal(value)
	}
}

// equal compares a value. Of a digest its beginning is enough, with or without sha256.
func (f Filter) equal(value string) bool {
	if filterKeys[f.key] {
		want, _ := strconv.ParseBool(f.value)
		return strconv.FormatBool(want) == value
	}
	if (f.key == "id" || f.key == "parent") && len(f.value) >= 6 {
		return strings.HasPrefix(value, f.value) || strings.HasPrefix(strings.TrimPrefix(value, "sha256:"), f.value)
	}
	return value == f.value
}

func (i *Item) field(key string) string {
	switch key {
	case "id":
		return i.ID
	case "parent":
		return i.Parent
	case "description":
		return i.Description
	case "type":
		return i.Type
	case "inuse":
		return strconv.FormatBool(i.InUse)
	case "mutable":
		return strconv.FormatBool(i.Mut)
	case "immutable":
		return strconv.FormatBool(!i.Mut)
	case "shared":
		return strconv.FormatBool(i.Shared)
	default:
		return strconv.FormatBool(!i.Shared) // private
	}
}
