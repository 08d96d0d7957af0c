#!/usr/bin/env bash
# Builds the programs into bin/, with the version stamped in.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
need_go
mkdir -p "$ROOT/bin"
version=$(version)
packages=()
for p in "${PROGRAMS[@]}"; do packages+=("./services/$p"); done
cd "$ROOT"
go build -ldflags "-X main.version=$version" -o bin/ "${packages[@]}"
say "built ${PROGRAMS[*]} $version"
