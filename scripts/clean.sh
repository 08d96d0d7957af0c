#!/usr/bin/env bash
# Stops everything and removes what make up and make build have made.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
"$ROOT/scripts/down.sh" >/dev/null
if [ -f "$RUN/pg_dir" ]; then
  dir=$(<"$RUN/pg_dir")
  case $dir in /var/tmp/sluice-*/postgres) rm -rf "${dir%/postgres}" ;; esac
fi
if command -v docker >/dev/null; then
  for v in redis postgres; do docker volume rm -f "$(volume $v)" >/dev/null 2>&1 || true; done
fi
rm -rf "$RUN" "$ROOT/bin"
say "clean"
