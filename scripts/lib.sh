# shellcheck shell=bash
# Shared by the scripts of this folder: paths, messages, what to install, servers and processes by pid file.

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
RUN=${RUN:-$ROOT/.run}
MODULES=(proto pkg services)
PROGRAMS=(ingester indexer backfiller streamctl simnet)
REDIS_IMAGE=${REDIS_IMAGE:-redis:7.4-bookworm}
POSTGRES_IMAGE=${POSTGRES_IMAGE:-postgres:17-bookworm}
export ROOT RUN

say() { printf '%s\n' "$*"; }
step() { printf '\033[1m==>\033[0m %s\n' "$*"; }
die() { printf 'error: %s\n' "$*" >&2; exit 1; }

# version is the version that is stamped into the programs.
version() { git -C "$ROOT" describe --tags --always --dirty 2>/dev/null || echo dev; }

# need_go: the Go toolchain is the one thing that nothing here can install.
need_go() { command -v go >/dev/null || die "go is not in PATH: install Go 1.26 or later from https://go.dev/dl/"; }

# pg_bin NAME prints the path of a PostgreSQL program.
pg_bin() {
  local p
  p=$(ls -d /usr/lib/postgresql/*/bin/"$1" 2>/dev/null | sort -V | tail -1)
  [ -n "$p" ] || p=$(command -v "$1" || true)
  [ -n "$p" ] && printf '%s\n' "$p"
}

# apt PACKAGE...: installs Debian packages as root, or says what to install.
apt() {
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    step "installing $*"
    apt-get update -qq
    # The packages must not start servers of their own.
    local policy=/usr/sbin/policy-rc.d made=
    [ -e $policy ] || { printf '#!/bin/sh\nexit 101\n' >$policy; chmod +x $policy; made=1; }
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null || { [ -z "$made" ] || rm -f $policy; die "apt-get install $* did not work"; }
    [ -z "$made" ] || rm -f $policy
  else
    die "missing: $*. On Debian or Ubuntu: sudo apt-get install -y $*"
  fi
}

# need_servers [docker]: redis-server 7 and PostgreSQL are there afterwards. With
# "docker" a machine where they cannot be installed runs them in containers
# (SERVERS=docker asks for that outright).
need_servers() {
  local missing=()
  if [ "${SERVERS:-}" = docker ]; then need_docker; return; fi
  command -v redis-server >/dev/null || missing+=(redis-server)
  [ -n "$(pg_bin initdb)" ] || missing+=(postgresql)
  [ ${#missing[@]} != 0 ] || return 0
  if [ "${1:-}" = docker ] && ! { [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; } && docker info >/dev/null 2>&1; then
    SERVERS=docker
    return
  fi
  apt "${missing[@]}"
}

need_docker() { docker info >/dev/null 2>&1 || die "SERVERS=docker, but the Docker engine does not answer (docker info)"; }

# volume NAME: the Docker volume of a server of this folder.
volume() { printf 'sluice-%s-%s\n' "$(printf '%s' "$RUN" | cksum | cut -d' ' -f1)" "$1"; }

# need_cc: the race detector needs a C compiler.
need_cc() { command -v gcc >/dev/null || command -v cc >/dev/null || apt gcc libc6-dev; }

# port_free PORT
port_free() { ! (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

# pick_port FIRST prints the first port at or above FIRST that is free.
pick_port() {
  local p=$1
  until port_free "$p"; do p=$((p + 1)); done
  printf '%s\n' "$p"
}

# wait_for SECONDS WHAT COMMAND...: polls until COMMAND succeeds.
wait_for() {
  local limit=$((SECONDS + $1)) what=$2
  shift 2
  until "$@" >/dev/null 2>&1; do
    [ $SECONDS -lt $limit ] || die "$what was not ready in time"
    sleep 0.1
  done
}

# start NAME COMMAND...: runs in the background, with a log and a pid file that
# also holds the start time, so that a recycled pid is never taken for it.
start() {
  local name=$1
  shift
  mkdir -p "$RUN/logs"
  setsid nohup "$@" >>"$RUN/logs/$name.log" 2>&1 </dev/null &
  local pid=$!
  disown "$pid"
  printf '%s %s\n' "$pid" "$(start_time "$pid")" >"$RUN/$name.pid"
}

start_time() { sed 's/.*) //' "/proc/$1/stat" 2>/dev/null | cut -d' ' -f20; }

# alive NAME: the process of the pid file runs.
alive() {
  local pid at
  [ -f "$RUN/$1.pid" ] || return 1
  read -r pid at <"$RUN/$1.pid"
  [ -n "$pid" ] && kill -0 "$pid" 2>/dev/null && [ "$(start_time "$pid")" = "$at" ] && [ "$(sed 's/.*) //' "/proc/$pid/stat" 2>/dev/null | cut -c1)" != Z ]
}

pid_of() { cut -d' ' -f1 "$RUN/$1.pid"; }

# stop NAME [SIGNAL [SECONDS]]: signals, waits, and kills what does not end.
stop() {
  local name=$1 signal=${2:-TERM} limit=$((SECONDS + ${3:-40}))
  if alive "$name"; then
    local pid
    pid=$(pid_of "$name")
    kill -"$signal" "$pid" 2>/dev/null || true
    while alive "$name"; do
      if [ $SECONDS -ge $limit ]; then
        say "$name did not stop in time: killed"
        kill -KILL "$pid" 2>/dev/null || true
        break
      fi
      sleep 0.1
    done
  fi
  rm -f "$RUN/$name.pid"
}

# launch NAME PROGRAM [VAR=VALUE...]: starts a service on the next free port at
# or above $port, adds it to $targets, and remembers how, for relaunch. A crash
# point for it in UP_POINTS is armed.
launch() {
  local name=$1 program=$2 point= p
  shift 2
  if alive "$name"; then
    port=$(<"$RUN/$name.port")
  else
    port=$(pick_port "$port")
    printf '%s\n' "$port" >"$RUN/$name.port"
    printf '%q ' env METRICS_PORT="$port" "$@" "$ROOT/bin/$program" >"$RUN/$name.cmd"
    for p in ${UP_POINTS:-}; do [ "${p%%=*}" != "$name" ] || point=${p#*=}; done
    start "$name" env ${point:+SLUICE_CRASH_POINT="$point"} METRICS_PORT="$port" "$@" "$ROOT/bin/$program"
  fi
  targets+=("$name=127.0.0.1:$port")
  port=$((port + 1))
}

# relaunch NAME: starts a service again as it was, without a crash point.
relaunch() {
  local cmd
  eval "cmd=($(<"$RUN/$1.cmd"))"
  start "$1" "${cmd[@]}"
}

# as_postgres COMMAND...: PostgreSQL refuses to run as root.
as_postgres() {
  if [ "$(id -u)" = 0 ]; then runuser -u postgres -- "$@"; else "$@"; fi
}

# start_redis DIR PORT [ARGS...]: durable, never evicting, on loopback.
start_redis() {
  local dir=$1 port=$2
  shift 2
  if [ "${SERVERS:-}" = docker ]; then
    start redis docker run --rm --name "$(volume redis)" -v "$(volume redis):/data" -p "127.0.0.1:$port:6379" "$REDIS_IMAGE" \
      redis-server --bind '*' --protected-mode no --dir /data --save '' --maxmemory-policy noeviction "$@"
    wait_for 120 "Redis (log in $RUN/logs/redis.log)" docker exec "$(volume redis)" redis-cli ping
    return
  fi
  mkdir -p "$dir"
  start redis redis-server --port "$port" --bind 127.0.0.1 --dir "$dir" --save '' \
    --maxmemory-policy noeviction --loglevel warning "$@"
  wait_for 20 "Redis (log in $RUN/logs/redis.log)" port_open "$port"
}

port_open() { ! port_free "$1"; }

# start_postgres DIR PORT [NAME=VALUE...]
start_postgres() {
  local dir=$1 port=$2 args=() kv
  shift 2
  for kv in "$@"; do args+=(-c "$kv"); done
  if [ "${SERVERS:-}" = docker ]; then
    start postgres docker run --rm --name "$(volume postgres)" -v "$(volume postgres):/var/lib/postgresql/data" --shm-size 512m \
      -e POSTGRES_HOST_AUTH_METHOD=trust -p "127.0.0.1:$port:5432" "$POSTGRES_IMAGE" postgres "${args[@]}"
    wait_for 120 "PostgreSQL (log in $RUN/logs/postgres.log)" docker exec "$(volume postgres)" psql -h 127.0.0.1 -U postgres -c 'SELECT 1'
    return
  fi
  mkdir -p "$dir"
  chmod 700 "$dir"
  if [ "$(id -u)" = 0 ]; then
    chown postgres: "$dir"
  fi
  if [ ! -s "$dir/PG_VERSION" ]; then
    (cd / && as_postgres "$(pg_bin initdb)" --no-sync -U postgres -A trust -E UTF8 --locale=C -D "$dir" >/dev/null) || die "initdb in $dir did not work"
  fi
  rm -f "$dir/postmaster.pid"
  local run=()
  [ "$(id -u)" != 0 ] || run=(runuser -u postgres --)
  # -k: no socket in a shared folder. runuser waits for its child and passes no
  # signal on, so the pid of the server is read from its own file.
  (cd / && start postgres "${run[@]}" "$(pg_bin postgres)" -D "$dir" -p "$port" -k "$dir" -c listen_addresses=127.0.0.1 -c logging_collector=off "${args[@]}")
  wait_for 30 "PostgreSQL (log in $RUN/logs/postgres.log)" "$(pg_bin pg_isready)" -q -h 127.0.0.1 -p "$port"
  local pid
  pid=$(head -1 "$dir/postmaster.pid")
  printf '%s %s\n' "$pid" "$(start_time "$pid")" >"$RUN/postgres.pid"
}

# pg_dir prints where the data of PostgreSQL lives: under .run, or in /var/tmp
# when the server's account cannot enter the folders above .run (a clone in /root).
pg_dir() {
  if [ -n "${PG_DIR:-}" ]; then
    printf '%s\n' "$PG_DIR"
  elif (cd / && as_postgres test -x "$RUN") 2>/dev/null; then
    printf '%s\n' "$RUN/postgres"
  else
    printf '/var/tmp/sluice-%s/postgres\n' "$(printf '%s' "$RUN" | cksum | cut -d' ' -f1)"
  fi
}

# sql PORT DATABASE STATEMENT
sql() {
  if [ "${SERVERS:-}" = docker ]; then
    docker exec "$(volume postgres)" psql -X -q -v ON_ERROR_STOP=1 -h 127.0.0.1 -U postgres -d "$2" -Atc "$3"
  else
    PGCONNECT_TIMEOUT=5 "$(pg_bin psql)" -X -q -v ON_ERROR_STOP=1 -h 127.0.0.1 -p "$1" -U postgres -d "$2" -Atc "$3"
  fi
}
