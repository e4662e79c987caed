#!/usr/bin/env bash
# Runs a command beside a private PostgreSQL, and ends both together:  tests/cluster.sh keep|temp COMMAND [ARGUMENT…]
#   keep  hands over DATABASE_URL; the cluster belongs to this checkout and its data stay between runs (make run)
#   temp  hands over LATCHKEY_TEST_DATABASE_URL, a superuser's; nothing of the cluster stays (make test, make smoke)
# Finds PostgreSQL's server programs, or installs them. The cluster listens on one Unix socket in a directory closed to
# everybody else, which is why it may trust whoever connects. This script never opens a network port, never touches
# another cluster and never deletes a kept one.
set -eu
PATH=$PATH:/usr/sbin:/sbin # runuser, and what Debian's packages need, under a plain `su`

say() { printf 'cluster: %s\n' "$*" >&2; }
die() { say "$@"; exit 1; }

# PostgreSQL refuses to run as root, so root runs it as `postgres`, who may be unable to enter the current directory.
# The environment stays behind: it may hold secrets, and PGPORT and the like would change what runs.
as_owner() (
  cd / && exec 9>&-
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
    ls -d /usr/lib/postgresql/*/bin /usr/pgsql-*/bin | sort -rV
  )
  return 1
}

install_postgres() {
  local root=
  [ "$(id -u)" = 0 ] || root='sudo -n'
  if command -v apt-get >/dev/null && $root true 2>/dev/null; then
    say 'PostgreSQL is missing: installing the package postgresql'
    # Without the file $off Debian's package would make a cluster of its own and start it on port 5432.
    $root sh -ec '
      off=/etc/postgresql-common/createcluster.d/latchkey.conf
      trap "rm -f $off" EXIT
      mkdir -p "${off%/*}" && echo "create_main_cluster = false" >"$off"
      export DEBIAN_FRONTEND=noninteractive
      apt-get update -q || echo "going on with the package lists that are there"
      apt-get install -q -y --no-install-recommends -o DPkg::Lock::Timeout=300 postgresql' </dev/null >&2 || true
  fi
}

# Makes a complete cluster in directory $1: database `latchkey`, owned by the role of this name, which is no superuser.
# `postgres --single` does without the client programs.
make_cluster() {
  as_owner "$bin/initdb" -D "$1" -U postgres -E UTF8 --locale=C --auth-local=trust --auth-host=reject \
    ${sync:+"$sync"} >/dev/null
  printf '%s\n' 'create role latchkey login' 'create database latchkey owner latchkey' |
    as_owner "$bin/postgres" --single ${sync:+-F} -c exit_on_error=on -c log_min_messages=fatal \
      -D "$1" postgres >/dev/null
}

# The line of the running cluster's pid file that has number $1: first the process, fifth the directory of its socket.
pid_file() { as_owner sed -n "$1p" "$data/postmaster.pid" 2>/dev/null; }

# Ends what the command left behind (12 s: the server drains for 10), then the cluster, if it is the one started here.
clean_up() {
  local group
  if group=$(cat "$own/group" 2>/dev/null) && kill -TERM -- "-$group" 2>/dev/null; then
    for _ in {1..120}; do kill -0 -- "-$group" 2>/dev/null || break; sleep 0.1; done
    kill -KILL -- "-$group" 2>/dev/null
  fi
  if [ "$(pid_file 5)" = "$run" ]; then as_owner "$bin/pg_ctl" stop -s -D "$data" -m fast; fi
  as_owner rm -rf "$run" "$new"
  rm -rf "$own"
}

mode=${1-}
[[ $# -ge 2 && $mode =~ ^(keep|temp)$ ]] || die 'usage: tests/cluster.sh keep|temp COMMAND [ARGUMENT…]'
shift
code=130 launching='' signalled=''
trap 'signalled=1; [ -n "$launching" ] || exit "$code"' INT TERM HUP
# A short path, because a socket's may have 107 bytes at most.
run=$(mktemp -u /tmp/latchkey.XXXXXX)
new=$run data=$run/data sync=--no-sync
options='-c fsync=off -c full_page_writes=off -c synchronous_commit=off -c max_connections=500'
if [ "$mode" = keep ]; then
  if [ "$(id -u)" = 0 ]; then home=/var/lib; else home=${XDG_STATE_HOME:-$HOME/.local/state}; fi
  state=$home/latchkey/$(cd "$(dirname "$0")/.." && pwd -P | cksum | cut -d' ' -f1)
  new=$state/new.${run##*.} data=$state/data sync='' options=''
  code=0 # a server ends by a signal: that is its success
fi

wanted=$([ "$mode" = temp ] || as_owner cat "$data/PG_VERSION" 2>/dev/null || true)
find_postgres || install_postgres
find_postgres || die 'PostgreSQL (initdb, pg_ctl, postgres; for root its user) is missing: apt-get install postgresql'
find_postgres "$wanted" || die "$data is of PostgreSQL $wanted: install that version, or move $data away to begin anew"

# The cleaner, in a process group of its own, waits for the end of this script, whatever ends it, kill -9 included: the
# writing end of the pipe is open here alone (so no function is called with 9 redirected: bash would keep a copy).
own=$(mktemp -d)
mkfifo "$own/alive"
exec 9<>"$own/alive"
set -m
(trap '' INT TERM HUP; exec 8<"$own/alive" 9>&-; cat <&8; set +e; clean_up) &
cleaner=$!
set +m
trap 'trap "" INT TERM HUP; exec 9>&-; wait "$cleaner"' EXIT

as_owner mkdir -m 700 "$run"
if [ "$mode" = keep ]; then
  mkdir -p -m 755 "$home/latchkey"
  if [ "$(id -u)" = 0 ]; then install -d -o postgres -m 700 "$state"; else mkdir -p -m 700 "$state"; fi
fi
if [ ! -e "$data" ]; then
  as_owner mkdir -p "$new"
  make_cluster "$new/data"
  # All or nothing, and never over another one.
  [ "$mode" = temp ] || as_owner mv "$new/data" "$state/" || die "another \`make run\` made $data meanwhile"
fi
if as_owner "$bin/pg_ctl" status -D "$data" >/dev/null; then
  die "PostgreSQL process $(pid_file 1) uses $data: end the other \`make run\` of this checkout, or what is left of it"
fi
as_owner "$bin/pg_ctl" start -s -w -D "$data" -l "$run/log" -o "-p 5432 -c listen_addresses='' \
  -c unix_socket_directories=$run -c unix_socket_permissions=0700 $options" || {
  as_owner cat "$run/log" >&2 || true
  die "PostgreSQL did not start on $data"
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
echo "$command" >"$own/group"
launching=
[ -z "$signalled" ] || exit "$code"
wait "$command"; exit # on one line: what is edited below while this runs is not read
