package explain

import (
	"fmt"
	"io"
	"strings"
)

// Markdown writes a report as a CI's job summary shows it.
func Markdown(w io.Writer, r *Report, o Options) error {
	var out strings.Builder
	fmt.Fprintf(&out, "### %s\n\n%s\n\n", markdown(heading(r, o)), markdown(r.Cache.String()))
	out.WriteString("| layer | outcome | because |\n| --- | --- | --- |\n")
	for i := range r.Layers {
		l := &r.Layers[i]
		var why []string
		for _, reason := range l.Reasons {
			why = append(why, markdown(reason.Head()))
		}
		if len(l.Because) > 0 {
			why = []string{"rebuilt with " + markdown(names(l.Because))}
		}
		fmt.Fprintf(&out, "| %s | %s | %s |\n", markdown(l.Name), markdown(l.Said()), strings.Join(why, "<br>"))
	}
	for _, text := range r.Reused() {
		fmt.Fprintf(&out, "\n%s\n", markdown(text))
	}
	for i := range r.Layers {
		l := &r.Layers[i]
		if len(l.Reasons) == 0 || len(l.Because) > 0 {
			continue
		}
		fmt.Fprintf(&out, "\n<details><summary>%s</summary>\n\n", markdown(l.Name))
		for _, text := range l.Lines(o) {
			// Indented by four columns: code, in which nothing means anything.
			fmt.Fprintf(&out, "    %s\n", text)
		}
		out.WriteString("\n</details>\n")
	}
	_, err := io.WriteString(w, out.String())
	return err
}

// markdown escapes text so that it shows as it is.
func markdown(s string) string {
	var out strings.Builder
	for _, r := range escape(s) {
		switch {
		case r == '<':
			out.WriteString("&lt;")
		case r == '>':
			out.WriteString("&gt;")
		case r == '&':
			out.WriteString("&amp;")
		case strings.ContainsRune("\\`*_[]#|~@", r):
			fmt.Fprintf(&out, "&#%d;", r)
		default:
			out.WriteRune(r)
		}
	}
	return out.String()
}
