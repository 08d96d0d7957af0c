#!/usr/bin/env bash
# Starts a real Prometheus with the configuration and the rules of deploy/ on the
# processes in METRICS_ADDRESSES (make up writes it), and evaluates every rule
# and every query of the dashboards: none may name a metric or a label that does
# not exist. DNS discovery is replaced by the addresses; scraping is quicker.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
[ -n "${METRICS_ADDRESSES:-}" ] || { [ -f "$RUN/env" ] && . "$RUN/env"; }
[ -n "${METRICS_ADDRESSES:-}" ] || die "METRICS_ADDRESSES is not set: make up first"
need_go
command -v prometheus >/dev/null || apt prometheus
RUN=$(mktemp -d "${TMPDIR:-/tmp}/sluice-prometheus-XXXXXX")
cleanup() {
  stop prometheus
  rm -rf "$RUN"
}
trap cleanup EXIT
trap 'exit 130' INT TERM
go build -o "$RUN/promcheck" "$ROOT/services/promcheck"
port=$(pick_port $((20000 + RANDOM % 10000)))
awk -v targets="$METRICS_ADDRESSES" -v own="127.0.0.1:$port" '
  BEGIN { n = split(targets, t, ","); for (i = 1; i <= n; i++) { split(t[i], kv, "="); job = kv[1]; sub(/-[0-9]+$/, "", job); of[job] = of[job] (of[job] ? ", " : "") "\"" kv[2] "\"" } }
  /^[a-z]/ { section = $1 }
  section == "alerting:" { next }
  / (scrape|evaluation)_interval:/ { sub(/: .*/, ": 1s") }
  /job_name:/ { job = $NF }
  /dns_sd_configs:/ { print "    static_configs:"; print "      - targets: [" of[job] "]"; skip = 1; next }
  skip { skip = 0; next }
  /- targets:/ { sub(/\[.*/, "[\"" own "\"]") }
  { print }
' "$ROOT/deploy/prometheus/prometheus.yml" >"$RUN/prometheus.yml"
cp -r "$ROOT/deploy/prometheus/rules" "$RUN/rules"
start prometheus prometheus --config.file="$RUN/prometheus.yml" --storage.tsdb.path="$RUN/data" --web.listen-address="127.0.0.1:$port"
"$RUN/promcheck" -url "http://127.0.0.1:$port" -dashboards "$ROOT/deploy/grafana/dashboards" "$@" || { grep -v level=info "$RUN/logs/prometheus.log" >&2; exit 1; }
