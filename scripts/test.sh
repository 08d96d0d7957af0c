#!/usr/bin/env bash
# Runs every test of every module with the race detector, on a Redis and a
# PostgreSQL of its own, and prints how many ran. Arguments go to go test.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
need_go
need_servers
need_cc
# A pooler and a browser are for some tests only: those are left out, and say so,
# for a user who cannot install them. As root they are installed, or it fails.
# Debian keeps the pooler where the PATH of a user may not lead.
export PATH=$PATH:/usr/sbin
for tool in pgbouncer chromium; do
  command -v $tool >/dev/null && continue
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    apt $tool
  else
    say "no $tool: its tests are left out (as root: apt-get install $tool)"
  fi
done
command -v chromium >/dev/null && export SLUICE_TEST_BROWSER=must
RUN=$(mktemp -d "${TMPDIR:-/tmp}/sluice-test-XXXXXX")
chmod 755 "$RUN"
cleanup() {
  stop redis
  stop postgres INT
  rm -rf "$RUN"
}
trap cleanup EXIT
trap 'exit 130' INT TERM
redis_port=$(pick_port $((20000 + RANDOM % 10000)))
start_redis "$RUN/redis" "$redis_port" --appendonly no
pg_port=$(pick_port $((30000 + RANDOM % 10000)))
start_postgres "$(pg_dir)" "$pg_port" fsync=off synchronous_commit=off full_page_writes=off max_connections=600 max_locks_per_transaction=256 log_min_messages=fatal
export SLUICE_TEST_REDIS_URL=redis://127.0.0.1:$redis_port
export SLUICE_TEST_DATABASE_URL="postgres://postgres@127.0.0.1:$pg_port/postgres?sslmode=disable"

out=${TEST_LOG:-$RUN/test.json}
: >"$out"
# Goroutines share nothing of the arithmetic on curves, and of the builder of
# Redis commands only a sync.Pool, which is watched. Watching these two as well
# costs a third of the time of the ingester's tests, and half a minute of
# compiling. A package that synchronises by atomics of its own, such as
# encoding/json, has to be watched: they would not be seen.
unwatched=(-gcflags='gitlab.com/yawning/...=-race=false' -gcflags='github.com/redis/rueidis/internal/cmds=-race=false')
code=0
packages=("${MODULES[@]/#/./}")
cd "$ROOT"
step "test ${MODULES[*]}"
# make lint vets; here it would only take its time once more.
go test -race "${unwatched[@]}" -vet=off -timeout 20m -json "$@" "${packages[@]/%//...}" 2>&1 |
  tee -a "$out" | awk -f "$ROOT/scripts/test-report.awk" || code=1
say
awk -v total=1 -f "$ROOT/scripts/test-report.awk" "$out" || code=1
exit $code
