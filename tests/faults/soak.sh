#!/usr/bin/env bash
# The long version of every fault, one after the other: bash tests/faults/soak.sh [NAME...]
#
# Hours. SCANSIDE_SOAK_MINUTES says how long `a_soak` goes on (30). Prints a line for each test as it ends, and at the
# end the table: verdict, seconds, test, and the figures that it printed. What a test said is in target/soak/.
set -uo pipefail
cd "$(dirname "$0")/../.."
export SCANSIDE_LONG=1 SCANSIDE_REQUIRE_PEERS=1
faults=(cargo test --quiet --workspace --test faults --)
logs=target/soak
mkdir -p "$logs"

mapfile -t names < <("${faults[@]}" --list "$@" | sed -n 's/: test$//p')
[ ${#names[@]} -gt 0 ] || { echo "no such test: $*" >&2; exit 2; }

table=()
failed=0
for name in "${names[@]}"; do
    start=$SECONDS verdict=passed log=$logs/${name//::/.}.log
    "${faults[@]}" --exact "$name" --nocapture >"$log" 2>&1 || { verdict=FAILED; failed=1; }
    # Figures have digits; the rest is libtest's.
    figures=$(grep -vE '^(running|test |test result|failures|note:|error|\.|$|-|thread )' "$log" | grep '[0-9]' | tail -n 3 | tr '\n' ' ')
    [ "$verdict" = passed ] || figures="see $log"
    table+=("$(printf '%-6s %6d s  %-55s %s' "$verdict" $((SECONDS - start)) "$name" "${figures:0:300}")")
    printf '%s\n' "${table[-1]}"
done
printf '\n=== summary\n'
printf '%s\n' "${table[@]}"
exit "$failed"
