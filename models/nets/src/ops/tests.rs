//! Each operation against candle's own primitives, forward and every gradient.

mod gpu;

use candle_core::{D, Device, Result, Tensor, Var};

use super::{
    Activation, attention, batch_norm_train, channel_affine, conv_transpose2x2, conv2d,
    depthwise_conv2d, gelu, layer_norm, layer_norm_2d, linear, resize_bilinear, softmax,
};

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
        let difference = distance(got, &expected);
        let largest = distance(&expected, &expected.zeros_like().unwrap());
        assert!(
            difference < 2e-4 * largest.max(1.0),
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

/// Normalizes over `dims` with candle's primitives; weight and bias come ready to broadcast.
fn naive_norm(t: &[Tensor], dims: &[usize], affine: &[usize], eps: f64) -> Result<Tensor> {
    let mean = t[0].mean_keepdim(dims)?;
    let centred = t[0].broadcast_sub(&mean)?;
    let variance = centred.sqr()?.mean_keepdim(dims)?;
    centred
        .broadcast_div(&(variance + eps)?.sqrt()?)?
        .broadcast_mul(&t[1].reshape(affine)?)?
        .broadcast_add(&t[2].reshape(affine)?)
}

#[test]
fn norms_of_odd_shapes() {
    for (b, c, h, w) in [(2, 5, 3, 7), (1, 37, 4, 4), (3, 1, 13, 11), (2, 3, 40, 41)] {
        let name = format!("{b} x {c} x {h} x {w}");
        let shapes: &[&[usize]] = &[&[b, c, h, w], &[c], &[c]];
        let affine = [1, c, 1, 1];
        same(
            &format!("batch_norm_train {name}"),
            shapes,
            |t| Ok(batch_norm_train(&t[0], &t[1], &t[2], 1e-3)?.0),
            |t| naive_norm(t, &[0, 2, 3], &affine, 1e-3),
        );
        same(
            &format!("layer_norm_2d {name}"),
            shapes,
            |t| layer_norm_2d(&t[0], &t[1], &t[2], 1e-2),
            |t| naive_norm(t, &[1], &affine, 1e-2),
        );
        same(
            &format!("channel_affine {name}"),
            shapes,
            |t| channel_affine(&t[0], &t[1], &t[2]),
            |t| {
                let scaled = t[0].broadcast_mul(&t[1].reshape(&affine)?)?;
                scaled.broadcast_add(&t[2].reshape(&affine)?)
            },
        );
        same(
            &format!("layer_norm {name}"),
            &[&[b, c, h, w], &[w], &[w]],
            |t| layer_norm(&t[0], &t[1], &t[2], 1e-3),
            |t| naive_norm(t, &[3], &[1, 1, 1, w], 1e-3),
        );
    }
}

#[test]
fn batch_statistics() {
    let x = random(&[3, 4, 5, 6], 0);
    let ones = Tensor::ones(4, candle_core::DType::F32, &Device::Cpu).unwrap();
    let (_, mean, variance) = batch_norm_train(&x, &ones, &ones, 1e-5).unwrap();
    let expected = x.mean((0, 2, 3)).unwrap();
    let centred = x
        .broadcast_sub(&expected.reshape((1, 4, 1, 1)).unwrap())
        .unwrap();
    let spread = centred.sqr().unwrap().mean((0, 2, 3)).unwrap();
    for (got, expected) in [(mean, expected), (variance, spread)] {
        assert!(distance(&got, &expected) < 1e-6);
    }
}

fn distance(a: &Tensor, b: &Tensor) -> f32 {
    let difference = (a - b).unwrap().abs().unwrap().max_all().unwrap();
    difference.to_scalar().unwrap()
}

#[test]
fn activations() {
    for shape in [&[7][..], &[3, 5, 19], &[2, 3, 40, 50]] {
        same(
            &format!("gelu {shape:?}"),
            &[shape],
            |t| gelu(&t[0]),
            |t| t[0].gelu_erf(),
        );
        same(
            &format!("gelu_tanh {shape:?}"),
            &[shape],
            |t| Activation::GeluTanh.of(&t[0]),
            |t| t[0].gelu(),
        );
        same(
            &format!("hard_swish {shape:?}"),
            &[shape],
            |t| Activation::HardSwish.of(&(&t[0] * 4.0)?),
            |t| {
                let x = (&t[0] * 4.0)?;
                &x * ((&x / 6.0)? + 0.5)?.clamp(0f32, 1f32)?
            },
        );
        same(
            &format!("softmax {shape:?}"),
            &[shape],
            |t| softmax(&t[0]),
            |t| {
                let e = t[0].exp()?;
                e.broadcast_div(&e.sum_keepdim(D::Minus1)?)
            },
        );
    }
}

#[test]
fn gelu_is_exact_to_a_millionth() {
    let x: Vec<f32> = (-12_000..=12_000).map(|i| i as f32 / 1000.0).collect();
    let y = gelu(&Tensor::new(&x[..], &Device::Cpu).unwrap())
        .unwrap()
        .to_vec1::<f32>()
        .unwrap();
    for (x, y) in x.into_iter().zip(y) {
        let x = f64::from(x);
        let expected = 0.5 * x * (1.0 + candle_core::cpu::erf::erf_f64(x / 2f64.sqrt()));
        assert!(
            (f64::from(y) - expected).abs() < 1e-6,
            "gelu({x}) is {expected}, not {y}"
        );
    }
}

#[test]
fn softmax_of_large_and_masked_scores() {
    let x = Tensor::new(
        &[[1000f32, 999.0, f32::NEG_INFINITY], [-1e30, 0.0, -200.0]],
        &Device::Cpu,
    );
    let y = softmax(&x.unwrap()).unwrap().to_vec2::<f32>().unwrap();
    let odds = 1f32.exp();
    let expected = [
        [odds / (1.0 + odds), 1.0 / (1.0 + odds), 0.0],
        [0.0, 1.0, 0.0],
    ];
    for (y, expected) in y.iter().flatten().zip(expected.iter().flatten()) {
        assert!((y - expected).abs() < 1e-6, "{y} for {expected}");
    }
}

#[test]
fn attention_with_and_without_bias() {
    for (b, h, n, m, d) in [
        (3, 2, 5, 5, 4),
        (2, 3, 7, 11, 3),
        (1, 1, 1, 3, 2),
        (40, 4, 49, 49, 8),
    ] {
        let name = format!("{b} x {h}, {n} on {m}, {d}");
        let shapes: &[&[usize]] = &[&[b, h, n, d], &[b, h, m, d], &[b, h, m, d], &[h, n, m]];
        let naive = |t: &[Tensor], bias: Option<&Tensor>| {
            let scores = (t[0].matmul(&t[1].t()?)? * 0.3)?;
            let scores = match bias {
                Some(bias) => scores.broadcast_add(bias)?,
                None => scores,
            };
            let e = scores.exp()?;
            e.broadcast_div(&e.sum_keepdim(D::Minus1)?)?.matmul(&t[2])
        };
        same(
            &format!("attention {name}"),
            shapes,
            |t| attention(&t[0], &t[1], &t[2], Some(&t[3]), 0.3),
            |t| naive(t, Some(&t[3])),
        );
        same(
            &format!("attention without bias {name}"),
            &shapes[..3],
            |t| attention(&t[0], &t[1], &t[2], None, 0.3),
            |t| naive(t, None),
        );
    }
}

/// PyTorch's sampling, pixel by pixel.
fn naive_resize(x: &[f32], [h, w]: [usize; 2], [oh, ow]: [usize; 2]) -> Vec<f32> {
    let source = |i: usize, from: usize, to: usize| {
        let position = ((i as f32 + 0.5) * from as f32 / to as f32 - 0.5).max(0.0);
        let low = (position as usize).min(from - 1);
        (low, (low + 1).min(from - 1), position - low as f32)
    };
    let mut out = Vec::new();
    for y in 0..oh {
        for column in 0..ow {
            let (top, bottom, fy) = source(y, h, oh);
            let (left, right, fx) = source(column, w, ow);
            let row = |y: usize| x[y * w + left] * (1.0 - fx) + x[y * w + right] * fx;
            out.push(row(top) * (1.0 - fy) + row(bottom) * fy);
        }
    }
    out
}

#[test]
fn bilinear_resizing() {
    for (from, to) in [
        ([4, 4], [16, 16]),
        ([5, 7], [3, 11]),
        ([1, 6], [4, 2]),
        ([3, 3], [3, 3]),
    ] {
        let x = random(&[1, 1, from[0], from[1]], 0);
        let pixels = x.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let y = resize_bilinear(&x, to[0], to[1]).unwrap();
        let expected = Tensor::from_vec(naive_resize(&pixels, from, to), y.dims(), &Device::Cpu);
        assert!(
            distance(&y, &expected.unwrap()) < 1e-6,
            "{from:?} to {to:?}"
        );
        finite_differences(
            &format!("resize {from:?} to {to:?}"),
            &[&[2, 3, from[0], from[1]]],
            |t| resize_bilinear(&t[0], to[0], to[1]),
        );
    }
}

/// Gradients against central differences of the loss that `same` uses.
fn finite_differences(name: &str, shapes: &[&[usize]], op: impl Fn(&[Tensor]) -> Result<Tensor>) {
    const STEP: f32 = 1e-2;
    let inputs: Vec<Var> = (0..)
        .zip(shapes)
        .map(|(seed, s)| Var::from_tensor(&random(s, seed)).unwrap())
        .collect();
    let tensors: Vec<Tensor> = inputs.iter().map(|var| var.as_tensor().clone()).collect();
    let loss = |t: &[Tensor]| {
        let y = op(t).unwrap();
        (&y * random(y.dims(), 99)).unwrap().sum_all().unwrap()
    };
    let gradients = loss(&tensors).backward().unwrap();
    for (index, tensor) in tensors.iter().enumerate() {
        let gradient = gradients
            .get(tensor)
            .unwrap()
            .flatten_all()
            .unwrap()
            .to_vec1::<f32>();
        let gradient = gradient.unwrap();
        let values = tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        for at in (0..values.len()).step_by(1 + values.len() / 20) {
            let moved = [STEP, -STEP].map(|step| {
                let mut values = values.clone();
                values[at] += step;
                let mut tensors = tensors.clone();
                tensors[index] = Tensor::from_vec(values, tensor.dims(), &Device::Cpu).unwrap();
                loss(&tensors).to_scalar::<f32>().unwrap()
            });
            let slope = (moved[0] - moved[1]) / (2.0 * STEP);
            let allowed = 4e-3 * (1.0 + slope.abs());
            assert!(
                (slope - gradient[at]).abs() < allowed,
                "{name}: gradient {at} of input {index} is {}, the slope {slope}",
                gradient[at]
            );
        }
    }
}

#[test]
fn gradients_are_slopes() {
    finite_differences("gelu", &[&[2, 30]], |t| gelu(&(&t[0] * 3.0)?));
    for kind in [Activation::GeluTanh, Activation::HardSwish] {
        finite_differences("activation", &[&[2, 30]], |t| kind.of(&(&t[0] * 3.0)?));
    }
    finite_differences("softmax", &[&[3, 9]], |t| softmax(&(&t[0] * 3.0)?));
    finite_differences("batch norm", &[&[2, 3, 4, 5], &[3], &[3]], |t| {
        Ok(batch_norm_train(&t[0], &t[1], &t[2], 1e-3)?.0)
    });
}

#[test]
fn inputs_need_not_be_contiguous() {
    type Op<'a> = &'a dyn Fn(&Tensor) -> Result<Tensor>;
    let x = random(&[2, 6, 5, 4], 0).permute((0, 3, 1, 2)).unwrap();
    let copy = x.contiguous().unwrap();
    let [weight, bias] = [1, 2].map(|seed| random(&[4], seed));
    let dense = random(&[4, 3, 3, 3], 3).transpose(0, 1).unwrap();
    let ops: [(&str, Op); 8] = [
        ("gelu", &|x| gelu(x)),
        ("softmax", &|x| softmax(x)),
        ("layer_norm_2d", &|x| layer_norm_2d(x, &weight, &bias, 1e-6)),
        ("channel_affine", &|x| channel_affine(x, &weight, &bias)),
        ("conv2d", &|x| conv2d(x, &dense, None, 1, 1)),
        ("conv 1x1", &|x| {
            conv2d(x, &random(&[3, 4, 1, 1], 4), None, 1, 0)
        }),
        ("linear", &|x| linear(x, &random(&[5, 2], 5).t()?, None)),
        ("attention", &|x| attention(x, x, x, None, 1.0)),
    ];
    for (name, op) in ops {
        assert!(
            distance(&op(&x).unwrap(), &op(&copy).unwrap()) < 1e-6,
            "{name}"
        );
    }
}
