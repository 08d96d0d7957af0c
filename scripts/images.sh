#!/usr/bin/env bash
# Builds the images of the services (and of the simulated network).
#   TAG=v1.2.3              tag of the images; also the version stamped in (default: git describe)
#   BASE_IMAGES_SCRIPT=...  is run first where no image registry can be reached
set -euo pipefail
. "$(dirname "$0")/lib.sh"
[ -z "${BASE_IMAGES_SCRIPT:-}" ] || bash "$BASE_IMAGES_SCRIPT"
command -v docker >/dev/null || die "docker is not in PATH"
docker info >/dev/null 2>&1 || die "the Docker engine does not answer (docker info)"
version=${TAG:-$(version)}
cd "$ROOT"
for p in ingester indexer backfiller; do
  step "sluice-$p:$version"
  docker build -q --build-arg VERSION="$version" -t "sluice-$p:$version" -t "sluice-$p:latest" -f "Dockerfile.$p" . >/dev/null
done
step "sluice-simnet:$version"
docker build -q --build-arg VERSION="$version" -t "sluice-simnet:$version" -t sluice-simnet:latest -f deploy/Dockerfile.simnet . >/dev/null
docker images --format '{{.Repository}}:{{.Tag}}  {{.Size}}' | grep '^sluice-' | sort -u
