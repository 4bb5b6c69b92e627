#!/usr/bin/env bash
# What comes from outside, with any bytes: bash tests/fuzz/run.sh [EXECUTIONS] [TARGET...]
#
# A million executions of every target unless said otherwise, an address sanitizer watching. A crash stops it and leaves
# its input in target/fuzz/artifacts. Needs nightly Rust, a C++ compiler and `cargo install cargo-fuzz`.
set -euo pipefail
cd "$(dirname "$0")"
export CARGO_TARGET_DIR=$PWD/../../target/fuzz
# In memory: `bundle` writes and unpacks a file in each execution.
[ ! -d /dev/shm ] || export TMPDIR=/dev/shm
executions=${1:-1000000}
targets=("${@:2}")
[ ${#targets[@]} -gt 0 ] || mapfile -t targets < <(cargo +nightly fuzz list --fuzz-dir .)

for target in "${targets[@]}"; do
    # What it finds goes to the first folder; the seeds are read only.
    mkdir -p "$CARGO_TARGET_DIR/corpus/$target" "$CARGO_TARGET_DIR/artifacts/$target"
    cargo +nightly fuzz run --fuzz-dir . "$target" "$CARGO_TARGET_DIR/corpus/$target" "seeds/$target" -- \
        -runs="$executions" -max_len=4096 -timeout=10 -rss_limit_mb=1024 -print_final_stats=1 \
        -artifact_prefix="$CARGO_TARGET_DIR/artifacts/$target/" 2>&1 |
        grep -E '^(stat::number_of_executed_units|stat::average_exec|stat::peak_rss|SUMMARY|==|Done|thread|assertion|#[0-9]+.*DONE)' |
        sed "s/^/$target: /"
    [ "${PIPESTATUS[0]}" -eq 0 ] || { echo "$target: FAILED" >&2; exit 1; }
done
