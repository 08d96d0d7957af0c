#!/usr/bin/env bash
# Replays the trimming incident of October 2025 on a Redis of its own, with the
# rules of that time and with ours, and prints both. Arguments: --entries N, -v, --json.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
need_go
command -v redis-server >/dev/null || apt redis-server
RUN=$(mktemp -d "${TMPDIR:-/tmp}/sluice-incident-XXXXXX")
cleanup() {
  stop redis
  rm -rf "$RUN"
}
trap cleanup EXIT
trap 'exit 130' INT TERM
port=$(pick_port $((20000 + RANDOM % 10000)))
start_redis "$RUN/redis" "$port" --appendonly no
cd "$ROOT"
go run ./services/streamctl incident --redis-url "redis://127.0.0.1:$port" --yes --entries 20000 "$@"
