package layers

import (
	"errors"
	"maps"
	"regexp"
	"regexp/syntax"
	"slices"
	"strings"
)

// LayerNameVariable names the variable in which each run finds its layer's name.
const LayerNameVariable = "STACKER_LAYER_NAME"

// An EnvVar is a variable of a run's environment.
type EnvVar struct {
	Name, Value string
	// Keyed tells that the value is an input of the step. That of a proxy variable
	// of this machine is not: it is about the way to the network, not about what is
	// there, and differs between machines.
	Keyed bool
}

func (v EnvVar) String() string { return v.Name + "=" + v.Value }

// BuildEnvironment returns the variables, sorted by name, that the layer's run and
// generate_labels see of environ (K=V each, the last of a name counts): those that
// build_env_passthrough lets through, or proxy variables when it is missing; over these, with build_env_from_base, those of base, the environment of
// the image that the layer starts from; over these build_env; over these
// STACKER_LAYER_NAME. A variable that a secret sets is not among them.
//
// It panics when l.BuildEnvPassthrough has an invalid expression, which Load refuses.
func (l *Layer) BuildEnvironment(environ, base []string) []EnvVar {
	vars := map[string]EnvVar{}
	passes := l.passes()
	for _, entry := range environ {
		if name, value, ok := strings.Cut(entry, "="); ok && passes(name) {
			vars[name] = EnvVar{name, value, !isProxy(name)}
		}
	}
	for _, entry := range base {
		if name, value, ok := strings.Cut(entry, "="); ok && l.BuildEnvFromBase {
			vars[name] = EnvVar{name, value, true}
		}
	}
	for name, value := range l.BuildEnv {
		vars[name] = EnvVar{name, value, true}
	}
	for _, s := range l.Secrets {
		delete(vars, s.Env)
	}
	vars[LayerNameVariable] = EnvVar{LayerNameVariable, l.Name, true}
	sorted := make([]EnvVar, 0, len(vars))
	for _, name := range slices.Sorted(maps.Keys(vars)) {
		sorted = append(sorted, vars[name])
	}
	return sorted
}

// Lets names the directive that lets a variable into the build environment; "" is
// none, of those that are there anyway.
func (l *Layer) Lets(name string) string {
	_, own := l.BuildEnv[name]
	switch {
	case name == LayerNameVariable:
		return ""
	case own:
		return "build_env"
	case len(l.BuildEnvPassthrough) > 0:
		return "build_env_passthrough"
	}
	return ""
}

// passes returns what tells whether a variable of that name is let through.
func (l *Layer) passes() func(name string) bool {
	if len(l.BuildEnvPassthrough) == 0 {
		return isProxy
	}
	var patterns []*regexp.Regexp
	for _, pattern := range l.BuildEnvPassthrough {
		re, err := wholeName(pattern)
		if err != nil {
			panic(err)
		}
		patterns = append(patterns, re)
	}
	return func(name string) bool {
		return slices.ContainsFunc(patterns, func(re *regexp.Regexp) bool { return re.MatchString(name) })
	}
}

// isProxy tells whether name is, in either case, one of the variables by which
// programs find their proxies.
func isProxy(name string) bool {
	switch name {
	case "ftp_proxy", "http_proxy", "https_proxy", "no_proxy", "FTP_PROXY", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY":
		return true
	}
	return false
}

// wholeName compiles a pattern that a variable's name must match from end to end.
func wholeName(pattern string) (*regexp.Regexp, error) {
	if _, err := regexp.Compile(pattern); err != nil {
		return nil, err // before ) could close the group below
	}
	return regexp.Compile(`^(?:` + pattern + `)$`)
}

// patternFault is what is wrong with a pattern, without what "error parsing regexp"
// would repeat.
func patternFault(err error) string {
	var fault *syntax.Error
	if errors.As(err, &fault) {
		return string(fault.Code) + " in " + quote(fault.Expr)
	}
	return err.Error()
}
