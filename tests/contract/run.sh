#!/usr/bin/env bash
# `make test-contract`: src/web/openapi.json is valid for redocly and spectral, and schemathesis, with all its checks, finds
# nothing that the shipped program does otherwise, on LATCHKEY_TEST_DATABASE_URL (tests/cluster.sh temp
# tests/contract/run.sh). Needs Node.js with npm and Python 3.10 or newer with venv. The tools go into a temporary
# directory; the tests stay on loopback, and nothing that is started outlives them. SEED=N repeats a run.
set -eu
cd "$(dirname "$0")/../.."
: "${LATCHKEY_TEST_DATABASE_URL:?test-contract: call \`make test-contract\`}"

die() { printf 'test-contract: %s\n' "$*" >&2; exit 1; }
random() { head -c 32 /dev/urandom | od -An -v -tx1 | tr -d ' \n'; }

command -v npm >/dev/null || die 'Node.js and npm are missing; Debian: apt-get install nodejs npm'
command -v python3 >/dev/null || die 'Python is missing; Debian: apt-get install python3 python3-venv'
work=$(mktemp -d)
server=
trap '[ -z "$server" ] || kill "$server" 2>/dev/null; rm -rf "$work"' EXIT

npm install --silent --no-fund --no-audit --ignore-scripts --no-save --prefix "$work" \
  @redocly/cli@2.77.0 @stoplight/spectral-cli@6.16.3
echo 'extends: ["spectral:oas"]' >"$work/spectral.yaml"
export REDOCLY_TELEMETRY=off REDOCLY_SUPPRESS_UPDATE_NOTICE=true
"$work/node_modules/.bin/redocly" lint src/web/openapi.json
"$work/node_modules/.bin/spectral" lint -r "$work/spectral.yaml" src/web/openapi.json

python3 -m venv "$work/python" || die 'Python has no venv; Debian: apt-get install python3-venv'
"$work/python/bin/pip" install --quiet --disable-pip-version-check schemathesis==4.32.5

cargo build --locked
mkfifo "$work/output"
DATABASE_URL=$LATCHKEY_TEST_DATABASE_URL JWT_SECRET=$(random) LISTEN=127.0.0.1:0 LATCHKEY_ENV=test BCRYPT_COST=4 \
  LOGIN_FAILURE_LIMIT=0 ADDRESS_LIMIT=0 RUST_LOG=error target/debug/latchkey serve >"$work/output" &
server=$!
exec 3<"$work/output"
read -r _ _ base <&3 || die 'expected the server to say where it listens, but it ended'

# What schemathesis and hypothesis write down goes with the directory.
cp tests/contract/hooks.py tests/contract/schemathesis.toml "$work"
cd "$work"
LATCHKEY_BASE=$base SCHEMATHESIS_HOOKS=hooks PYTHONPATH=. timeout -k 10 400 python/bin/schemathesis run \
  "$base/openapi.json" --checks all --max-examples "${EXAMPLES:-25}" ${SEED:+--seed "$SEED"}
kill "$server"
wait "$server" || die "expected the server to stop with status 0, got $?"
server=
