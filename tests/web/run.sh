#!/usr/bin/env bash
# `make test-web`: the JavaScript client in Node's test runner and the page in Chromium, both against the shipped
# program on LATCHKEY_TEST_DATABASE_URL (tests/cluster.sh temp tests/web/run.sh). Needs Node.js 20 or newer with npm;
# installs Debian's package chromium where there is no Chromium. All traffic of the tests stays on loopback, and nothing
# that it starts outlives it. LATCHKEY_SCREENSHOTS=DIRECTORY keeps pictures of the page; LATCHKEY_TEST_NAME=PATTERN runs the
# tests of that name alone.
set -eu
cd "$(dirname "$0")/../.."
: "${LATCHKEY_TEST_DATABASE_URL:?test-web: call \`make test-web\`}"

die() { printf 'test-web: %s\n' "$*" >&2; exit 1; }
find_chromium() { command -v chromium || command -v chromium-browser || command -v google-chrome; }

install_chromium() {
  local root=
  [ "$(id -u)" = 0 ] || root='sudo -n'
  command -v apt-get >/dev/null && $root true 2>/dev/null || return 0
  echo 'test-web: Chromium is missing: installing the package chromium' >&2
  $root sh -ec '
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -q || echo "going on with the package lists that are there"
    apt-get install -q -y --no-install-recommends -o DPkg::Lock::Timeout=300 chromium' </dev/null >&2 || true
}

command -v npm >/dev/null || die 'Node.js and npm are missing; Debian: apt-get install nodejs npm'
LATCHKEY_CHROMIUM=$(find_chromium) || { install_chromium; LATCHKEY_CHROMIUM=$(find_chromium) ||
  die 'Chromium is missing; Debian: apt-get install chromium'; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cp tests/web/package.json tests/web/package-lock.json "$work"
npm ci --silent --no-fund --no-audit --ignore-scripts --prefix "$work"
export LATCHKEY_CHROMIUM LATCHKEY_NODE_MODULES=$work

cargo build --locked
"$work/node_modules/.bin/tsc" --project tests/web/tsconfig.json
# The runner's own limit is one for each file; two minutes on an idle machine. Each step of a test has its own.
timeout -k 10 900 node --test --test-timeout=800000 ${LATCHKEY_TEST_NAME:+--test-name-pattern="$LATCHKEY_TEST_NAME"} tests/web/
