//! What a training step is made of, forward and backward: operations of `nets` beside candle's own, and
//! the student's whole step. Each operation's loss is the sum of squares of its output.

use candle_core::{Device, Result, Tensor, Var};
use candle_nn::ops::softmax;
use criterion::{Criterion, criterion_group, criterion_main};
use nets::loss::dice_ce;
use nets::optimizer::{AdamW, AdamWConfig};
use nets::params::Params;
use nets::sam::{EncoderConfig, Sam, SamConfig};
use nets::tiny_vit::TinyVitConfig;
use nets::{Mode, ops};

fn var(shape: &[usize]) -> Var {
    Var::randn(0f32, 1f32, shape, &Device::Cpu).expect("memory for a tensor")
}

/// One operation on `x` and a weight.
type Operation = fn(&Tensor, &Tensor) -> Result<Tensor>;

struct Case {
    name: &'static str,
    input: &'static [usize],
    weight: &'static [usize],
    ours: Operation,
    candles: Operation,
}

/// Shapes of TinyViT's stages at 256 px and stride 4.
const CASES: [Case; 4] = [
    Case {
        name: "conv 1x1, 64 to 256 at 64x64",
        input: &[1, 64, 64, 64],
        weight: &[256, 64, 1, 1],
        ours: |x, weight| ops::conv2d(x, weight, None, 1, 0),
        candles: |x, weight| x.conv2d(weight, 0, 1, 1, 1),
    },
    Case {
        name: "conv 3x3, 64 to 64 at 64x64",
        input: &[1, 64, 64, 64],
        weight: &[64, 64, 3, 3],
        ours: |x, weight| ops::conv2d(x, weight, None, 1, 1),
        candles: |x, weight| x.conv2d(weight, 1, 1, 1, 1),
    },
    Case {
        name: "depthwise 3x3, 256 at 64x64",
        input: &[1, 256, 64, 64],
        weight: &[256, 1, 3, 3],
        ours: |x, weight| ops::depthwise_conv2d(x, weight, 1, 1),
        candles: |x, weight| x.conv2d(weight, 1, 1, 1, 256),
    },
    Case {
        name: "softmax, 16 of 1024x1024",
        input: &[16, 1024, 1024],
        weight: &[1],
        ours: |x, weight| ops::softmax(&x.broadcast_mul(weight)?),
        // `softmax_last_dim` is faster and has no gradient.
        candles: |x, weight| softmax(&x.broadcast_mul(weight)?, 2),
    },
];

fn forward_and_backward(operation: Operation, x: &Var, weight: &Var) {
    operation(x, weight)
        .and_then(|y| y.sqr()?.sum_all()?.backward())
        .expect("the shapes fit");
}

fn operations(criterion: &mut Criterion) {
    for case in CASES {
        let (x, weight) = (var(case.input), var(case.weight));
        let mut group = criterion.benchmark_group(case.name);
        group.sample_size(10);
        for (name, operation) in [("ours", case.ours), ("candle", case.candles)] {
            group.bench_function(name, |bencher| {
                bencher.iter(|| forward_and_backward(operation, &x, &weight));
            });
        }
    }
}

/// ViT-T at 256 px, batch 4, all weights: as in stage 2 of distillation, without the teacher's part.
fn student_step(criterion: &mut Criterion) {
    let config = SamConfig {
        encoder: EncoderConfig::TinyVit(TinyVitConfig::mobile_sam(256)),
        num_cls: 2,
        lora: None,
        adapter: None,
    };
    let params = Params::new([].into(), |_| true, 1);
    let sam = Sam::new(&config, &params).expect("the student can be built");
    let vars = params.finish().vars;
    let mut optimizer = AdamW::new(&vars, AdamWConfig::reference()).expect("moments");
    let images = Tensor::randn(0f32, 1f32, (4, 3, 256, 256), &Device::Cpu).expect("memory");
    let labels = Tensor::zeros((4, 64, 64), candle_core::DType::U32, &Device::Cpu).expect("memory");
    let mut step = || -> Result<f64> {
        let loss = dice_ce(&sam.forward_noprompt(&images, Mode::Train)?, &labels)?;
        let store = (loss.dice + loss.cross_entropy)?.backward()?;
        let gradients = vars
            .iter()
            .filter_map(|(name, var)| Some((name.clone(), store.get(var)?.clone())))
            .collect();
        optimizer.step(&gradients, 1e-6, 1.0)
    };
    let mut group = criterion.benchmark_group("student step, ViT-T at 256 px, batch 4");
    group.sample_size(10);
    group.bench_function("forward, backward, AdamW", |bencher| {
        bencher.iter(|| step().expect("the shapes fit"));
    });
}

criterion_group!(benches, operations, student_step);
criterion_main!(benches);
