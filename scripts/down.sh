#!/usr/bin/env bash
# Stops what make up started, in the order in which nothing is lost. The data
# stays; make clean removes it.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
names() { for f in "$RUN"/"$1"*.pid; do [ -e "$f" ] && basename "$f" .pid; done; true; }
for n in $(names console) $(names ingester) $(names backfiller) $(names indexer) $(names simnet); do
  say "stop $n"
  stop "$n"
done
[ -f "$RUN/redis.pid" ] && { say "stop redis"; stop redis; }
[ -f "$RUN/postgres.pid" ] && { say "stop postgres"; stop postgres INT; }
say "everything is down"
