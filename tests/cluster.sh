#!/usr/bin/env bash
# Runs a command beside a private PostgreSQL, and ends both together:  tests/cluster.sh keep|temp COMMAND [ARGUMENT…]
#   keep  hands over DATABASE_URL; the cluster belongs to this checkout and its data stay between runs (make run)
#   temp  hands over LATCHKEY_TEST_DATABASE_URL, a superuser's; nothing of the cluster stays (make test, make smoke)
# Finds PostgreSQL's server programs, or installs them. The cluster listens on one Unix socket in a directory closed to
# everybody else, which is why it may trust whoever connects. This script never opens a network port, never touches
# another cluster and never deletes a kept one.
set -eu

say() { printf 'cluster: %s\n' "$*" >&2; }
die() { say "$@"; exit 1; }

# PostgreSQL refuses to run as root, so root runs it as `postgres`, who may be unable to enter the current directory.
# The environment stays behind: it may hold secrets, and PGPORT and the like would change what runs.
as_owner() (
  cd /
  if [ "$(id -u)" = 0 ]; then set -- runuser -u postgres -- "$@"; fi
  exec env -i PATH="$PATH" LC_ALL=C "$@"
)

# Sets $bin to the directory of the server programs of major version $1, or of the first on PATH or else the newest.
find_postgres() {
  local dir
  while IFS= read -r dir; do
    [ -x "$dir/initdb" ] && [ -x "$dir/pg_ctl" ] || continue
    major=$(as_owner "$dir/postgres" --version 2>/dev/null | sed -n 's/^postgres (PostgreSQL) \([0-9]*\).*/\1/p')
    if [ -n "$major" ] && [ "$major" = "${1:-$major}" ]; then bin=$dir; return; fi
  done < <(
    exec 2>/dev/null
    dirname "$(command -v initdb)"
    ls -d /usr/lib/postgresql/*/bin /usr/pgsql-*/bin "$(brew --prefix)"/opt/postgresql@*/bin | sort -rV
  )
  return 1
}

install_postgres() {
  local root=
  [ "$(id -u)" = 0 ] || root='sudo -n'
  if command -v apt-get >/dev/null && $root true 2>/dev/null; then
    say 'PostgreSQL is missing: installing the package postgresql'
    # Without the first line Debian's package would make a cluster of its own and start it on port 5432.
    $root sh -ec '
      off=/etc/postgresql-common/createcluster.d/latchkey.conf
      trap "rm -f $off" EXIT
      mkdir -p "${off%/*}" && echo "create_main_cluster = false" >"$off"
      export DEBIAN_FRONTEND=noninteractive
      apt-get update -q || echo "going on with the package lists that are there"
      apt-get install -q -y --no-install-recommends -o DPkg::Lock::Timeout=300 postgresql' </dev/null >&2 || true
  elif command -v brew >/dev/null; then
    say 'PostgreSQL is missing: installing postgresql@17'
    brew install -q postgresql@17 </dev/null >&2 || true
  fi
}

# Makes a complete cluster in directory $1: database `latchkey`, owned by the role of this name, which is no superuser.
# `postgres --single` does without the client programs.
make_cluster() {
  as_owner "$bin/initdb" -D "$1" -U postgres -E UTF8 --locale=C --auth-local=trust --auth-host=reject \
    ${sync:+"$sync"} >/dev/null
  printf '%s\n' 'create role latchkey login' 'create database latchkey owner latchkey' |
    as_owner "$bin/postgres" --single ${sync:+-F} -c exit_on_error=on -c log_min_messages=fatal -D "$1" postgres >/dev/null
}

# Ends what the command left behind (12 s: the server drains for 10), then the cluster if it is the one started here
# (the fifth line of its pid file names the directory of its socket).
clean_up() {
  local group
  if group=$(cat "$run/group" 2>/dev/null) && kill -TERM -- "-$group" 2>/dev/null; then
    for _ in {1..120}; do kill -0 -- "-$group" 2>/dev/null || break; sleep 0.1; done
    kill -KILL -- "-$group" 2>/dev/null
  fi
  if [ "$(sed -n 5p "$data/postmaster.pid" 2>/dev/null)" = "$run" ]; then
    as_owner "$bin/pg_ctl" stop -s -D "$data" -m fast
  fi
  rm -rf "$run" "$new"
}

mode=${1-}
[ $# -ge 2 ] || die 'usage: tests/cluster.sh keep|temp COMMAND [ARGUMENT…]'
shift
sync=--no-sync data='' options='-c fsync=off -c full_page_writes=off -c synchronous_commit=off -c max_connections=500'
if [ "$mode" = keep ]; then
  checkout=$(cd "$(dirname "$0")/.." && pwd -P)
  if [ "$(id -u)" = 0 ]; then home=/var/lib; else home=${XDG_STATE_HOME:-$HOME/.local/state}; fi
  state=$home/latchkey/$(printf %s "$checkout" | cksum | cut -d' ' -f1)
  sync='' options='' data=$state/data
fi

wanted=$(cat "$data/PG_VERSION" 2>/dev/null || true)
find_postgres || install_postgres
find_postgres || die 'PostgreSQL (initdb, pg_ctl, postgres; for root also the user postgres) is missing; Debian: apt-get install postgresql'
find_postgres "$wanted" || die "$data was made by PostgreSQL $wanted: install that one, or move the directory away to begin anew"

# A short path, because a socket's may have 107 bytes at most; mktemp makes it for its owner alone.
run=$(as_owner mktemp -d /tmp/latchkey.XXXXXX)
new=$run
if [ "$mode" = keep ]; then
  (umask 022 && mkdir -p "$home/latchkey")
  if [ "$(id -u)" = 0 ]; then install -d -o postgres -m 700 "$state"; else mkdir -p -m 700 "$state"; fi
  new=$state/new.${run##*.}
  as_owner mkdir "$new"
else
  data=$run/data
fi

# The cleaner lives in a process group of its own and waits for the end of this script, whatever ends it, kill -9
# included: only this script holds the writing end of the pipe open.
mkfifo "$run/alive"
exec 9<>"$run/alive"
set -m
(trap '' INT TERM HUP; exec 8<"$run/alive" 9>&-; cat <&8; set +e; clean_up) &
cleaner=$!
set +m
finish() { trap '' INT TERM HUP; exec 9>&-; wait "$cleaner"; }
code=130 launching='' signalled=''
[ "$mode" = temp ] || code=0 # `serve` ends by a signal: that is its success
trap finish EXIT
trap 'signalled=1; [ -n "$launching" ] || exit "$code"' INT TERM HUP

if [ ! -e "$data" ]; then
  make_cluster "$new/data" 9>&-
  [ "$mode" = temp ] || as_owner mv "$new/data" "$state/" # all or nothing, and never over another
fi
as_owner "$bin/pg_ctl" start -s -w -D "$data" -l "$run/log" \
  -o "-p 5432 -c listen_addresses='' -c unix_socket_directories=$run -c unix_socket_permissions=0700 $options" 9>&- || {
  cat "$run/log" >&2
  die "PostgreSQL did not start on $data. If it runs already (process $(head -n 1 "$data/postmaster.pid" 2>/dev/null ||
    echo none)): end the other \`make run\` of this checkout first"
}

if [ "$mode" = keep ]; then
  say "PostgreSQL $major, data in $data"
  export DATABASE_URL="postgres:///latchkey?host=$run&user=latchkey"
else
  unset DATABASE_URL
  export LATCHKEY_TEST_DATABASE_URL="postgres:///postgres?host=$run&user=postgres"
  # For the tests that start a PostgreSQL of their own.
  export LATCHKEY_TEST_POSTGRES_BIN=$bin
fi
# In a group of its own the command gets one signal, from the cleaner, also when a terminal sends Ctrl-C to all.
launching=1
set -m
"$@" </dev/null 9>&- & command=$!
set +m
echo "$command" >"$run/group"
launching=
[ -z "$signalled" ] || exit "$code"
wait "$command"
