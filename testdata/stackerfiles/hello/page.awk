# Makes a page of HTML out of text: the first line is its title, an empty line
# ends a paragraph, and *word* is strong.

BEGIN { print "<!doctype html>" }
      { gsub(/&/, "\\&amp;"); gsub(/</, "\\&lt;"); gsub(/>/, "\\&gt;") }
NR == 1 {
	print "<title>" $0 "</title>"
	print "<h1>" $0 "</h1>"
	next
}
/^$/ { if (open) print "</p>"; open = 0; next }
{
	if (!open) print "<p>"
	open = 1
	while (match($0, /\*[^*]+\*/))
		$0 = substr($0, 1, RSTART - 1) "<strong>" substr($0, RSTART + 1, RLENGTH - 2) "</strong>" substr($0, RSTART + RLENGTH)
	print
}
END { if (open) print "</p>" }
