#!/usr/bin/env bash
# What make up started, whether it runs, and where the backlog stands.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
[ -f "$RUN/env" ] || { say "nothing is up (make up)"; exit 1; }
code=0
for f in "$RUN"/*.pid; do
  [ -e "$f" ] || continue
  n=$(basename "$f" .pid)
  if alive "$n"; then printf '%-14s running  pid %s\n' "$n" "$(pid_of "$n")"; else printf '%-14s DEAD     see %s\n' "$n" "$RUN/logs/$n.log"; code=1; fi
done
. "$RUN/env"
if ! compgen -G "$RUN/*.pid" >/dev/null; then say "everything is down; the data stays (make up, make clean)"; fi
if alive redis && alive postgres && [ -x "$ROOT/bin/streamctl" ]; then
  say
  "$ROOT/bin/streamctl" status || code=1
fi
exit $code
