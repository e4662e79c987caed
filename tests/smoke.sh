#!/usr/bin/env bash
# The README's flow and a few refusals, with curl alone, against any latchkey:  tests/smoke.sh https://host
# Without an address it starts a release server on LATCHKEY_TEST_DATABASE_URL (tests/cluster.sh temp tests/smoke.sh).
# The comment at the end of a curl line is the status it must give, and what its answer must hold. Every command and
# answer is printed; the first surprise ends the script. Deletes the two accounts that it made; never prints a password
# or a token.
set -eu

fail() { printf 'smoke: %s\n' "$*" >&2; exit 1; }
random() { head -c 16 /dev/urandom | od -An -v -tx1 | tr -d ' \n'; }
stop() { kill "$server" && wait "$server" || fail "expected the server to stop with status 0, got $?"; }

base=${1:+${1%/}} work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
if [ -z "$base" ]; then
  : "${LATCHKEY_TEST_DATABASE_URL:?smoke: give a base URL, or call \`make smoke\`}"
  cargo build --release --locked
  mkfifo "$work/output"
  DATABASE_URL=$LATCHKEY_TEST_DATABASE_URL JWT_SECRET=$(random)$(random) LISTEN=127.0.0.1:0 RUST_LOG=warn \
    cargo run --quiet --release --locked -- serve >"$work/output" &
  server=$!
  trap 'rm -rf "$work"; stop' EXIT
  exec 3<"$work/output" # stays open, or the server could write no more
  read -r _ _ base <&3 || fail 'expected the server to say where it listens, but it ended'
fi

# Stands for curl in the lines below: keeps the answer and its status, and hands the answer on.
curl() {
  : >"$work/answer"
  command curl --max-time 30 -o "$work/answer" -w '%{http_code}' "$@" >"$work/status" || true
  cat "$work/answer"
}

# Runs the lines of its standard input, one after the other, in this shell.
run() {
  while IFS= read -r line; do
    [[ $line != '#'* ]] || continue
    printf '$ %s\n' "$line" && eval "$line" >/dev/null
    [[ $line == *'curl '* ]] || continue
    read -r expected part <<<"${line##*# }"
    status=$(cat "$work/status") answer=$(cat "$work/answer")
    printf '%s %s\n' "$status" "$answer" | sed 's/\("[a-z]*_token":"\)[^"]*/\1…/g'
    [[ $status == "$expected" && $answer == *"$part"* ]] || fail "expected $expected $part, got the above"
  done
}

password=$(random) email=ada+$(date +%s)-$$@example.com
run <<'END'
# README: begin
json='Content-Type: application/json'
member() { sed "s/.*\"$1\":\"\([^\"]*\).*/\1/"; }
account="{\"email\":\"$email\",\"password\":\"$password\"}"
curl -sS "$base/auth/register" -H "$json" -d "$account"  # 201
tokens=$(curl -sS "$base/auth/login" -H "$json" -d "$account")  # 200 "token_type":"bearer"
bearer="Authorization: Bearer $(echo "$tokens" | member access_token)"
curl -sS "$base/auth/me" -H "$bearer"  # 200 "is_active":true
task=$(curl -sS "$base/api/me/tasks" -H "$bearer" -H "$json" -d '{"title":"Buy milk"}' | member id)  # 201 "completed":false
curl -sS "$base/api/me/tasks" -H "$bearer"  # 200 "title":"Buy milk"
curl -sS -X PATCH "$base/api/me/tasks/$task/complete" -H "$bearer"  # 200 "completed":true
curl -sS -X PUT "$base/api/me/tasks/$task" -H "$bearer" -H "$json" -d '{"title":"Buy tea"}'  # 200 "title":"Buy tea"
curl -sS -X DELETE "$base/api/me/tasks/$task" -H "$bearer"  # 204
# Refresh twice, then present the first refresh token again: reuse ends the session, its access token too.
first=$(echo "$tokens" | member refresh_token)
second=$(curl -sS "$base/auth/refresh" -H "$json" -d "{\"refresh_token\":\"$first\"}" | member refresh_token)  # 200
curl -sS "$base/auth/refresh" -H "$json" -d "{\"refresh_token\":\"$second\"}"  # 200 "token_type":"bearer"
curl -sS "$base/auth/refresh" -H "$json" -d "{\"refresh_token\":\"$first\"}"  # 401 "title":"Invalid refresh token"
curl -sS "$base/auth/me" -H "$bearer"  # 401 "title":"Invalid token"
# Log in again, then log out: the access token is refused with the next request.
bearer="Authorization: Bearer $(curl -sS "$base/auth/login" -H "$json" -d "$account" | member access_token)"  # 200
curl -sS -X POST "$base/auth/logout" -H "$bearer"  # 204
curl -sS "$base/auth/me" -H "$bearer"  # 401 "title":"Invalid token"
# README: end
bearer="Authorization: Bearer $(curl -sS "$base/auth/login" -H "$json" -d "$account" | member access_token)"  # 200
curl -sS "$base/api/me/tasks/$task" -H "$bearer"  # 404 "status":404
user=$(curl -sS "$base/api/me/tasks" -H "$bearer" -H "$json" -d '{"title":"Mine"}' | member user_id)  # 201
task=$(curl -sS "$base/api/$user/tasks" -H "$bearer" | member id)  # 200 "title":"Mine"
email=bob+${email#*+}
account="{\"email\":\"$email\",\"password\":\"$password\"}"
curl -sS "$base/auth/register" -H "$json" -d "$account"  # 201
curl -sS "$base/auth/register" -H "$json" -d "$account"  # 409 "status":409
curl -sS "$base/auth/login" -H "$json" -d "{\"email\":\"$email\",\"password\":\"not it\"}"  # 401 "status":401
other="Authorization: Bearer $(curl -sS "$base/auth/login" -H "$json" -d "$account" | member access_token)"  # 200
curl -sS "$base/api/$user/tasks" -H "$other"  # 403 "detail":"Access denied: user ID mismatch"
curl -sS "$base/api/me/tasks/$task" -H "$other"  # 404 "status":404
curl -sS -X DELETE "$base/api/me/tasks/$task" -H "$other"  # 404 "status":404
curl -sS "$base/api/me/tasks" -H "$other"  # 200 []
curl -sS "$base/api/me/tasks"  # 401 "status":401
curl -sS "$base/auth/delete" -H "$other" -H "$json" -d "{\"password\":\"$password\"}"  # 204
curl -sS "$base/auth/delete" -H "$bearer" -H "$json" -d "{\"password\":\"$password\"}"  # 204
END
echo 'smoke: all as expected'
