#!/usr/bin/env bash
# Builds trainer for NVIDIA GPUs, on a machine that needs neither GPU nor CUDA: target/cuda/debug/trainer.
# Other arguments go to cargo: `--features cudnn`, `--features nccl`, `--release`.
#
#     bash tests/cuda/build.sh
#     eval "$(bash tests/cuda/build.sh --env)"    # then cargo by hand: `cargo check -p trainer --features cuda`
#
# Takes CUDA 13's nvcc from PATH, or else installs the compiler's PyPI wheels (105 MB) in .scanside/cuda. Libraries that
# are not here are linked as stubs; the real ones are wanted where the program runs.
#
# CUDA_COMPUTE_CAP: 90, H100 and H200 only, unless set. 80 serves every GPU since the A100: candle's kernels are PTX,
# which a driver compiles for its own GPU.
# CUDA_GGUF: how candle's kernels for quantized weights are made: none, ptx or full, see tests/cuda/nvcc.
#
# Needs Python 3 with venv, gcc, g++ and readelf.
set -euo pipefail
cd "$(dirname "$0")/../.."

# Not newer than what runs it: a driver refuses PTX of a later CUDA, and 580 (PyTorch's for CUDA 13) ends at 13.0.
wheels=(nvidia-cuda-nvcc==13.0.88 nvidia-nvvm==13.0.88 nvidia-cuda-crt==13.0.88
    nvidia-cuda-runtime==13.0.96 nvidia-cuda-cccl==13.0.85)
folder=$PWD/.scanside/cuda
stubs=$folder/stubs/lib
cap=${CUDA_COMPUTE_CAP:-90}
gguf=${CUDA_GGUF:-none}

# Prints the folder of a CUDA 13 that is installed here.
installed_cuda() {
    local nvcc home
    nvcc=$(command -v nvcc) && "$nvcc" --version | grep -q 'release 13\.' || return 1
    home=$(dirname "$(dirname "$(realpath "$nvcc")")")
    [ -e "$home/lib64/libcudart.so" ] && echo "$home"
}

install_wheels() {
    local python=.scanside/venv/bin/python
    [ -x "$python" ] || python3 -m venv .scanside/venv
    "$python" -m pip install --quiet --disable-pip-version-check --no-deps --no-compile --target "$folder/wheels" \
        "${wheels[@]}"
    ln -s libcudart.so.13 "$home/lib/libcudart.so"
}

# A library that has the functions which cudarc declares. Each returns its library's code for "not initialized", for
# the driver "this is a stub": enough to link, and to start a program on a machine without a GPU.
stub() {
    local module=$1 name=$2 soname=$3 code=$4 source=$folder/stubs/$2.c
    grep -A1 'extern "C" {' "$cudarc/src/$module/sys/mod.rs" |
        sed -n "s/^ *fn \([A-Za-z0-9_]*\)(.*/int \1(void) { return $code; }/p" | sort -u >"$source"
    [ "$(wc -l <"$source")" -ge 20 ] || { echo "no functions found in $cudarc/src/$module" >&2; return 1; }
    gcc -shared -fPIC -w -fno-builtin -Wl,-soname,"$soname" -o "$stubs/$soname" "$source"
    ln -s "$soname" "$stubs/lib$name.so"
}

make_stubs() {
    local cudarc
    cudarc=$(cargo metadata --format-version 1 --locked --manifest-path trainer/Cargo.toml --features cuda |
        grep -o '"manifest_path":"[^"]*/cudarc[^"/]*/Cargo.toml"' | cut -d '"' -f 4)
    cudarc=$(dirname "$cudarc")
    mkdir -p "$stubs"
    stub driver cuda libcuda.so.1 34
    stub nvrtc nvrtc libnvrtc.so.13 11
    stub curand curand libcurand.so.10 101
    stub cublas cublas libcublas.so.13 1
    stub cublaslt cublasLt libcublasLt.so.13 1
    stub cudnn cudnn libcudnn.so.9 1001
    stub nccl nccl libnccl.so.2 3
}

# All of it once; again when this script, cudarc or the CUDA found here is another one.
home=$(installed_cuda) || home=$folder/wheels/nvidia/cu13
made_of="$(sha256sum <tests/cuda/build.sh) $(grep -A1 '^name = "cudarc"' Cargo.lock | tail -n 1) $home"
if [ "$(cat "$folder/made_of" 2>/dev/null)" != "$made_of" ]; then
    rm -rf "$folder"
    mkdir -p "$folder"
    [[ $home != "$folder"/* ]] || install_wheels >&2
    make_stubs >&2
    echo "$made_of" >"$folder/made_of"
fi

# cudarc looks for libraries in CUDA_HOME first and in CUDNN_LIB last, so stubs stand in for missing ones only.
exports="export CUDA_HOME='$home'
export CUDNN_LIB='$folder/stubs'
export NVCC='$PWD/tests/cuda/nvcc'
export CUDA_GGUF=$gguf
export CUDA_COMPUTE_CAP=$cap
export CUDARC_CUDA_VERSION=13000
export CUDAFORGE_THREADS=${CUDAFORGE_THREADS:-$(nproc)}
export CUDA_NOGPU_LIBS='$home/lib64:$home/lib:$stubs'
export CARGO_TARGET_DIR='$PWD/target/cuda'"
if [ "${1:-}" = --env ]; then
    echo "$exports"
    exit
fi
eval "$exports"

# candle-kernels keeps the objects of another CUDA_GGUF.
if [ "$(cat target/cuda/gguf 2>/dev/null)" != "$gguf" ]; then
    cargo clean --quiet -p candle-kernels
    cargo clean --quiet -p candle-kernels --release
    mkdir -p target/cuda
    echo "$gguf" >target/cuda/gguf
fi
profile=debug
case " $* " in *' --release '*) profile=release ;; esac
program=target/cuda/$profile/trainer check=target/cuda/$profile/gpu
rm -f target/cuda/$profile/deps/gpu-*
cargo build -p trainer -p nets --bin trainer --test gpu --features cuda --locked "$@"
mv "$(find target/cuda/$profile/deps -name 'gpu-*' -perm -u+x)" $check

needed=$(readelf -d "$program" | sed -n 's/.*(NEEDED).*\[\(.*\)\]/\1/p')
glibc=$(readelf -V "$program" | grep -o 'GLIBC_[0-9.]*' | sort -V | tail -n 1)
cat <<TEXT

$program: $(($(stat -c %s "$program") / 1000000)) MB, compute capability $cap, quantized kernels: $gguf
It needs, of $glibc or later: ${needed//$'\n'/ }
On the GPU machine they come from a Python with PyTorch for CUDA 13, or from CUDA 13 itself:
    source tests/cuda/env.sh
    ldd $program | grep 'not found'    # nothing
    $program finetune --config FILE.toml --run FOLDER
It starts here too, on stubs: LD_LIBRARY_PATH=$CUDA_NOGPU_LIBS
TEXT
export LD_LIBRARY_PATH=$CUDA_NOGPU_LIBS
"$program" --version

# On stubs there is no GPU, which the user is told.
rm -rf target/cuda/phantom
"$program" dataset phantom target/cuda/phantom --patients 2 --frames 1 >target/cuda/said
sed -i '$s/,train,/,validation,/' target/cuda/phantom/list.csv
if "$program" finetune --dry-run --run target/cuda/run --set 'data.lists=["target/cuda/phantom/list.csv"]' \
    --set 'compute.device="cuda"' >target/cuda/said 2>&1 || ! grep -q 'GPU 0 cannot be used' target/cuda/said; then
    cat target/cuda/said
    exit 1
fi
