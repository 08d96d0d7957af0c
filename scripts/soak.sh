#!/usr/bin/env bash
# The long forms of the randomised proofs: every test that has one, repeated
# for SOAK (a duration, default 10m). SOAK_DIRS and SOAK_RUN (a pattern of test
# names) choose some of them.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
need_go
need_servers
limit=${SOAK:-10m}
case $limit in
  *h) seconds=$((${limit%h} * 3600)) ;;
  *m) seconds=$((${limit%m} * 60)) ;;
  *s) seconds=${limit%s} ;;
  *) die "SOAK=$limit: want a duration such as 90s, 10m or 2h" ;;
esac
export SLUICE_SOAK=1
end=$((SECONDS + seconds))
round=0
cd "$ROOT"
# Only packages that have a long form.
read -ra dirs <<<"${SOAK_DIRS:-}"
[ ${#dirs[@]} -gt 0 ] || mapfile -t dirs < <(grep -rl --include='*_test.go' SLUICE_SOAK pkg services | xargs -r -n1 dirname | sort -u)
[ ${#dirs[@]} -gt 0 ] || die "no test has a long form"
log=$(mktemp)
trap 'rm -f "$log"' EXIT
while :; do
  round=$((round + 1))
  step "round $round: ${dirs[*]}"
  for d in "${dirs[@]}"; do
    (cd "$ROOT/${d%%/*}" && go test -count 1 -timeout 60m -run "${SOAK_RUN:-.}" -json "./${d#*/}") >"$log" 2>&1 || { awk -f scripts/test-report.awk "$log"; die "soak: round $round failed in $d"; }
    awk -f scripts/test-report.awk "$log"
    [ $SECONDS -lt $end ] || break 2
  done
done
say "soak: $round rounds in ${SECONDS}s, 0 failed"
