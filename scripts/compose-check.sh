#!/usr/bin/env bash
# Runs the compose stack against the simulated network on the Docker engine at
# hand: three indexers fill PostgreSQL, the tables agree with the truth, every
# replica is scraped, and everything is removed again.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
cd "$ROOT"
export COMPOSE_PROJECT_NAME=sluice-check SECRETS_DIR=$ROOT/secrets PROMETHEUS_PORT=${PROMETHEUS_PORT:-19091} CONSOLE_PORT=${CONSOLE_PORT:-14180} SLUICE_TAG=${SLUICE_TAG:-latest}
export SIMNET_ACCOUNTS=${SIMNET_ACCOUNTS:-60} SIMNET_RECORDS=${SIMNET_RECORDS:-3000}
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
step "compose up, three indexers"
compose up -d --no-build --scale indexer=3
step "waiting until it is drained"
compose exec -T indexer /usr/local/bin/streamctl status --wait --timeout "${COMPOSE_WAIT:-600}s" --summary --oracle http://simnet:2470
compose exec -T indexer /usr/local/bin/streamctl doctor --for 2s
step "scale to five and back to one"
compose up -d --no-build --scale indexer=5 >/dev/null 2>&1
wait_for 60 "five indexers in Prometheus" scraped 5
compose up -d --no-build --scale indexer=1 >/dev/null 2>&1
compose exec -T indexer /usr/local/bin/streamctl status
say "compose: the stack fills PostgreSQL and scales"
