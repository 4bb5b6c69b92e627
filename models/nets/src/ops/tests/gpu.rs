//! What runs on a GPU, on a CPU: operations in steps against those in one, kernels as C++ against Rust, bf16 against f32.

use std::process::Command;

use candle_core::{DType, Device, Result, Tensor};

use super::{distance, naive_norm, random, same};
use crate::ops::attention::{Bias, in_halves, shared_backward_in_steps, softmax_launch};
use crate::ops::batch_norm::{batch_norm_in_steps, channel_affine_in_steps};
use crate::ops::conv_transpose::spread_in_steps;
use crate::ops::im2col::Windows;
use crate::ops::launch::recorder::{Record, during};
use crate::ops::linear::{linear_in_steps, sum_rows_as_product};
use crate::ops::lookup::Lookup;
use crate::ops::norm::LayerNorm;
use crate::ops::norm_2d::layer_norm_2d_in_steps;
use crate::ops::unfold::conv2d_in_steps;
use crate::ops::{
    Activation, attention, attention_relative, batch_norm_train, channel_affine, conv_transpose2x2,
    conv2d, depthwise_conv2d, gelu, layer_norm, layer_norm_2d, linear, resize_bilinear, softmax,
};

#[test]
fn operations_in_steps() {
    same(
        "linear",
        &[&[2, 3, 7], &[4, 7], &[4]],
        |t| linear_in_steps(&t[0], &t[1], &t[2]),
        |t| linear(&t[0], &t[1], Some(&t[2])),
    );
    let rows = random(&[3, 5, 7], 0);
    let sums = rows.sum((0, 1)).unwrap();
    assert!(distance(&sum_rows_as_product(&rows, 7).unwrap(), &sums) < 1e-5);
    for (b, h, w, kernel, stride, padding) in [
        (2, 9, 10, 3, 2, 1),
        (1, 7, 5, 3, 1, 1),
        (2, 6, 8, 2, 2, 0),
        (3, 5, 4, 1, 1, 0),
    ] {
        let windows = Windows::new([h, w], kernel, stride, padding).unwrap();
        same(
            &format!("conv2d {kernel}, {stride}, {padding}"),
            &[&[b, 5, h, w], &[4, 5, kernel, kernel], &[4]],
            |t| conv2d_in_steps(&t[0], &t[1], Some(&t[2]), windows),
            |t| conv2d(&t[0], &t[1], Some(&t[2]), stride, padding),
        );
    }
    same(
        "conv_transpose2x2",
        &[&[2, 6, 3, 3], &[6, 5, 2, 2], &[5]],
        |t| {
            let kernel = t[1].permute((1, 2, 3, 0))?.reshape((20, 6, 1, 1))?;
            spread_in_steps(&conv2d(&t[0], &kernel, None, 1, 0)?, Some(&t[2]))
        },
        |t| conv_transpose2x2(&t[0], &t[1], Some(&t[2])),
    );
    let shapes: &[&[usize]] = &[&[2, 5, 3, 7], &[5], &[5]];
    same(
        "layer_norm_2d",
        shapes,
        |t| layer_norm_2d_in_steps(&t[0], &t[1], &t[2], 1e-2),
        |t| layer_norm_2d(&t[0], &t[1], &t[2], 1e-2),
    );
    same(
        "channel_affine",
        shapes,
        |t| channel_affine_in_steps(&t[0], &t[1], &t[2]),
        |t| channel_affine(&t[0], &t[1], &t[2]),
    );
    same(
        "batch_norm_train",
        shapes,
        |t| Ok(batch_norm_in_steps(&t[0], &t[1], &t[2], 1e-3)?.0),
        |t| naive_norm(t, &[0, 2, 3], &[1, 5, 1, 1], 1e-3),
    );
}

#[test]
fn gradients_in_steps() {
    let (x, grad) = (random(&[3, 5, 7], 0), random(&[3, 5, 7], 1));
    let norm = LayerNorm { eps: 1e-3 };
    let expected = norm.weight_gradient(&x, &grad, 7).unwrap();
    let found = norm.weight_gradient_in_steps(&x, &grad, 7).unwrap();
    assert!(distance(&found, &expected) < 1e-5);
    let (scores, bias) = (random(&[3, 2, 4, 6], 2), random(&[2, 4, 6], 3));
    let expected = Bias::Shared.backward(&bias, &scores, 0.3).unwrap();
    let found = shared_backward_in_steps(&bias, &scores, 0.3).unwrap();
    assert!(distance(&found, &expected) < 1e-5);
}

/// Every operation that has a kernel, forward and backward.
fn operations_with_kernels() {
    let nothing = |_: &str, shapes: &[&[usize]], op: &dyn Fn(&[Tensor]) -> Result<Tensor>| {
        same("kernels", shapes, op, op);
    };
    nothing("add_row", &[&[5, 40, 7], &[70, 7], &[70]], &|t| {
        linear_in_steps(&t[0], &t[1], &t[2])
    });
    for kind in [
        Activation::Gelu,
        Activation::GeluTanh,
        Activation::HardSwish,
    ] {
        nothing("activation", &[&[3, 5, 119]], &|t| kind.of(&(&t[0] * 4.0)?));
    }
    nothing("softmax", &[&[4, 700]], &|t| softmax(&(&t[0] * 4.0)?));
    nothing(
        "attention",
        &[&[2, 3, 6, 4], &[2, 3, 15, 4], &[2, 3, 15, 4], &[2, 3, 6, 8]],
        &|t| attention_relative(&t[0], &t[1], &t[2], (&t[3], [3, 5]), 0.3),
    );
    nothing("layer_norm", &[&[2, 3, 300], &[300], &[300]], &|t| {
        layer_norm(&t[0], &t[1], &t[2], 1e-3)
    });
    for (kernel, stride, padding) in [(3, 1, 1), (3, 2, 1), (2, 2, 0)] {
        let windows = Windows::new([9, 12], kernel, stride, padding).unwrap();
        let (dense, separate) = ([4, 5, kernel, kernel], [5, 1, kernel, kernel]);
        nothing("gather, scatter", &[&[2, 5, 9, 12], &dense], &|t| {
            conv2d_in_steps(&t[0], &t[1], None, windows)
        });
        nothing("depthwise", &[&[2, 5, 9, 12], &separate], &|t| {
            depthwise_conv2d(&t[0], &t[1], stride, padding)
        });
    }
}

/// The softmax of attention, which the CPU computes within the product.
fn biased_softmax(bias: Bias, scores: &[usize], bias_shape: &[usize]) -> Record {
    let (x, b) = (random(scores, 0), random(bias_shape, 1));
    let (queries, keys) = (scores[2], scores[3]);
    let added = match bias {
        Bias::Shared => b.clone(),
        Bias::Grid { rows, cols } => {
            let split = |from, n| b.narrow(3, from, n).unwrap();
            let by_row = split(0, rows).unsqueeze(4).unwrap();
            let by_col = split(rows, cols).unsqueeze(3).unwrap();
            by_row
                .broadcast_add(&by_col)
                .unwrap()
                .reshape((scores[0], scores[1], queries, keys))
                .unwrap()
        }
    };
    let y = softmax(&(&x * 0.3).unwrap().broadcast_add(&added).unwrap()).unwrap();
    let flat = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    let rows = x.elem_count() / keys;
    Record {
        launch: softmax_launch([rows, keys], 0.3, Some((bias, b.elem_count()))),
        inputs: vec![flat(&x), flat(&b)],
        output: flat(&y),
    }
}

fn bytes(records: &[Record]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let floats = |values: &[f32]| -> Vec<u8> {
        let n = (values.len() as u32).to_le_bytes();
        n.into_iter()
            .chain(values.iter().flat_map(|x| x.to_le_bytes()))
            .collect()
    };
    for Record {
        launch,
        inputs,
        output,
    } in records
    {
        let mut name = launch.kernel.as_bytes().to_vec();
        name.resize(32, 0);
        bytes.extend(name);
        bytes.extend((launch.blocks as u32).to_le_bytes());
        for i in 0..10 {
            let number = launch.numbers.get(i).copied().unwrap_or(0);
            bytes.extend((number as u32).to_le_bytes());
        }
        bytes.extend(launch.real.to_le_bytes());
        bytes.extend((inputs.len() as u32).to_le_bytes());
        for values in inputs.iter().chain([output]) {
            bytes.extend(floats(values));
        }
    }
    bytes
}

#[test]
fn kernels_compute_what_rust_computes() {
    let folder = tempfile::tempdir().unwrap();
    let (host, file) = (folder.path().join("host"), folder.path().join("records"));
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/src/ops/tests/host.cpp");
    let compiled = Command::new("g++")
        .args([
            "-std=c++17",
            "-O1",
            "-Wall",
            "-Wextra",
            "-Wno-unused-parameter",
            "-Werror",
            "-o",
        ])
        .args([host.as_os_str(), source.as_ref()])
        .output();
    let compiled = match compiled {
        Ok(compiled) => compiled,
        Err(error) => {
            assert!(
                std::env::var_os("SCANSIDE_REQUIRE_PEERS").is_none(),
                "g++ is required: {error}"
            );
            eprintln!("SKIPPED: no g++ ({error}), so the GPU's kernels are NOT tested");
            return;
        }
    };
    assert!(
        compiled.status.success(),
        "{}",
        String::from_utf8_lossy(&compiled.stderr)
    );
    let mut records = during(operations_with_kernels);
    records.push(biased_softmax(Bias::Shared, &[4, 3, 6, 20], &[3, 6, 20]));
    let grid = Bias::Grid { rows: 3, cols: 5 };
    records.push(biased_softmax(grid, &[2, 3, 6, 15], &[2, 3, 6, 8]));
    std::fs::write(&file, bytes(&records)).unwrap();
    let run = Command::new(&host).arg(&file).output().unwrap();
    let said = String::from_utf8_lossy(&run.stdout);
    assert!(run.status.success(), "{said}{:?}", run.status);
}

#[test]
fn a_table_is_looked_up_alike() {
    let numbers = [2, 0, 2, 1, 2];
    let one_hot = || Lookup::one_hot(&numbers, 3, &Device::Cpu).unwrap();
    let selected = || Lookup::new(&numbers, 3, &Device::Cpu).unwrap();
    same(
        "rows",
        &[&[3, 4]],
        |t| one_hot().rows(&t[0]),
        |t| selected().rows(&t[0]),
    );
    same(
        "columns",
        &[&[4, 3]],
        |t| one_hot().columns(&t[0]),
        |t| selected().columns(&t[0]),
    );
}

#[test]
fn attention_of_half_the_batch_at_a_time() {
    let shapes: &[&[usize]] = &[&[3, 2, 6, 4], &[3, 2, 6, 4], &[3, 2, 6, 4], &[3, 2, 6, 5]];
    let grid = Bias::Grid { rows: 2, cols: 3 };
    same(
        "attention in halves",
        shapes,
        |t| in_halves([&t[0], &t[1], &t[2]], Some(&t[3]), 0.3, grid),
        |t| attention_relative(&t[0], &t[1], &t[2], (&t[3], [2, 3]), 0.3),
    );
    let shared: &[&[usize]] = &[&[3, 2, 6, 4], &[3, 2, 6, 4], &[3, 2, 6, 4], &[2, 6, 6]];
    same(
        "attention with a bias in halves",
        shared,
        |t| in_halves([&t[0], &t[1], &t[2]], Some(&t[3]), 0.3, Bias::Shared),
        |t| attention(&t[0], &t[1], &t[2], Some(&t[3]), 0.3),
    );
}

#[test]
fn bf16_is_f32_rounded() {
    type Op<'a> = &'a dyn Fn(&Tensor) -> Result<Tensor>;
    let x = random(&[2, 6, 8, 8], 0);
    let r = |shape: &[usize]| random(shape, 3);
    let ops: [(&str, Op); 12] = [
        ("gelu", &gelu),
        ("softmax", &softmax),
        ("linear", &|x| linear(x, &r(&[5, 8]), Some(&r(&[5])))),
        ("conv2d", &|x| {
            conv2d(x, &r(&[4, 6, 3, 3]), Some(&r(&[4])), 2, 1)
        }),
        ("conv_transpose2x2", &|x| {
            conv_transpose2x2(x, &r(&[6, 3, 2, 2]), Some(&r(&[3])))
        }),
        ("depthwise", &|x| {
            depthwise_conv2d(x, &r(&[6, 1, 3, 3]), 1, 1)
        }),
        ("layer_norm", &|x| layer_norm(x, &r(&[8]), &r(&[8]), 1e-5)),
        ("layer_norm_2d", &|x| {
            layer_norm_2d(x, &r(&[6]), &r(&[6]), 1e-5)
        }),
        ("batch_norm", &|x| {
            Ok(batch_norm_train(x, &r(&[6]), &r(&[6]), 1e-5)?.0)
        }),
        ("channel_affine", &|x| channel_affine(x, &r(&[6]), &r(&[6]))),
        ("attention", &|x| {
            attention(x, x, x, Some(&r(&[6, 8, 8])), 0.3)
        }),
        ("resize", &|x| resize_bilinear(x, 5, 9)),
    ];
    for (name, op) in ops {
        let exact = op(&x).unwrap();
        let rounded = op(&x.to_dtype(DType::BF16).unwrap()).unwrap();
        assert_eq!(rounded.dtype(), DType::BF16, "{name}");
        let difference = distance(&rounded.to_dtype(DType::F32).unwrap(), &exact);
        let largest = distance(&exact, &exact.zeros_like().unwrap());
        assert!(
            0.0 < difference && difference < 0.02 * largest.max(1.0),
            "{name}: off by {difference}"
        );
    }
}
