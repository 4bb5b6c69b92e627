//! On GPU 0 the same as on the CPU, outputs and gradients: every operation, whole networks, the optimizer. Built by
//! tests/cuda/build.sh, run by tests/cuda/check.sh on a machine with a GPU.
#![expect(clippy::unwrap_used, reason = "a test may fail by unwrapping")]

mod networks;
mod operations;

use candle_core::{DType, Device, Tensor};

/// `None`, loudly, where there is none.
fn gpu() -> Option<Device> {
    match Device::new_cuda(0) {
        Ok(device) => Some(device),
        Err(error) => {
            let words = format!("SKIPPED: no GPU ({error})");
            assert!(
                std::env::var_os("SCANSIDE_REQUIRE_GPU").is_none(),
                "{words}"
            );
            eprintln!("{words}");
            None
        }
    }
}

/// Values in -1..1 without a period that a kernel's blocks could share, the same everywhere.
fn spread(shape: &[usize], seed: u32) -> Tensor {
    let n: usize = shape.iter().product();
    let value = |i: usize| {
        let turns = (i as f64 + 1.0) * 0.618_033_988_749_894_8 + f64::from(seed) * 0.37;
        (turns.fract() * 2.0 - 1.0) as f32
    };
    Tensor::from_vec((0..n).map(value).collect::<Vec<_>>(), shape, &Device::Cpu).unwrap()
}

/// ‖found - expected‖ / ‖expected‖, computed on the CPU; NaN where something is not a number.
fn relative_error(found: &Tensor, expected: &Tensor) -> f64 {
    assert_eq!(found.dims(), expected.dims());
    let values = |t: &Tensor| -> Vec<f32> {
        let flat = t.to_dtype(DType::F32).unwrap().flatten_all().unwrap();
        flat.to_vec1().unwrap()
    };
    let (found, expected) = (values(found), values(expected));
    let square = |x: f64| x * x;
    let pairs = found.iter().zip(&expected);
    let off: f64 = pairs
        .map(|(&f, &e)| square(f64::from(f) - f64::from(e)))
        .sum();
    let all: f64 = expected.iter().map(|&e| square(f64::from(e))).sum();
    if off == 0.0 { 0.0 } else { (off / all).sqrt() }
}
