//! With the feature `cuda`: compiles the GPU's kernels to PTX, which the driver finishes for the GPU it finds.

use std::path::PathBuf;
use std::process::Command;

const KERNELS: &str = "src/ops/kernels.cu";

fn main() {
    println!("cargo:rerun-if-changed={KERNELS}");
    println!("cargo:rerun-if-env-changed=NVCC");
    println!("cargo:rerun-if-env-changed=CUDA_COMPUTE_CAP");
    if std::env::var_os("CARGO_FEATURE_CUDA").is_none() {
        return;
    }
    let nvcc = std::env::var("NVCC").unwrap_or_else(|_| "nvcc".to_owned());
    let capability = std::env::var("CUDA_COMPUTE_CAP").unwrap_or_else(|_| "90".to_owned());
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let status = Command::new(&nvcc)
        .args([
            "--ptx",
            "-std=c++17",
            &format!("-arch=compute_{capability}"),
        ])
        .arg("-o")
        .arg(out.join("kernels.ptx"))
        .arg(KERNELS)
        .status();
    match status {
        Ok(status) if status.success() => {}
        Ok(status) => panic!("{nvcc} {KERNELS}: {status}"),
        Err(error) => panic!(
            "cannot run {nvcc} ({error}): `eval \"$(bash tests/cuda/build.sh --env)\"` brings it"
        ),
    }
}
