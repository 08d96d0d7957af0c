#!/usr/bin/env bash
# Makes the files in secrets/ that docker-compose.prod.yml reads, with random
# passwords. What is there already stays. For a PostgreSQL or Redis of your own,
# write its URL into secrets/database_url or secrets/redis_url.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
dir=${SECRETS_DIR:-$ROOT/secrets}
mkdir -p "$dir"
chmod 700 "$dir"
random() { head -c 24 /dev/urandom | base64 | tr '+/' 'ab' | tr -d '='; }
make_secret() { # NAME VALUE
  [ -s "$dir/$1" ] && return
  # The containers read it under another account; the folder keeps others out.
  (umask 022 && printf '%s' "$2" >"$dir/$1")
  say "made $dir/$1"
}
make_secret redis_password "$(random)"
make_secret postgres_password "$(random)"
make_secret grafana_password "$(random)"
make_secret console_token "$(random)"
make_secret redis_url "redis://:$(<"$dir/redis_password")@redis:6379"
make_secret database_url "postgres://sluice:$(<"$dir/postgres_password")@postgres:5432/bsky?sslmode=disable"
