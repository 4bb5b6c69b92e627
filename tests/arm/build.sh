#!/usr/bin/env bash
# Builds scansided for 64-bit ARM as devices get it, without the demo:
# target/aarch64-unknown-linux-gnu/release/scansided. Other arguments go to cargo.
#
# Takes rustup's target if it is installed, otherwise Debian's packages: gcc-aarch64-linux-gnu libc6-dev-arm64-cross
# rustc-web cargo-web libstd-rust-web-dev:arm64 (after `dpkg --add-architecture arm64`). Debian's cargo ignores
# rust-toolchain.toml.
set -euo pipefail
cd "$(dirname "$0")/../.."
target=aarch64-unknown-linux-gnu

has_rustup_target() {
    rustup target list --installed 2>/dev/null | grep -qx "$target"
}

if [ "${1:-}" = --has-rustup-target ]; then
    has_rustup_target
    exit
fi
cargo=cargo
if ! has_rustup_target; then
    if [ ! -d "/usr/lib/rustlib/$target" ]; then
        echo "no Rust for $target: \`rustup target add $target\`, or the Debian packages named in $0" >&2
        exit 1
    fi
    cargo=/usr/bin/cargo
    export RUSTC=/usr/bin/rustc
fi
export CC_aarch64_unknown_linux_gnu=aarch64-linux-gnu-gcc
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc
"$cargo" build -p daemon --no-default-features --target "$target" --release --locked "$@"
