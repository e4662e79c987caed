#!/usr/bin/env bash
# `make run`: builds, migrates and serves, with the settings of the environment and, where that is silent, of `.env`.
# Without DATABASE_URL it starts a private PostgreSQL (tests/cluster.sh). Never prints a value, never changes a setting
# that is there: it only adds a fresh JWT_SECRET where there is none.
set -eu
cd "$(dirname "$0")/.."
trap 'exit 130' INT

refuse() { printf '.env: line %s: %s\n' "$number" "$1" >&2; exit 2; }

# Each line is NAME=VALUE, exported as it stands to the line's end: no expansion, no quotes, no escapes.
read_env() {
  local line name number=0 names=' '
  while IFS= read -r line || [ -n "$line" ]; do
    number=$((number + 1))
    [[ $line =~ ^[[:space:]]*$ || $line == '#'* ]] && continue
    [[ $line =~ ^[A-Z_][A-Z0-9_]*= ]] || refuse 'not a comment and not NAME=VALUE'
    [[ $line != *$'\r' ]] || refuse 'ends in a carriage return'
    name=${line%%=*}
    [[ $names != *" $name "* ]] || refuse "sets $name again"
    names="$names$name "
    printenv "$name" >/dev/null || export "$line"
  done <.env
}

# 32 random bytes as hexadecimal digits. A new file takes the old one's place at once: closed to others from its first
# byte, and never half written.
if [ -z "${JWT_SECRET+set}" ] && ! grep -qs '^JWT_SECRET=' .env; then
  secret=$(head -c 32 /dev/urandom | od -An -v -tx1 | tr -d ' \n')
  (
    umask 077
    [ ! -e .env ] || sed '/^JWT_SECRET=/d' .env >.env.$$ # without what another first run put there meanwhile
    printf '\n# Signs the access tokens.\nJWT_SECRET=%s\n' "$secret" >>.env.$$
    mv .env.$$ .env
  )
fi

# A malformed file is refused before the long build, but its secrets are no business of build scripts.
[ ! -e .env ] || (read_env)
cargo build --release --locked
[ ! -e .env ] || read_env

latchkey='cargo run --quiet --release --locked --'
set -- sh -c "$latchkey migrate && exec $latchkey serve"
[ -n "${DATABASE_URL+set}" ] || set -- tests/cluster.sh keep "$@"
exec "$@"
