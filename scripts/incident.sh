#!/usr/bin/env bash
# Replays the trimming incident on a real Redis with the rules that failed and
# with ours, side by side.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
need_go
need_servers
RUN=$(mktemp -d "${TMPDIR:-/tmp}/sluice-incident-XXXXXX")
cleanup() {
  stop redis
  rm -rf "$RUN"
}
trap cleanup EXIT
trap 'exit 130' INT TERM
port=$(pick_port $((20000 + RANDOM % 10000)))
start_redis "$RUN/redis" "$port" --appendonly no
cd "$ROOT/pkg"
REDIS_URL=redis://127.0.0.1:$port go run ./redstream/incident "$@"
