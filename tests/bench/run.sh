#!/usr/bin/env bash
# Builds what `make bench` and `make bench-growth` measure, and measures it:
#   tests/cluster.sh temp tests/bench/run.sh compare|growth
# Installs wrk where it is missing. Each is under five minutes once everything is built; loopback only.
set -eu
cd "$(dirname "$0")/../.."

die() { printf 'bench: %s\n' "$*" >&2; exit 1; }

if ! command -v wrk >/dev/null; then
  root=; [ "$(id -u)" = 0 ] || root='sudo -n'
  { $root apt-get update -q && $root apt-get install -q -y --no-install-recommends wrk; } >/dev/null 2>&1 ||
    die 'wrk is missing; Debian: apt-get install wrk'
fi
: "${LATCHKEY_TEST_DATABASE_URL:?bench: call \`make bench\`}"
case ${1-} in compare | growth) ;; *) die 'compare or growth?' ;; esac
target=${CARGO_TARGET_DIR:-$PWD/target}
cargo build --quiet --release --locked
programs=(--bins)
[ "$1" != growth ] || programs=(--bin growth)
cargo build --quiet --release --locked --manifest-path tests/bench/Cargo.toml --target-dir "$target/bench" "${programs[@]}"

processor=$(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1)
printf '%s, %s cores (%s), Linux %s, %s, without fsync; load, server and database share the cores.\n\n' \
  "$(date +%F)" "$(nproc)" "$processor" "$(uname -r)" "$("$LATCHKEY_TEST_POSTGRES_BIN/postgres" --version)"
export LATCHKEY=$target/release/latchkey
exec "$target/bench/release/$1"
