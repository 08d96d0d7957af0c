#!/usr/bin/env bash
# Formatting, go vet and golangci-lint with the layer rules, over every module.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
need_go
want=2.15.0
cache=${XDG_CACHE_HOME:-$HOME/.cache}/sluice-tools/golangci-lint-$want
lint=$cache/golangci-lint
for found in "$(command -v golangci-lint || true)" "$(go env GOPATH)/bin/golangci-lint"; do
  if [ -x "$found" ] && "$found" version --short 2>/dev/null | grep -qx "v\?$want"; then lint=$found; break; fi
done
if [ ! -x "$lint" ]; then
  step "building golangci-lint $want (once, some minutes)"
  mkdir -p "$cache"
  GOBIN=$cache go install "github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v$want"
fi
bad=0
for m in "${MODULES[@]}"; do
  cd "$ROOT/$m"
  [ -n "$(go list ./... 2>/dev/null)" ] || continue
  step "lint $m"
  "$lint" fmt --diff ./... || bad=1
  go vet ./... || bad=1
  "$lint" run --config "$ROOT/.golangci.yml" ./... || bad=1
done
cd "$ROOT"
for f in scripts/*.sh .ci/run; do bash -n "$f" || bad=1; done
if command -v shellcheck >/dev/null; then shellcheck -x scripts/*.sh .ci/run || bad=1; fi
[ $bad = 0 ] || die "lint found something"
say "lint: nothing found in ${MODULES[*]}"
