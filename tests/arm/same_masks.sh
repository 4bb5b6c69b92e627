#!/usr/bin/env bash
# The ARM build under qemu gives the masks that the build for this machine gives, to the pixel: same_masks.sh BUNDLE
# IMAGE... All images on a CPU that has everything, the first two on a Cortex-A72, where tract takes other kernels. In half
# precision, which is f16 there, the first two nearly so.
#
# Both binaries are there before: tests/arm/build.sh, cargo build -p daemon.
set -euo pipefail
bundle=$1
shift
folder=$(cd "$(dirname "$0")" && pwd)
arm=$folder/../../target/aarch64-unknown-linux-gnu/release/scansided
here=$folder/../../target/debug/scansided
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

aarch64-linux-gnu-strip -o "$work/arm" "$arm"
strip -o "$work/here" "$here"
printf 'stripped: aarch64 %d bytes (without demo), %s %d bytes\n' \
    "$(stat -c %s "$work/arm")" "$(uname -m)" "$(stat -c %s "$work/here")"

images=("$bundle/golden.tif" "$@")
time "$here" segment --bundle "$bundle" "${images[@]}" >"$work/here.jsonl"
compare() {
    local cpu=$1 flag=$2 dice=$3
    shift 3
    echo "qemu -cpu $cpu $flag:"
    # A second thread never starts under Debian's qemu 7.2; here it runs.
    time qemu-aarch64-static -cpu "$cpu" -L /usr/aarch64-linux-gnu "$work/arm" segment --threads 1 $flag --bundle "$bundle" "$@" \
        >"$work/arm.jsonl" 2>"$work/words" || { cat "$work/words" >&2 && return 1; }
    "${SCANSIDE_PYTHON:-python3}" "$folder/compare.py" --dice="$dice" <(head -n $# "$work/here.jsonl") "$work/arm.jsonl"
}
compare max "" 1 "${images[@]}"
compare cortex-a72 "" 1 "${images[@]:0:2}"
compare max --half-precision 0.98 "${images[@]:0:2}"
grep -q 'in half precision format="f16"' "$work/words"
