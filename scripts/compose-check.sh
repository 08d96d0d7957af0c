#!/usr/bin/env bash
# Runs the compose stack against the simulated network on the Docker engine at
# hand. Under load it is scaled from one indexer to six and to two, and every
# service is replaced in between; then the tables agree with the truth, every
# replica was scraped without being listed, and everything is removed again.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
cd "$ROOT"
export COMPOSE_PROJECT_NAME=sluice-check SECRETS_DIR=$ROOT/secrets PROMETHEUS_PORT=${PROMETHEUS_PORT:-19091} CONSOLE_PORT=${CONSOLE_PORT:-14180} SLUICE_TAG=${SLUICE_TAG:-latest}
export SIMNET_ACCOUNTS=${SIMNET_ACCOUNTS:-60} SIMNET_RECORDS=${SIMNET_RECORDS:-6000} SIMNET_LIVE_SECONDS=${SIMNET_LIVE_SECONDS:-90} SIMNET_LIVE_RATE=${SIMNET_LIVE_RATE:-60}
export DB_POOL_MAX_SIZE=8 INDEXER_CONCURRENCY=4
export REDIS_MAXMEMORY=512mb REDIS_MEMORY_LIMIT=1g POSTGRES_MEMORY_LIMIT=2g POSTGRES_SETTINGS=small.conf
scripts/secrets.sh
compose() { docker compose -f docker-compose.prod.yml -f deploy/compose.demo.yml "$@"; }
# scraped N: Prometheus has N indexers that are up.
scraped() {
  compose exec -T prometheus promtool query instant http://127.0.0.1:9090 'count(up{job="indexer"} == 1)' | grep -q "=> $1 "
}
cleanup() { compose down -v --timeout 20 >/dev/null 2>&1 || true; }
trap cleanup EXIT
trap 'exit 130' INT TERM
cleanup
# quietly COMMAND...: what it says is shown only if it fails.
quietly() {
  local said
  said=$("$@" 2>&1) || { printf '%s\n' "$said" | tail -20; die "$* did not work"; }
}
in_indexer() { compose exec -T indexer /usr/local/bin/streamctl "$@"; }
step "compose up, one indexer"
quietly compose up -d --no-build
step "scale to six indexers and three backfillers under load"
quietly compose up -d --no-build --scale indexer=6 --scale backfiller=3
wait_for 180 "six indexers in Prometheus" scraped 6
in_indexer status
step "replace every service under load"
quietly compose up -d --no-build --no-deps --force-recreate --scale backfiller=3 backfiller
quietly compose up -d --no-build --no-deps --force-recreate ingester
quietly compose up -d --no-build --no-deps --force-recreate --scale indexer=6 indexer
wait_for 180 "six indexers in Prometheus again" scraped 6
step "scale to two indexers and one backfiller under load"
quietly compose up -d --no-build --scale indexer=2 --scale backfiller=1
wait_for 180 "two indexers in Prometheus" scraped 2
step "waiting until it is drained"
in_indexer status --wait --timeout "${COMPOSE_WAIT:-600}s" --summary --oracle http://simnet:2470
in_indexer doctor --for 2s
in_indexer verify counts
compose exec -T console /usr/local/bin/streamctl serve --health
say "compose: the stack fills PostgreSQL, scales under load and is replaced under load; nothing is lost"
