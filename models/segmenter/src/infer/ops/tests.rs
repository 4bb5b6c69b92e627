//! Against f64, and against bits that every processor has to give.

use super::activation::{Activation, erf};
use super::layer_norm::layer_norm;
use super::softmax::{exp, softmax};
use super::{Compute, Depthwise, Layout, Patches};

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
fn activations_are_as_good_as_they_say() {
    let points: Vec<f32> = (-8_000..=8_000).map(|i| i as f32 / 1_000.0).collect();
    let root = (2.0 / std::f64::consts::PI).sqrt();
    let tanh = |x: f64| 0.5 * x * (1.0 + (root * (x + 0.044_715 * x.powi(3))).tanh());
    let swish = |x: f64| x * (x / 6.0 + 0.5).clamp(0.0, 1.0);
    let pairs: [(_, &dyn Fn(f64) -> f64); 2] = [
        (Activation::GeluTanh, &tanh),
        (Activation::HardSwish, &swish),
    ];
    for (kind, exact) in pairs {
        let mut found = points.clone();
        kind.on(&mut found);
        let error = worst(&found, points.iter().map(|&x| exact(x.into())));
        assert!(error < 2e-6, "{kind:?}: {error:e}");
    }
}

#[test]
fn not_a_number_stays_one() {
    for kind in [
        Activation::Gelu,
        Activation::GeluTanh,
        Activation::HardSwish,
        Activation::Relu,
    ] {
        let mut values = [f32::NAN, 1.0, 2.0];
        kind.on(&mut values);
        assert!(values[0].is_nan() && values[1].is_finite(), "{kind:?}");
    }
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

/// The digests were taken on x86-64 with AVX-512.
#[test]
fn bits_are_those_of_every_processor() {
    let mut values: Vec<f32> = filled(1000, 7).iter().map(|x| x * 5.0).collect();
    Activation::Gelu.on(&mut values);
    let gelu_bits = digest(&values);
    softmax(&mut values, 50);
    let softmax_bits = digest(&values);
    let mut others = filled(1000, 11);
    for kind in [Activation::GeluTanh, Activation::HardSwish] {
        for x in &mut others {
            *x *= 5.0;
        }
        kind.on(&mut others);
    }
    layer_norm(&mut values, &filled(100, 8), &filled(100, 9), 1e-5);
    let norm_bits = digest(&values);
    let patches = Patches {
        height: 10,
        width: 10,
        channels: 10,
        stride: 2,
        layout: Layout::Tokens,
    };
    let depthwise = Depthwise {
        patches,
        taps: filled(90, 10),
        bias: vec![0.5; 10],
        activation: Activation::Gelu,
    };
    let mut out = vec![0.0; 250];
    depthwise.run(&[(&values, &[100, 10])], &mut out);
    let found = [
        gelu_bits,
        softmax_bits,
        norm_bits,
        digest(&out),
        digest(&others),
    ];
    let found = found.map(|bits| format!("{bits:016x}"));
    assert_eq!(
        found,
        [
            "5f996423746cab40",
            "88e5e56f048557cd",
            "2860c49e3246b2ca",
            "ff1f9a6763dc99c5",
            "83d812d1f50415e5"
        ]
    );
}
