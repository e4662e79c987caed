#!/usr/bin/env bash
# `make audit`: what an auditor asks first, on one screen: lines of code for each room beside the ceilings, crates,
# advisories, unsafe code, and the claims. tests/audit.rs counts; this script adds what cargo knows.
set -eu
cd "$(dirname "$0")/.."

cargo test --locked --quiet --test audit -- --exact --nocapture the_report | sed -n '/^room/,/^claims/p'
direct=$(cargo tree --locked --edges normal --depth 1 --prefix none | tail -n +2 | wc -l)
all=$(cargo tree --locked --edges normal --prefix none | tail -n +2 | awk '{ print $1, $2 }' | sort -u | wc -l)
printf 'crates         %s direct, %s in all (manual, "Decisions and crates")\n' "$direct" "$all"
printf 'unsafe         %s in src (forbidden by Cargo.toml)\n' "$(grep -rwE 'unsafe' --include='*.rs' src | grep -vc '//' || true)"
if cargo deny --version >/dev/null 2>&1; then
  cargo deny --log-level error check --config tests/deny.toml advisories && advisories='none but those accepted in tests/deny.toml'
elif cargo audit --version >/dev/null 2>&1; then
  cargo audit --quiet && advisories='none'
else
  advisories='not checked: neither cargo-deny nor cargo-audit is installed'
fi
printf 'advisories     %s; %s accepted, each with its reason\n' "${advisories:-SEE ABOVE}" "$(grep -c 'id = ' tests/deny.toml)"
