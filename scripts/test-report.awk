# Reads the lines of go test -json: prints one line a package and the output of
# what failed; with total=1 only the closing count. Exit code 1 if anything failed.
function field(name,   rest, value, c, i) {
  i = index($0, "\"" name "\":\"")
  if (i == 0) return ""
  rest = substr($0, i + length(name) + 4)
  value = ""
  while (match(rest, /^([^"\\]|\\.)/)) {
    c = substr(rest, 1, RLENGTH)
    rest = substr(rest, RLENGTH + 1)
    if (c == "\\n") c = "\n"
    else if (c == "\\t") c = "\t"
    else if (c == "\\u") { c = "?"; rest = substr(rest, 5) }
    else if (length(c) == 2) c = substr(c, 2)
    value = value c
  }
  return value
}
!/^\{/ { if (!total) print; if ($0 ~ /FAIL|cannot|error/) broken = 1; next }
{
  action = ""
  if (match($0, /"Action":"[a-z-]+"/)) action = substr($0, RSTART + 10, RLENGTH - 11)
  if (action == "build-output") { if (!total) printf "%s", field("Output"); next }
  if (action == "build-fail") { broken = 1; next }
  if (action == "output") { if (!total) { key = field("Package") "/" field("Test"); text[key] = text[key] field("Output") }; next }
  if (action != "pass" && action != "fail" && action != "skip") next
  package = field("Package"); test = field("Test"); key = package "/" test
  if (test != "") {
    count[action]++
    if (action == "fail") bad[package] = bad[package] text[key]
    delete text[key]
    next
  }
  if (action == "fail") { broken = 1; failed = failed " " package }
  if (!total && action == "fail") printf "%s%s", bad[package], text[key]
  if (!total && action != "skip") { match($0, /"Elapsed":[0-9.]+/); printf "%-4s %s %ss\n", (action == "pass" ? "ok" : "FAIL"), package, substr($0, RSTART + 10, RLENGTH - 10); fflush() }
  delete text[key]
}
END {
  if (total) {
    if (failed != "") print "failed packages:" failed
    printf "%d passed, %d failed, %d skipped\n", count["pass"], count["fail"], count["skip"]
  }
  exit (broken || count["fail"]) ? 1 : 0
}
