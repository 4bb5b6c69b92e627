//! Each operation against candle's own primitives, forward and every gradient.

use candle_core::{Device, Result, Tensor, Var};

use super::{conv_transpose2x2, conv2d, depthwise_conv2d, linear};

fn random(shape: &[usize], seed: u32) -> Tensor {
    let n: usize = shape.iter().product();
    // Weyl sequence: spread over -1..1, the same on every machine.
    let value = |i: usize| {
        (((i as f64 + 1.0) * 0.618_034 + f64::from(seed) * 0.37).fract() * 2.0 - 1.0) as f32
    };
    Tensor::from_vec((0..n).map(value).collect::<Vec<_>>(), shape, &Device::Cpu).unwrap()
}

/// Runs both on the same inputs; loss is the sum of the output times fixed random numbers.
fn same(
    name: &str,
    shapes: &[&[usize]],
    ours: impl Fn(&[Tensor]) -> Result<Tensor>,
    naive: impl Fn(&[Tensor]) -> Result<Tensor>,
) {
    let inputs: Vec<Var> = (0..)
        .zip(shapes)
        .map(|(seed, shape)| Var::from_tensor(&random(shape, seed)).unwrap())
        .collect();
    let tensors: Vec<Tensor> = inputs.iter().map(|var| var.as_tensor().clone()).collect();
    let run = |f: &dyn Fn(&[Tensor]) -> Result<Tensor>| {
        let y = f(&tensors).unwrap();
        let loss = (&y * random(y.dims(), 99)).unwrap().sum_all().unwrap();
        let gradients = loss.backward().unwrap();
        let gradients = inputs
            .iter()
            .map(|var| gradients.get(var.as_tensor()).unwrap().clone());
        std::iter::once(y.detach())
            .chain(gradients)
            .collect::<Vec<_>>()
    };
    for (i, (got, expected)) in run(&ours).iter().zip(run(&naive)).enumerate() {
        assert_eq!(
            got.dims(),
            expected.dims(),
            "{name}, output or gradient {i}"
        );
        let difference = (got - expected).unwrap().abs().unwrap().max_all().unwrap();
        let difference = difference.to_scalar::<f32>().unwrap();
        assert!(
            difference < 2e-4,
            "{name}, output or gradient {i}: off by {difference}"
        );
    }
}

/// A convolution as a sum over taps of shifted, strided copies of the padded input.
fn naive_conv(
    x: &Tensor,
    weight: &Tensor,
    stride: usize,
    padding: usize,
    depthwise: bool,
) -> Result<Tensor> {
    let kernel = weight.dim(2)?;
    let padded = x
        .pad_with_zeros(2, padding, padding)?
        .pad_with_zeros(3, padding, padding)?;
    let (b, c, h, w) = padded.dims4()?;
    let side = |n: usize, k: usize| {
        Tensor::arange_step(
            k as u32,
            (n + k - kernel + 1) as u32,
            stride as u32,
            &Device::Cpu,
        )
    };
    let mut sum: Option<Tensor> = None;
    for tap in 0..kernel * kernel {
        let (ky, kx) = (tap / kernel, tap % kernel);
        let shifted = padded
            .index_select(&side(h, ky)?, 2)?
            .index_select(&side(w, kx)?, 3)?;
        let factor = weight.narrow(2, ky, 1)?.narrow(3, kx, 1)?;
        let term = if depthwise {
            shifted.broadcast_mul(&factor.reshape((1, c, 1, 1))?)?
        } else {
            let (_, _, oh, ow) = shifted.dims4()?;
            let factor = factor.reshape((weight.dim(0)?, c))?;
            let flat = shifted.reshape((b, c, oh * ow))?;
            factor
                .broadcast_left(b)?
                .contiguous()?
                .matmul(&flat)?
                .reshape((b, (), oh, ow))?
        };
        sum = Some(match sum {
            Some(sum) => (sum + term)?,
            None => term,
        });
    }
    Ok(sum.unwrap())
}

#[test]
fn convolutions_of_odd_shapes() {
    for (b, h, w, kernel, stride, padding) in [
        (2, 9, 10, 3, 2, 1),
        (1, 7, 5, 3, 1, 1),
        (2, 6, 8, 2, 2, 0),
        (3, 5, 4, 1, 1, 0),
        (1, 11, 3, 3, 1, 0),
    ] {
        let name = format!("{b} x {h} x {w}, kernel {kernel}, stride {stride}, padding {padding}");
        same(
            &format!("conv2d {name}"),
            &[&[b, 5, h, w], &[4, 5, kernel, kernel]],
            |t| conv2d(&t[0], &t[1], None, stride, padding),
            |t| naive_conv(&t[0], &t[1], stride, padding, false),
        );
        same(
            &format!("depthwise_conv2d {name}"),
            &[&[b, 5, h, w], &[5, 1, kernel, kernel]],
            |t| depthwise_conv2d(&t[0], &t[1], stride, padding),
            |t| naive_conv(&t[0], &t[1], stride, padding, true),
        );
    }
}

#[test]
fn transposed_convolution() {
    same(
        "conv_transpose2x2",
        &[&[2, 6, 3, 3], &[6, 5, 2, 2], &[5]],
        |t| conv_transpose2x2(&t[0], &t[1], Some(&t[2])),
        |t| {
            let y = t[0].conv_transpose2d(&t[1], 0, 0, 2, 1)?;
            y.broadcast_add(&t[2].reshape((1, 5, 1, 1))?)
        },
    );
}

#[test]
fn linear_layers() {
    same(
        "linear",
        &[&[2, 3, 7], &[4, 7], &[4]],
        |t| linear(&t[0], &t[1], Some(&t[2])),
        |t| t[0].broadcast_matmul(&t[1].t()?)?.broadcast_add(&t[2]),
    );
}

#[test]
fn a_frozen_weight_gets_no_gradient() {
    let x = Var::from_tensor(&random(&[2, 3], 0)).unwrap();
    let weight = random(&[4, 3], 1);
    let loss = linear(x.as_tensor(), &weight, None)
        .unwrap()
        .sum_all()
        .unwrap();
    let gradients = loss.backward().unwrap();
    assert!(gradients.get(x.as_tensor()).is_some());
    assert!(gradients.get(&weight).is_none());
}
