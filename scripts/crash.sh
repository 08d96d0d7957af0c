#!/usr/bin/env bash
# Starts the whole sluice under load, lets processes kill themselves at crash
# points between durable steps, kills every other one with SIGKILL, starts them
# again, and compares the tables with the truth.
#
#   CRASH=short   one round in place of three
set -euo pipefail
. "$(dirname "$0")/lib.sh"
need_go
need_servers
base=$RUN
export RUN=$base/crash
mkdir -p "$base"
rounds=(
  "ingester=after_add_before_reply:4 indexer-1=inside_tx:5 indexer-2=after_commit_before_ack:4 backfiller-1=after_chunk_before_next:3 backfiller-2=after_repo_before_ack:6"
  "ingester=after_read_before_add:6 indexer-1=after_read_before_apply:5 indexer-2=after_ack_before_trim:4 backfiller-1=after_repo_before_ack:2 backfiller-2=after_chunk_before_next:9"
  "ingester=after_page_before_cursor:1 indexer-1=after_fold_before_commit:2 indexer-2=after_sweep_before_commit:2"
)
[ "${CRASH:-}" != short ] || rounds=("${rounds[0]}")
finish() {
  "$ROOT/scripts/down.sh" >/dev/null 2>&1 || true
  drop_data
}
drop_data() {
  if [ -f "$RUN/pg_dir" ]; then
    case $(<"$RUN/pg_dir") in /var/tmp/sluice-*/postgres) rm -rf "$(dirname "$(<"$RUN/pg_dir")")" ;; esac
  fi
  rm -rf "$RUN"
}
trap finish EXIT
trap 'exit 130' INT TERM
passed=0
failed=0
check() { # WHAT COMMAND...
  local what=$1
  shift
  if "$@"; then
    passed=$((passed + 1))
    say "ok    $what"
  else
    failed=$((failed + 1))
    say "FAIL  $what"
  fi
}
# died NAME SECONDS: the process ends by itself within the time.
died() {
  local limit=$((SECONDS + $2))
  while alive "$1"; do
    [ $SECONDS -lt $limit ] || return 1
    sleep 0.1
  done
}
seed=${SIMNET_SEED:-7}
for points in "${rounds[@]}"; do
  finish
  step "round: $points"
  # Enough history and live events that every point is visited under load.
  RUN=$RUN UP_NOWAIT=1 UP_POINTS=$points SIMNET_SEED=$seed SIMNET_ACCOUNTS=${SIMNET_ACCOUNTS:-80} SIMNET_RECORDS=${SIMNET_RECORDS:-6000} \
    SIMNET_LIVE_SECONDS=${SIMNET_LIVE_SECONDS:-30} SIMNET_LIVE_RATE=60 INDEXER_CLAIM_IDLE_SECS=5 BACKFILLER_CLAIM_IDLE_SECS=5 INDEXER_BATCH_SIZE=100 INGESTER_RESYNC_INTERVAL_SECS=10 \
    "$ROOT/scripts/up.sh" >"$base/crash.log" 2>&1 || { tail -5 "$base/crash.log"; die "the stack did not start"; }
  export INDEXER_CLAIM_IDLE_SECS=5 BACKFILLER_CLAIM_IDLE_SECS=5 INDEXER_BATCH_SIZE=100 INGESTER_RESYNC_INTERVAL_SECS=10 INGESTER_FIREHOSE_START=oldest
  set -a
  . "$RUN/env"
  set +a
  for p in $points; do
    name=${p%%=*}
    check "$name killed itself at ${p#*=}" died "$name" 60
    alive "$name" || relaunch "$name"
  done
  for name in ingester indexer-1 backfiller-1 indexer-2 backfiller-2; do
    sleep 1
    kill -KILL "$(pid_of "$name")" 2>/dev/null || true
    died "$name" 5 || true
    relaunch "$name"
  done
  check "every table agrees with the truth after it" "$ROOT/bin/streamctl" status --wait --timeout 240s --summary --oracle "$SIMNET_URL"
  check "every count agrees with its rows" "$ROOT/bin/streamctl" verify counts
  seed=$((seed + 1))
done
say
say "crash: $passed passed, $failed failed"
[ "$failed" = 0 ]
