#!/usr/bin/env bash
# `make mutants`: removes the guards of tests/mutants.txt one at a time, on a copy of the tracked files, and shows the
# test of the claim that fails then. A mutant whose tests still pass survives: the claim is not shown, and this script
# fails.  PART=2/4 takes every fourth mutant from the second on; ONLY='S12 S13' those of these claims.
# The copy shares this checkout's target directory: the dependencies are not built again.
set -eu
cd "$(dirname "$0")/.."
: "${LATCHKEY_TEST_DATABASE_URL:?mutants: call \`make mutants\`}"
root=$PWD
copy=$(mktemp -d)
# Cargo compares times of files alone: without the touch it would take what was built of the last mutant for ours.
trap 'rm -rf "$copy"; touch "$root"/src/*.rs "$root"/tests/*.rs "$root"/tests/server/main.rs' EXIT
git ls-files -z | xargs -0 cp --parents -t "$copy"
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$root/target}
cd "$copy"

# Prints "claim<TAB>path<TAB>number" for each mutant; with a number, writes that mutant into its file.
mutant() {
  python3 - "$@" <<'PYTHON'
import sys
mutants = []
for line in open("tests/mutants.txt", encoding="utf-8").read().splitlines():
    if not line or line[0] == "#":
        continue
    if line[0] in "-+":
        mutants[-1]["-+".index(line[0]) + 2].append(line[1:] + "\n")
    else:
        mutants.append([*line.split(" ", 1), [], []])
if len(sys.argv) == 1:
    for number, (claim, path, _, _) in enumerate(mutants):
        print(claim, path, number, sep="\t")
else:
    _, path, old, new = mutants[int(sys.argv[1])]
    text = open(path, encoding="utf-8").read()
    old, new = "".join(old), "".join(new)
    assert text.count(old) == 1, f"{path}: the text of the mutant is not there once"
    open(path, "w", encoding="utf-8").write(text.replace(old, new))
    for sign, lines in (("-", old), ("+", new)):
        for line in lines.splitlines():
            print("   ", sign, line.strip())
PYTHON
}

# Runs the tests of a claim: those in Rust whose names begin with its id; where there are none, those in JavaScript.
run_tests() {
  local id=${1,,}
  if grep -rqE "fn ${id}_" --include='*.rs' src tests; then
    timeout -k 5 240 cargo test --locked --quiet "${id}_" >"$copy/log" 2>&1
  else
    LATCHKEY_TEST_NAME="^$1 " timeout -k 5 240 tests/web/run.sh >"$copy/log" 2>&1
  fi
}

started=$SECONDS
part=${PART:-1/1}
total=0 survived=0
while IFS=$'\t' read -r claim path number; do
  [ $((number % ${part#*/})) = $((${part%/*} - 1)) ] || continue
  [ -z "${ONLY:-}" ] || [[ " $ONLY " = *" $claim "* ]] || continue
  cp "$path" "$copy/original"
  printf '%s in %s\n' "$claim" "$path"
  mutant "$number"
  total=$((total + 1))
  if run_tests "$claim"; then
    survived=$((survived + 1))
    echo '    SURVIVED: the tests of the claim still pass'
  elif grep -q '^error' "$copy/log" && ! grep -qE 'test result: FAILED|^not ok|failed to run' "$copy/log"; then
    printf '    dies: it does not compile: %s\n' "$(grep -m1 '^error' "$copy/log")"
  else
    printf '    dies: %s\n' "$(grep -m1 -oE '^(not ok [0-9]+ - |---- ).*' "$copy/log" ||
      echo 'the tests did not end in time')"
  fi
  cp "$copy/original" "$path"
done < <(mutant)
printf '%s mutants, %s survived, in %s s\n' "$total" "$survived" $((SECONDS - started))
[ "$total" -gt 0 ] && [ "$survived" = 0 ]
