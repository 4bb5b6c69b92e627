//! Against f64, and against bits that every processor has to give.

use super::conv3x3::{Conv3x3, Plane};
use super::gelu::{erf, gelu};
use super::layer_norm::layer_norm;
use super::softmax::{exp, softmax};

/// Values in -1..1 that depend on their place only.
fn filled(n: usize, seed: u32) -> Vec<f32> {
    (0..n as u32)
        .map(|i| {
            let mixed = (i ^ seed.wrapping_mul(0x9e37_79b9)).wrapping_mul(0x85eb_ca6b);
            let mixed = (mixed ^ (mixed >> 15)).wrapping_mul(0xc2b2_ae35);
            (mixed >> 8) as f32 / 8_388_608.0 - 1.0
        })
        .collect()
}

fn worst(found: &[f32], wanted: impl IntoIterator<Item = f64>) -> f64 {
    let errors = found
        .iter()
        .zip(wanted)
        .map(|(&found, wanted)| (f64::from(found) - wanted).abs());
    errors.fold(0.0, f64::max)
}

/// FNV-1a of the bits.
fn digest(values: &[f32]) -> u64 {
    values
        .iter()
        .flat_map(|value| value.to_bits().to_le_bytes())
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        })
}

/// The series of erf, good to f64 up to 4.
fn erf_series(x: f64) -> f64 {
    let (mut term, mut sum) = (x, x);
    for n in 1..120 {
        let n = f64::from(n);
        term *= -x * x / n;
        sum += term / (2.0 * n + 1.0);
    }
    sum * std::f64::consts::FRAC_2_SQRT_PI
}

fn convolved(
    x: &[f32],
    kernel: &[f32],
    bias: &[f32],
    (groups, [n_in, n_out], stride): (usize, [usize; 2], usize),
    Plane { rows, cols }: Plane,
) -> Vec<f64> {
    let (per_group, out_per_group) = (n_in / groups, n_out / groups);
    let mut out = Vec::new();
    for o in 0..n_out {
        for y in (0..rows).step_by(stride) {
            for x0 in (0..cols).step_by(stride) {
                let mut sum = f64::from(bias[o % bias.len()]);
                for inner in 0..per_group {
                    let channel = o / out_per_group * per_group + inner;
                    for tap in 0..9 {
                        let (row, col) = (y + tap / 3, x0 + tap % 3);
                        if (1..=rows).contains(&row) && (1..=cols).contains(&col) {
                            let value = x[(channel * rows + row - 1) * cols + col - 1];
                            sum += f64::from(kernel[(o * per_group + inner) * 9 + tap])
                                * f64::from(value);
                        }
                    }
                }
                out.push(sum);
            }
        }
    }
    out
}

#[test]
fn erf_and_exp_are_as_good_as_they_say() {
    let points: Vec<f32> = (-40_000..=40_000).map(|i| i as f32 / 10_000.0).collect();
    let found: Vec<f32> = points.iter().map(|&x| erf(x)).collect();
    let error = worst(&found, points.iter().map(|&x| erf_series(x.into())));
    assert!(error < 5e-7, "{error:e}");
    assert_eq!((erf(50.0), erf(-50.0)), (1.0, -1.0));
    let relative = (-80_000..=0)
        .map(|i| i as f32 / 1_000.0)
        .map(|x| (f64::from(exp(x)) / f64::from(x).exp() - 1.0).abs())
        .fold(0.0, f64::max);
    assert!(relative < 3e-7, "{relative:e}");
    assert_eq!(exp(0.0).to_bits(), 1f32.to_bits());
}

#[test]
fn not_a_number_stays_one() {
    let mut values = [f32::NAN, 1.0, 2.0];
    gelu(&mut values);
    assert!(values[0].is_nan() && values[1].is_finite());
    let mut values = [1.0, f32::NAN, 2.0];
    softmax(&mut values, 3);
    assert!(values.iter().all(|x| x.is_nan()), "{values:?}");
    let mut values = [0.0, f32::NEG_INFINITY, 0.0];
    softmax(&mut values, 3);
    assert!(values[1] < 1e-37, "{values:?}");
    assert_eq!(values[0].to_bits(), 0.5f32.to_bits());
}

#[test]
fn softmax_and_layer_norm_equal_f64() {
    for n in [1, 15, 16, 49, 196] {
        let x: Vec<f32> = filled(3 * n, 1).iter().map(|x| x * 20.0).collect();
        let mut found = x.clone();
        softmax(&mut found, n);
        let wanted = x.chunks(n).flat_map(|row| {
            let exps: Vec<f64> = row.iter().map(|&x| f64::from(x).exp()).collect();
            let sum: f64 = exps.iter().sum();
            exps.into_iter().map(move |x| x / sum)
        });
        let error = worst(&found, wanted);
        assert!(error < 3e-7, "softmax of {n}: {error:e}");

        let (weight, bias) = (filled(n, 2), filled(n, 3));
        let mut found = x.clone();
        layer_norm(&mut found, &weight, &bias, 1e-5);
        let wanted = x.chunks(n).flat_map(|row| {
            let len = n as f64;
            let mean = row.iter().map(|&x| f64::from(x)).sum::<f64>() / len;
            let square = |&x: &f32| (f64::from(x) - mean).powi(2);
            let scale = (row.iter().map(square).sum::<f64>() / len + 1e-5).sqrt();
            row.iter()
                .zip(weight.iter().zip(&bias))
                .map(|(&x, (&w, &b))| (f64::from(x) - mean) / scale * f64::from(w) + f64::from(b))
                .collect::<Vec<_>>()
        });
        let error = worst(&found, wanted);
        assert!(error < 2e-6, "LayerNorm of {n}: {error:e}");
    }
}

#[test]
fn convolution_equals_f64() {
    for (groups, channels, stride, rows, cols) in [
        (5, [5, 5], 1, 7, 9),
        (5, [5, 5], 2, 7, 9),
        (4, [4, 4], 2, 16, 16),
        (1, [3, 8], 2, 10, 6),
        (2, [4, 6], 1, 1, 1),
    ] {
        let plane = Plane { rows, cols };
        let x = filled(channels[0] * rows * cols, 4);
        let kernel = filled(channels[1] * channels[0] / groups * 9, 5);
        for bias in [filled(channels[1], 6), vec![0.25]] {
            let area = rows.div_ceil(stride) * cols.div_ceil(stride);
            let mut found = vec![f32::NAN; channels[1] * area];
            Conv3x3::new(groups, channels, stride).run([&x, &kernel, &bias], plane, &mut found);
            let shape = (groups, channels, stride);
            let error = worst(&found, convolved(&x, &kernel, &bias, shape, plane));
            assert!(error < 2e-6, "{shape:?} on {rows} x {cols}: {error:e}");
        }
    }
}

/// The digests were taken on x86-64 with AVX-512.
#[test]
fn bits_are_those_of_every_processor() {
    let mut values: Vec<f32> = filled(1000, 7).iter().map(|x| x * 5.0).collect();
    gelu(&mut values);
    let gelu_bits = digest(&values);
    softmax(&mut values, 50);
    let softmax_bits = digest(&values);
    layer_norm(&mut values, &filled(100, 8), &filled(100, 9), 1e-5);
    let norm_bits = digest(&values);
    let mut out = vec![0.0; 10 * 25];
    let plane = Plane { rows: 10, cols: 10 };
    Conv3x3::new(10, [10, 10], 2).run([&values, &filled(90, 10), &[0.5]], plane, &mut out);
    let found =
        [gelu_bits, softmax_bits, norm_bits, digest(&out)].map(|bits| format!("{bits:016x}"));
    assert_eq!(
        found,
        [
            "63e84ca2f7aa11cc",
            "e0ee9f3000703cca",
            "55d49e51c3e2738b",
            "ac60c1601abdd204"
        ]
    );
}
