#!/usr/bin/env bash
# Copies the lexicons that records are checked against from a local checkout of
# them: LEXICONS=path/to/atproto/lexicons make lexicons
set -euo pipefail
. "$(dirname "$0")/lib.sh"
[ -n "${LEXICONS:-}" ] || die "LEXICONS is not set: name the folder lexicons of a checkout of bluesky-social/atproto"
[ -d "$LEXICONS/app/bsky" ] || die "LEXICONS=$LEXICONS: there is no app/bsky in it"
need_go
cd "$ROOT/pkg"
go run ./lexicon/refresh "$LEXICONS" lexicon/lexicons
git -C "$ROOT" --no-pager diff --stat -- pkg/lexicon/lexicons
