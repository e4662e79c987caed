#!/usr/bin/env bash
# A real Better Auth from npm, in a temporary folder and on loopback, against the shipped program:
#   tests/cluster.sh temp tests/better-auth/run.sh   (make test-better-auth)
# Compiles every JavaScript and TypeScript sample of the README and the manual, runs those of the chapter on Better Auth,
# and tries every token that Better Auth issues. Needs Node 20 or newer with npm and its registry. The versions are those
# of package-lock.json; no script of a package is run, nothing is written outside the folder and npm's cache.
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

node "$work/samples.mjs" . "$work/app"
mkdir -p "$work/app/lib/latchkey" "$work/out/lib/latchkey"
cp src/web/api.js src/web/api.d.ts "$work/app/lib/latchkey"
cp -r "$work/app/lib/latchkey" "$work/app/latchkey"
cp src/web/api.js "$work/out/lib/latchkey"
cp tests/better-auth/database.ts "$work/app/lib"
cp -r tests/better-auth/next "$work/node_modules"
"$work/node_modules/.bin/tsc" --project "$work/samples.tsconfig.json"
# A bundler finds `./file` for itself; Node.js wants the whole name.
find "$work/out" -name '*.js' ! -name api.js -exec sed -i -E 's#(from "\.[^"]*)"#\1.js"#' {} +

node "$work/drive.mjs" 2>"$work/log" || {
  tail -n 40 "$work/log" >&2
  exit 1
}
