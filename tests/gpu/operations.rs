//! Operations, at shapes of the networks and at odd ones.

use candle_core::{DType, Device, Result, Tensor, Var};
use nets::ops::{
    Lookup, attention, attention_relative, batch_norm_train, channel_affine, conv_transpose2x2,
    conv2d, depthwise_conv2d, gelu, layer_norm, layer_norm_2d, linear, resize_bilinear, softmax,
};

use crate::{gpu, relative_error, spread};

/// Of f32: cuBLAS and our loops add up in another order.
const F32: f64 = 2e-5;
/// bf16 has 8 bits of mantissa, and the sums that follow keep f32.
const BF16: f64 = 2e-2;

/// The output, then the gradient of each input, of a loss that weighs every value of the output.
fn outputs(
    shapes: &[&[usize]],
    n_activations: usize,
    op: &dyn Fn(&[Tensor]) -> Result<Tensor>,
    (device, precision): (&Device, DType),
) -> Result<Vec<Tensor>> {
    let vars: Vec<Var> = (0..)
        .zip(shapes)
        .map(|(seed, shape)| Var::from_tensor(&spread(shape, seed).to_device(device)?))
        .collect::<Result<_>>()?;
    let inputs: Vec<Tensor> = vars
        .iter()
        .enumerate()
        .map(|(index, var)| match precision {
            DType::F32 => Ok(var.as_tensor().clone()),
            _ if index >= n_activations => Ok(var.as_tensor().clone()),
            other => var.as_tensor().to_dtype(other),
        })
        .collect::<Result<_>>()?;
    let y = op(&inputs)?.to_dtype(DType::F32)?;
    let loss = (&y * spread(y.dims(), 99).to_device(device)?)?.sum_all()?;
    let store = loss.backward()?;
    let gradients = vars.iter().map(|var| {
        let gradient = store.get(var.as_tensor()).cloned();
        gradient.ok_or_else(|| candle_core::Error::Msg("an input without gradient".to_owned()))
    });
    std::iter::once(Ok(y.detach())).chain(gradients).collect()
}

/// The first `n_activations` inputs are of the precision that is tried, the others f32, as weights are.
fn same(
    name: &str,
    shapes: &[&[usize]],
    n_activations: usize,
    op: impl Fn(&[Tensor]) -> Result<Tensor>,
) {
    let Some(gpu) = gpu() else { return };
    let expected = outputs(shapes, n_activations, &op, (&Device::Cpu, DType::F32)).unwrap();
    for (precision, tolerance) in [(DType::F32, F32), (DType::BF16, BF16)] {
        let found = outputs(shapes, n_activations, &op, (&gpu, precision)).unwrap();
        for (index, (found, expected)) in found.iter().zip(&expected).enumerate() {
            let error = relative_error(found, expected);
            assert!(
                error < tolerance,
                "{name}, {precision:?}, {index} of output and gradients: off by {error:.1e}"
            );
        }
    }
}

#[test]
fn products() {
    for [rows, inner, columns] in [[196, 1280, 3840], [37, 5, 3], [1, 7, 300]] {
        same(
            &format!("linear {rows} x {inner} x {columns}"),
            &[&[2, rows, inner], &[columns, inner], &[columns]],
            1,
            |t| linear(&t[0], &t[1], Some(&t[2])),
        );
    }
}

#[test]
fn activations() {
    same("gelu", &[&[3, 5, 1193]], 1, |t| gelu(&(&t[0] * 4.0)?));
    for width in [3, 196, 4096] {
        same(&format!("softmax of {width}"), &[&[7, width]], 1, |t| {
            softmax(&(&t[0] * 4.0)?)
        });
    }
}

#[test]
fn attention_with_every_bias() {
    let (q, k): (&[usize], &[usize]) = (&[2, 4, 49, 80], &[2, 4, 196, 80]);
    same("attention", &[q, k, k], 3, |t| {
        attention(&t[0], &t[1], &t[2], None, 0.11)
    });
    same(
        "attention, shared bias",
        &[q, k, k, &[4, 49, 196]],
        3,
        |t| attention(&t[0], &t[1], &t[2], Some(&t[3]), 0.11),
    );
    for [rows, cols] in [[14, 14], [3, 5], [32, 32]] {
        let x: &[usize] = &[2, 2, rows * cols, 16];
        let relative: &[usize] = &[2, 2, rows * cols, rows + cols];
        same(
            &format!("attention on a grid of {rows} x {cols}"),
            &[x, x, x, relative],
            4,
            |t| attention_relative(&t[0], &t[1], &t[2], (&t[3], [rows, cols]), 0.25),
        );
    }
}

#[test]
fn norms() {
    for [rows, width] in [[1024, 1280], [3, 7]] {
        same(
            &format!("layer_norm {rows} x {width}"),
            &[&[2, rows, width], &[width], &[width]],
            1,
            |t| layer_norm(&t[0], &t[1], &t[2], 1e-5),
        );
    }
    for [c, h, w] in [[256, 64, 64], [5, 3, 7]] {
        let shapes: &[&[usize]] = &[&[2, c, h, w], &[c], &[c]];
        same(&format!("layer_norm_2d {c} x {h} x {w}"), shapes, 1, |t| {
            layer_norm_2d(&t[0], &t[1], &t[2], 1e-5)
        });
        same(&format!("batch_norm {c} x {h} x {w}"), shapes, 1, |t| {
            Ok(batch_norm_train(&t[0], &t[1], &t[2], 1e-5)?.0)
        });
        same(&format!("channel_affine {c} x {h} x {w}"), shapes, 1, |t| {
            channel_affine(&t[0], &t[1], &t[2])
        });
    }
}

#[test]
fn convolutions() {
    for (h, w, kernel, stride, padding) in [
        (64, 64, 3, 1, 1),
        (65, 40, 3, 2, 1),
        (64, 64, 16, 16, 0),
        (6, 8, 2, 2, 0),
        (9, 7, 1, 1, 0),
    ] {
        let name = format!("{h} x {w}, kernel {kernel}, stride {stride}, padding {padding}");
        same(
            &format!("conv2d {name}"),
            &[&[2, 5, h, w], &[4, 5, kernel, kernel], &[4]],
            1,
            |t| conv2d(&t[0], &t[1], Some(&t[2]), stride, padding),
        );
        same(
            &format!("depthwise_conv2d {name}"),
            &[&[2, 33, h, w], &[33, 1, kernel, kernel]],
            1,
            |t| depthwise_conv2d(&t[0], &t[1], stride, padding),
        );
    }
    same(
        "conv_transpose2x2",
        &[&[2, 64, 32, 31], &[64, 16, 2, 2], &[16]],
        1,
        |t| conv_transpose2x2(&t[0], &t[1], Some(&t[2])),
    );
}

#[test]
fn resizing() {
    same("down", &[&[2, 3, 64, 48]], 1, |t| {
        resize_bilinear(&t[0], 17, 31)
    });
    same("up", &[&[2, 3, 64, 48]], 1, |t| {
        resize_bilinear(&t[0], 256, 255)
    });
}

#[test]
fn lookups() {
    let numbers: Vec<u32> = (0..196).map(|i| i * 7 % 27).collect();
    same("rows", &[&[27, 80]], 0, |t| {
        Lookup::new(&numbers, 27, t[0].device())?.rows(&t[0])
    });
    same("columns", &[&[80, 27]], 0, |t| {
        Lookup::new(&numbers, 27, t[0].device())?.columns(&t[0])
    });
}
