#!/usr/bin/env bash
# Measures the ratios against what the machine can do and writes bench.json:
# [{"name","value","unit","ceiling","ratio"}]. BENCH=short for a quick look.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
need_go
need_servers
out=${BENCH_OUT:-$ROOT/bench.json}
RUN=$(mktemp -d "${TMPDIR:-/tmp}/sluice-bench-XXXXXX")
chmod 755 "$RUN"
cleanup() {
  stop redis
  stop postgres INT
  rm -rf "$RUN"
}
trap cleanup EXIT
trap 'exit 130' INT TERM
redis_port=$(pick_port $((20000 + RANDOM % 10000)))
pg_port=$(pick_port $((30000 + RANDOM % 10000)))
start_redis "$RUN/redis" "$redis_port" --appendonly no
start_postgres "$(pg_dir)" "$pg_port" synchronous_commit=off max_connections=200 max_locks_per_transaction=512 shared_buffers=512MB max_wal_size=4GB
export SLUICE_TEST_REDIS_URL=redis://127.0.0.1:$redis_port
export SLUICE_TEST_DATABASE_URL="postgres://postgres@127.0.0.1:$pg_port/postgres?sslmode=disable"
code=0
entries=100000
measure=(-measure)
if [ "${BENCH:-}" = short ]; then
  entries=10000
  measure=()
fi
if [ -d "$ROOT/pkg/redstream/bench" ]; then
  step "streams"
  (cd "$ROOT/pkg" && go run ./redstream/bench -redis "$SLUICE_TEST_REDIS_URL" -entries $entries -out "$out") || code=1
fi
for dir in "$ROOT"/services/*/bench "$ROOT"/services/*/internal/*/bench; do
  ls "$dir"/*_test.go >/dev/null 2>&1 || continue
  name=${dir#"$ROOT"/services/}
  step "${name%/bench}"
  (cd "$ROOT/services" && go test "./$name" -count 1 -timeout 60m -v -args "${measure[@]}" -out "$out") | grep -v '^=== ' || code=1
done
[ ! -f "$out" ] || { say; say "$out:"; cat "$out"; }
exit $code
