#!/usr/bin/env bash
# A real Better Auth from npm, in a temporary folder and on loopback, against the shipped program:
#   tests/cluster.sh temp tests/better-auth/run.sh   (make test-better-auth)
# Needs Node 20 or newer with npm and its registry. The versions are those of package-lock.json; no script of a package
# is run, nothing is written outside the folder and npm's cache.
set -eu
: "${LATCHKEY_TEST_DATABASE_URL:?call \`make test-better-auth\`}"
cd "$(dirname "$0")/../.."

cargo build --locked
LATCHKEY=$(cargo metadata --locked --no-deps --format-version 1 | sed 's/.*"target_directory":"\([^"]*\)".*/\1/')/debug/latchkey
export LATCHKEY

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cp tests/better-auth/*.json tests/better-auth/*.mjs "$work"
(cd "$work" && npm ci --ignore-scripts --no-audit --no-fund --silent) || {
  echo 'better-auth: npm could not install the packages (see above); nothing was tested' >&2
  exit 1
}
node "$work/drive.mjs" 2>"$work/log" || {
  tail -n 40 "$work/log" >&2
  exit 1
}
