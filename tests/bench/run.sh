#!/usr/bin/env bash
# Prints what the README quotes, on one machine in one run:  tests/cluster.sh temp tests/bench/run.sh
# `GET /healthz` against a minimal axum server and rouille's own; the request that ends the latter; memory with 512
# connections; reads beside a login flood.
# Loopback only; ends after about two minutes. Never judges: the README says what is asked of the figures.
set -eu
cd "$(dirname "$0")/../.."

die() { printf 'bench: %s\n' "$*" >&2; exit 1; }

if ! command -v wrk >/dev/null; then
  root=; [ "$(id -u)" = 0 ] || root='sudo -n'
  { $root apt-get update -q && $root apt-get install -q -y --no-install-recommends wrk; } >/dev/null 2>&1 ||
    die 'wrk is missing; Debian: apt-get install wrk'
fi
: "${LATCHKEY_TEST_DATABASE_URL:?bench: call \`make bench\`}"
target=${CARGO_TARGET_DIR:-$PWD/target}
cargo build --quiet --release --locked
cargo build --quiet --release --locked --manifest-path tests/bench/Cargo.toml --target-dir "$target/bench"

work=$(mktemp -d)
trap 'kill $(jobs -p) 2>/dev/null || true; wait; rm -rf "$work"' EXIT
random() { head -c 16 /dev/urandom | od -An -v -tx1 | tr -d ' \n'; }

# Starts a server that says where it listens; sets $address and $pid.
start() {
  : >"$work/$1.out"
  "${@:2}" >"$work/$1.out" 2>"$work/$1.log" &
  pid=$!
  for _ in {1..100}; do
    address=$(sed -n 's#^listening on http://##p' "$work/$1.out")
    [ -z "$address" ] || return 0
    sleep 0.1
  done
  die "$1 did not start: $(tail -n 3 "$work/$1.log")"
}

export DATABASE_URL=$LATCHKEY_TEST_DATABASE_URL LISTEN=127.0.0.1:0
JWT_SECRET=$(random)$(random)
export JWT_SECRET LOGIN_FAILURE_LIMIT=0 ADDRESS_LIMIT=0 RUST_LOG=warn
start latchkey "$target/release/latchkey"; ours=$address ours_pid=$pid
start axum "$target/bench/release/axum" 127.0.0.1:0; axum=$address
start rouille "$target/bench/release/rouille" 127.0.0.1:0; rouille=$address

rate() { wrk -t2 -c64 -d3s "http://$1/healthz" | sed -n 's/^Requests\/sec: *//p'; }
middle() { sort -g | sed -n '3p'; }
echo '== GET /healthz, 64 keep-alive connections, requests per second, middle of five, in turn'
for server in "$ours" "$axum" "$rouille"; do rate "$server" >/dev/null; done
for _ in 1 2 3 4 5; do
  rate "$ours" >>"$work/ours.rates"; rate "$axum" >>"$work/axum.rates"; rate "$rouille" >>"$work/rouille.rates"
done
a=$(middle <"$work/ours.rates") b=$(middle <"$work/axum.rates") c=$(middle <"$work/rouille.rates")
awk -v a="$a" -v b="$b" -v c="$c" 'BEGIN {
  printf "latchkey %.0f  axum %.0f  rouille %.0f\n", a, b, c
  printf "latchkey / axum: %.2f   latchkey / rouille: %.2f\n", a / b, a / c }'

echo '== one request of 70 bytes'
hostile() {
  exec 3<>"/dev/tcp/${1%:*}/${1#*:}"
  printf 'GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 70368744177664\r\n\r\n' >&3
  timeout 3 head -n 1 <&3 | tr -d '\r' || true
  exec 3>&-
  sleep 1
  if kill -0 "$2" 2>/dev/null; then echo "$3 lives on"; else echo "$3 is dead: $(tail -n 1 "$work/$3.log")"; fi
}
hostile "$ours" "$ours_pid" latchkey
hostile "$rouille" "$pid" rouille
kill "$pid" 2>/dev/null || true

echo '== peak memory after 512 connections'
start fresh "$target/release/latchkey"
wrk -t2 -c512 -d2s "http://$address/healthz" >/dev/null
awk '/VmHWM/ { printf "%.1f MiB\n", $2 / 1024 }' "/proc/$pid/status"
kill "$pid"

echo '== reads beside a login flood at cost 12'
password=$(random)
for email in reader@example.com flooder@example.com; do
  curl -sS -o /dev/null "http://$ours/auth/register" -H 'Content-Type: application/json' \
    -d "{\"email\":\"$email\",\"password\":\"$password\"}"
done
"$target/bench/release/flood" "$ours" reader@example.com flooder@example.com "$password" 8
kill "$ours_pid"
