#!/usr/bin/env bash
# How many instructions an inference takes on ARM: instructions.sh [--functions] [--half-precision | --marks] BUNDLE...
#
# One table for a CPU that has everything and for a Cortex-A72, which lacks the dot products. Every bundle is compared with
# the first one. --marks wants two, f32 and int8, and fails where int8 takes more than half of f32's on the first CPU or more
# than four fifths on the second. --functions adds where the instructions are. --half-precision multiplies f32 in 16 bits on
# the first CPU; the second cannot.
#
# They are counted by a plugin of qemu, count_instructions.c, which needs Debian's qemu-user (7.2; qemu-user-static takes no
# plugins) and gcc. tests/arm/build.sh has run before.
set -euo pipefail
folder=$(cd "$(dirname "$0")" && pwd)
arm=$folder/../../target/aarch64-unknown-linux-gnu/release/scansided
declare -A mark_percent=([max]=50 [cortex-a72]=80)
marks=false
functions=false
segment=(segment --threads 1)
while [[ "${1:-}" = --* ]]; do
    case $1 in
    --marks) marks=true ;;
    --functions) functions=true ;;
    --half-precision) segment+=(--half-precision) ;;
    *) echo "no option $1" >&2 && exit 2 ;;
    esac
    shift
done
if [ $# -eq 0 ] || { $marks && [ $# -ne 2 ]; } || { $marks && [ ${#segment[@]} -gt 3 ]; }; then
    echo "usage: $0 [--functions] [--half-precision | --marks] BUNDLE... (with --marks: F32 INT8)" >&2
    exit 2
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
gcc -O2 -Wall -Wextra -Werror -shared -fPIC -o "$work/count.so" "$folder/count_instructions.c"

# Segments the golden image as often as is said; leaves lines of `COUNT FUNCTION`.
count() {
    local cpu=$1 bundle=$2 times=$3 images=() i
    for ((i = 0; i < times; i++)); do
        images+=("$bundle/golden.tif")
    done
    # One thread: a second one never starts under qemu 7.2, and the plugin does not count several.
    qemu-aarch64 -cpu "$cpu" -L /usr/aarch64-linux-gnu -plugin "$work/count.so" -d plugin -D "$work/counts.$times" \
        "$arm" "${segment[@]}" --bundle "$bundle" "${images[@]}" >"$work/masks.$times" 2>"$work/words.$times" || true
    if [ "$(wc -l <"$work/masks.$times")" -ne "$times" ] || [ ! -s "$work/counts.$times" ]; then
        echo "-cpu $cpu: not $times masks of $bundle, or no counts" >&2
        cat "$work/words.$times" >&2
        return 1
    fi
}

# Lines of `COUNT FUNCTION` for one inference: three images less one, by two, so that start and self-test cancel out.
inference() {
    local once thrice
    rm -f "$work"/counts.*
    count "$1" "$2" 1 &
    once=$!
    count "$1" "$2" 3 &
    thrice=$!
    wait "$once"
    wait "$thrice"
    awk 'NR == FNR { one[$2] += $1; next } { three[$2] += $1 }
        END { for (name in three) printf "%.0f %s\n", (three[name] - one[name]) / 2, name }' \
        "$work/counts.1" "$work/counts.3" | sort -rn >"$work/inference"
}

failed=false
details=""
printf '| cpu | bundle | million instructions an inference | of the first |\n|---|---|---|---|\n'
for cpu in max cortex-a72; do
    first=""
    for bundle in "$@"; do
        inference "$cpu" "$bundle"
        total=$(awk '{ sum += $1 } END { printf "%.0f", sum }' "$work/inference")
        first=${first:-$total}
        awk -v cpu="$cpu" -v bundle="$(basename "$bundle")" -v total="$total" -v first="$first" \
            'BEGIN { printf "| %s | %s | %.1f | %.3f |\n", cpu, bundle, total / 1e6, total / first }'
        details+=$(printf '\n\n-cpu %s, %s, millions:\n.' "$cpu" "$bundle")
        details=${details%.}$(c++filt <"$work/inference" | sed -E 's/::h[0-9a-f]{16}//; s/ \[clone .*//' |
            awk 'NR <= 12 { count = $1; $1 = ""; printf "%8.1f %s\n", count / 1e6, $0 }')
    done
    # The last bundle is int8.
    if $marks && [ $((total * 100)) -gt $((first * mark_percent[$cpu])) ]; then
        echo "-cpu $cpu: int8 takes more than ${mark_percent[$cpu]} % of f32's instructions" >&2
        failed=true
    fi
done
if $functions; then
    printf '%s\n' "$details"
fi
! $failed
