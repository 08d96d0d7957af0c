#!/usr/bin/env bash
# Starts the whole sluice on this machine: Redis, PostgreSQL, the simulated
# network (or a real relay with RELAY=host), one ingester, two indexers and two
# backfillers; waits until everything is drained, prints what came of it and
# compares it with what the simulated network knows to be true.
#
#   RELAY=bsky.network      a real relay in place of the simulated network
#   UP_WAIT=900             seconds to wait for the backlog to drain
#   UP_INDEXERS=2 UP_BACKFILLERS=2
#   UP_POINTS="ingester=after_add_before_reply:3 ..."   processes that kill themselves (make crash)
#   SERVERS=docker          Redis and PostgreSQL in containers (also where they cannot be installed)
#   UP_NOWAIT=1             return when everything has started
#   SIMNET_ACCOUNTS=200 SIMNET_RECORDS=20000 SIMNET_SEED=1 SIMNET_RATE=0 SIMNET_PDS=3
#   any INGESTER_*, INDEXER_*, BACKFILLER_* setting
set -euo pipefail
. "$(dirname "$0")/lib.sh"
mkdir -p "$RUN"
INDEXERS=${UP_INDEXERS:-2}
BACKFILLERS=${UP_BACKFILLERS:-2}
SCHEMA=${DATABASE_SCHEMA:-bsky}

if [ -f "$RUN/env" ] && alive redis && alive postgres && alive ingester; then
  grep -q "^export SIMNET_URL=" "$RUN/env" && on="the simulated network" || on="a real relay"
  if [ -n "${RELAY:-}" ] && [ "$on" = "the simulated network" ]; then die "already up with $on: make clean first, or their data mix"; fi
  say "already up with $on, with the settings it was started with (make status, make down)"
  exit 0
fi
need_go
need_servers docker
"$ROOT/scripts/build.sh"

step "Redis and PostgreSQL"
# Ports are kept from one start to the next.
if [ -f "$RUN/ports" ]; then . "$RUN/ports"; else
  redis_port=$(pick_port 16390)
  pg_port=$(pick_port 15440)
  sim_port=$(pick_port 12470)
  metrics_port=$(pick_port 14100)
  printf 'redis_port=%s\npg_port=%s\nsim_port=%s\nmetrics_port=%s\n' "$redis_port" "$pg_port" "$sim_port" "$metrics_port" >"$RUN/ports"
fi
alive redis || start_redis "$RUN/redis" "$redis_port" --appendonly yes --appendfsync everysec --maxmemory "${UP_REDIS_MEMORY:-1gb}"
dir=$(pg_dir)
printf '%s\n' "$dir" >"$RUN/pg_dir"
alive postgres || start_postgres "$dir" "$pg_port" max_connections=200 max_locks_per_transaction=256 shared_buffers=256MB synchronous_commit=off max_wal_size=2GB checkpoint_timeout=15min
[ "$(sql "$pg_port" postgres "SELECT count(*) FROM pg_database WHERE datname = 'bsky'")" = 1 ] || sql "$pg_port" postgres "CREATE DATABASE bsky"

export REDIS_URL="redis://127.0.0.1:$redis_port" DATABASE_URL="postgres://postgres@127.0.0.1:$pg_port/bsky?sslmode=disable" DATABASE_SCHEMA=$SCHEMA
{
  say "# written by make up; source it to reach what it started"
  say "export REDIS_URL='$REDIS_URL'"
  say "export DATABASE_URL='$DATABASE_URL'"
  say "export DATABASE_SCHEMA='$SCHEMA'"
} >"$RUN/env"

step "migrate"
"$ROOT/bin/indexer" migrate 2>>"$RUN/logs/migrate.log" || { tail -5 "$RUN/logs/migrate.log" >&2; die "migration did not work (log in $RUN/logs/migrate.log)"; }

oracle=()
if [ -n "${RELAY:-}" ]; then
  step "relay $RELAY"
  export INGESTER_RELAY_HOSTS=$RELAY
else
  step "simulated network"
  if ! alive simnet; then
    rm -f "$RUN/simnet.env"
    SIMNET_LISTEN=127.0.0.1:$sim_port SIMNET_ENV_FILE=$RUN/simnet.env SIMNET_SEED=${SIMNET_SEED:-1} \
      METRICS_PORT=0 start simnet "$ROOT/bin/simnet"
    wait_for 120 "simnet (log in $RUN/logs/simnet.log)" test -s "$RUN/simnet.env"
  fi
  set -a
  . "$RUN/simnet.env"
  set +a
  export INGESTER_FIREHOSE_START=${INGESTER_FIREHOSE_START:-oldest}
  export INGESTER_RESYNC_INTERVAL_SECS=${INGESTER_RESYNC_INTERVAL_SECS:-10} # its clock is quick
  export INGESTER_DATA_IDLE_SECS=${INGESTER_DATA_IDLE_SECS:-0}               # it ends, and is quiet then
  say "export CONSOLE_QUIET_SECS=\${CONSOLE_QUIET_SECS:-0}" >>"$RUN/env"
  sed -n 's/^\(export \)\?\([A-Z_]*=\)/export \2/p' "$RUN/simnet.env" >>"$RUN/env"
  oracle=(--oracle "$SIMNET_URL")
fi

step "ingester, $INDEXERS indexers, $BACKFILLERS backfillers"
port=$metrics_port
targets=()
launch ingester ingester
for i in $(seq "$INDEXERS"); do launch "indexer-$i" indexer INDEXER_CONSUMER="indexer-$i"; done
for i in $(seq "$BACKFILLERS"); do launch "backfiller-$i" backfiller BACKFILLER_CONSUMER="backfiller-$i"; done
{
  say "export METRICS_ADDRESSES='$(IFS=,; printf '%s' "${targets[*]}")'"
} >>"$RUN/env"
export METRICS_ADDRESSES
METRICS_ADDRESSES=$(IFS=,; printf '%s' "${targets[*]}")
for t in "${targets[@]}"; do
  name=${t%%=*}
  [ -z "${UP_POINTS:-}" ] || continue # it may be gone already, as it should
  wait_for 60 "$name (log in $RUN/logs/$name.log)" port_open "${t##*:}"
done

[ -z "${UP_NOWAIT:-}" ] || exit 0

step "waiting until the backlog is drained"
code=0
wait=()
[ -n "${RELAY:-}" ] || wait=(--wait --timeout "${UP_WAIT:-900}s")
"$ROOT/bin/streamctl" status --summary "${wait[@]}" "${oracle[@]}" || code=$?
say
say "metrics  ${targets[*]}"
say "logs     $RUN/logs"
say "watch    . .run/env && bin/streamctl status --watch"
say "check    . .run/env && bin/streamctl doctor"
say "stop     make down"
exit $code
