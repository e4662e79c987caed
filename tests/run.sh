#!/usr/bin/env bash
# `make run`: builds, migrates and serves, with the settings of the environment and, beneath it, of `.env`.
# Without DATABASE_URL it starts a private PostgreSQL (tests/cluster.sh). Never prints a value, never changes a setting
# that is there: it only adds a fresh JWT_SECRET where there is none.
set -eu
cd "$(dirname "$0")/.."
trap 'exit 130' INT

# 32 random bytes as hexadecimal digits. A new file takes the old one's place at once: closed to others from its first
# byte, and never half written.
if [ -z "${JWT_SECRET+set}" ] && ! grep -qs '^JWT_SECRET=' .env; then
  secret=$(head -c 32 /dev/urandom | od -An -v -tx1 | tr -d ' \n')
  (
    umask 077
    [ ! -e .env ] || sed '/^JWT_SECRET=/d' .env >.env.$$ # without what another first run put there meanwhile
    printf '\n# The keys of access tokens, refresh tokens and e-mail digests are derived from it.\nJWT_SECRET=%s\n' "$secret" >>.env.$$
    mv .env.$$ .env
  )
fi

cargo build --release --locked

latchkey='cargo run --quiet --release --locked --'
[ ! -e .env ] || latchkey="$latchkey --env-file .env"
set -- sh -c "$latchkey migrate && exec $latchkey serve"
[ -n "${DATABASE_URL+set}" ] || grep -qs '^DATABASE_URL=' .env || set -- tests/cluster.sh keep "$@"
exec "$@"
