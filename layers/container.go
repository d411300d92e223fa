package layers

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"

	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	"gopkg.in/yaml.v3"
)

// portText is one port or a range of ports, and a protocol.
var portText = regexp.MustCompile(`^([0-9]{1,5})(-([0-9]{1,5}))?(/([A-Za-z]+))?$`)

// expose reads ports, and spells each out with its protocol.
func (p *parser) expose(l *Layer, n *yaml.Node) {
	for _, item := range items(n) {
		text := p.nonEmpty(item, "expose")
		ports, err := Ports(text)
		if err != nil && text != "" {
			p.fail(item, "expose %s: %v", quote(text), err)
		}
		l.Expose = append(l.Expose, ports...)
	}
}

// Ports returns the ports of a text such as 80, 53/udp or 8000-8010/tcp, each with its
// protocol: tcp unless the text names one.
func Ports(text string) (ports []string, err error) {
	const form = "write a port from 0 to 65535 or a range of them, and /tcp, /udp or /sctp"
	m := portText.FindStringSubmatch(text)
	if m == nil {
		return nil, fmt.Errorf("%s", form)
	}
	protocol := strings.ToLower(m[5])
	switch protocol {
	case "":
		protocol = "tcp"
	case "tcp", "udp", "sctp":
	default:
		return nil, fmt.Errorf("%s", form)
	}
	first, _ := strconv.Atoi(m[1])
	last := first
	if m[3] != "" {
		last, _ = strconv.Atoi(m[3])
	}
	if first > last || last > 65535 {
		return nil, fmt.Errorf("%s", form)
	}
	for port := first; port <= last; port++ {
		ports = append(ports, strconv.Itoa(port)+"/"+protocol)
	}
	return ports, nil
}

// healthcheck reads none, or a mapping with the fields that compose files have.
func (p *parser) healthcheck(l *Layer, n *yaml.Node) {
	if n.Kind == yaml.ScalarNode && n.Value == "none" {
		l.Healthcheck = &dockerspec.HealthcheckConfig{Test: []string{"NONE"}}
		return
	}
	if n.Kind != yaml.MappingNode {
		p.wrong(n, "healthcheck", "none, or a mapping with test")
		return
	}
	h := &dockerspec.HealthcheckConfig{}
	fields := p.fields(n, "healthcheck", "test", "interval", "timeout", "start_period", "start_interval", "retries")
	for name, value := range map[string]*time.Duration{
		"interval": &h.Interval, "timeout": &h.Timeout, "start_period": &h.StartPeriod, "start_interval": &h.StartInterval,
	} {
		if v := fields[name]; v != nil {
			*value = p.duration(v, name)
		}
	}
	if v := fields["retries"]; v != nil {
		if number := p.id(v, "retries"); number != nil {
			h.Retries = *number
		}
	}
	if v := fields["test"]; v != nil {
		h.Test = p.test(v)
	} else {
		p.fail(n, "healthcheck has no test: give a command, or write healthcheck: none")
	}
	l.Healthcheck = h
}

// test returns a command as a healthcheck has it: a text is the shell's.
func (p *parser) test(n *yaml.Node) []string {
	if n.Kind != yaml.SequenceNode {
		return []string{"CMD-SHELL", p.nonEmpty(n, "test")}
	}
	words := p.texts(n, "test")
	switch {
	case len(words) == 0:
		p.fail(n, "test is empty: give a command")
	case words[0] == "CMD-SHELL" && len(words) != 2:
		p.fail(n, "test has CMD-SHELL and %d texts: give one", len(words)-1)
	case words[0] != "CMD" && words[0] != "CMD-SHELL":
		words = append([]string{"CMD"}, words...)
	}
	return words
}

// duration reads a time as Go writes it. Docker takes no time below a millisecond.
func (p *parser) duration(n *yaml.Node, what string) time.Duration {
	text := p.text(n, what)
	d, err := time.ParseDuration(text)
	if err != nil || d < 0 || d > 0 && d < time.Millisecond {
		p.fail(n, "%s must be a time of at least 1ms, such as 30s or 1m30s, not %s", what, quote(text))
	}
	return d
}

func (p *parser) onBuild(l *Layer, n *yaml.Node) {
	for _, item := range items(n) {
		l.OnBuild = append(l.OnBuild, p.nonEmpty(item, "on_build"))
	}
}

// IsSignal reports whether a text may be a signal's name or number.
func IsSignal(text string) bool { return signalText.MatchString(text) }

var signalText = regexp.MustCompile(`^([0-9]+|[A-Za-z][A-Za-z0-9+-]*)$`)

func (p *parser) signal(n *yaml.Node, what string) string {
	text := p.nonEmpty(n, what)
	if text != "" && !IsSignal(text) {
		p.wrong(n, what, "a signal's name or number, such as SIGQUIT or 9")
	}
	return text
}

func healthcheckText(h *dockerspec.HealthcheckConfig) string {
	if h == nil {
		return ""
	}
	return fmt.Sprintf("%q %v %v %v %v %d", h.Test, h.Interval, h.Timeout, h.StartPeriod, h.StartInterval, h.Retries)
}
