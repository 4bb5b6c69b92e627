#!/usr/bin/env bash
# The ARM build under qemu gives the masks that the build for this machine gives, but for rounding:
# same_masks.sh BUNDLE IMAGE...
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
time qemu-aarch64-static -L /usr/aarch64-linux-gnu "$work/arm" segment --bundle "$bundle" "${images[@]}" \
    >"$work/arm.jsonl"
"${SCANSIDE_PYTHON:-python3}" "$folder/compare.py" "$work/here.jsonl" "$work/arm.jsonl" --rounding
