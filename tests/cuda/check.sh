#!/usr/bin/env bash
# On a machine with a GPU: what tests/cuda/build.sh built computes what the CPU computes. Needs no Rust there.
# `--release` for that profile; other arguments go to the tests.
set -euo pipefail
cd "$(dirname "$0")/../.."
profile=debug
[ "${1:-}" != --release ] || { profile=release; shift; }
source tests/cuda/env.sh
if ldd "target/cuda/$profile/gpu" | grep 'not found'; then exit 1; fi
SCANSIDE_REQUIRE_GPU=1 "target/cuda/$profile/gpu" --nocapture "$@"
