#!/usr/bin/env bash
# Fails if what is generated is not what the sources give.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
GEN_ROOT=$tmp "$ROOT/scripts/gen.sh" >/dev/null
bad=0
while IFS= read -r f; do
  rel=${f#"$tmp"/}
  diff -u "$ROOT/$rel" "$f" || { say "$rel is not up to date"; bad=1; }
done < <(find "$tmp" -type f)
[ $bad = 0 ] || die "run make gen and commit the result"
say "gen-check: everything generated is up to date"
