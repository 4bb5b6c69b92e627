//! Rounding as in an exported int8 graph, while the network trains: it can learn to do without what is lost there.
//! Gradients pass as if nothing was rounded.

use candle_core::{CpuStorage, Result, Shape, Tensor};

use super::kernel::{BLOCK, for_blocks, in_f32, values};
use super::operation::{Custom, Input, Operation};
use crate::Mode;

/// An activation has 256 steps with a zero point, a weight is symmetric.
const STEPS: f32 = 255.0;
const LEVELS: f32 = 127.0;
/// Values of an activation that its range is found with.
const SAMPLE: usize = 1 << 14;

/// Input and weight (out, ..) of a layer, in [`Mode::Int8`] on the grids of an exported graph. Each output channel has a
/// step of its own, so a batch norm that follows changes nothing.
pub fn in_mode(x: &Tensor, weight: &Tensor, mode: Mode) -> Result<(Tensor, Tensor)> {
    if mode != Mode::Int8 {
        return Ok((x.clone(), weight.clone()));
    }
    let round = |x: &Tensor, rounding| in_f32(x, |x| rounded(x, rounding));
    Ok((
        round(x, Rounding::Activation)?,
        round(weight, Rounding::Weight)?,
    ))
}

#[derive(Debug, Clone, Copy)]
enum Rounding {
    Activation,
    /// By output channel.
    Weight,
}

fn rounded(x: &Tensor, rounding: Rounding) -> Result<Tensor> {
    if x.device().is_cpu() {
        return x.apply_op1(Custom(rounding));
    }
    let found = rounding.grid(&x.flatten_all()?.to_vec1()?, x.shape());
    let mut shape = vec![1; x.rank()];
    shape[0] = found.steps.len();
    let steps = Tensor::from_vec(found.steps, shape, x.device())?;
    let exact = x.detach();
    let places = exact.broadcast_div(&steps)?.round()?;
    let y = places
        .clamp(found.least, found.most)?
        .broadcast_mul(&steps)?;
    x + (y - exact)?
}

/// Multiples of a step, one for all or one for each of the first dimension.
struct Grid {
    steps: Vec<f32>,
    least: f32,
    most: f32,
}

impl Rounding {
    fn grid(self, values: &[f32], shape: &Shape) -> Grid {
        match self {
            Self::Activation => {
                let [low, high] = range(values);
                let step = ((high - low) / STEPS).max(f32::MIN_POSITIVE);
                let zero = (-low / step).round_ties_even();
                Grid {
                    steps: vec![step],
                    least: -zero,
                    most: STEPS - zero,
                }
            }
            Self::Weight => {
                let width = values.len() / shape.dims()[0].max(1);
                let largest = |row: &[f32]| row.iter().fold(0f32, |top, x| top.max(x.abs()));
                let steps = values.chunks(width.max(1)).map(|row| {
                    let top = largest(row);
                    if top > 0.0 { top / LEVELS } else { 1.0 }
                });
                Grid {
                    steps: steps.collect(),
                    least: -LEVELS,
                    most: LEVELS,
                }
            }
        }
    }
}

impl Operation<1> for Rounding {
    fn name(&self) -> &'static str {
        "round to int8"
    }

    fn forward_on_cpu(
        &self,
        [(storage, layout)]: [Input<'_, CpuStorage>; 1],
    ) -> Result<(CpuStorage, Shape)> {
        let x = values(storage, layout)?;
        let Grid { steps, least, most } = self.grid(x, layout.shape());
        let width = x.len() / steps.len();
        let mut out = vec![0f32; x.len()];
        let block = if steps.len() == 1 { BLOCK } else { width };
        for_blocks(
            &mut out,
            block,
            #[inline(always)]
            |at, out| {
                let step = steps[at / width];
                let by_step = 1.0 / step;
                for (out, &x) in out.iter_mut().zip(&x[at..]) {
                    *out = (x * by_step).round_ties_even().clamp(least, most) * step;
                }
            },
        );
        Ok((CpuStorage::F32(out), layout.shape().clone()))
    }

    fn gradients(
        &self,
        [_]: [&Tensor; 1],
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<[Option<Tensor>; 1]> {
        Ok([Some(grad.clone())])
    }
}

/// The range with the least squared error: one end is moved, then the other. Zero is always inside.
fn range(values: &[f32]) -> [f32; 2] {
    let (least, most) = values.iter().fold((0f32, 0f32), |(least, most), &x| {
        (least.min(x), most.max(x))
    });
    let sample: Vec<f32> = values
        .iter()
        .step_by(values.len().div_ceil(SAMPLE).max(1))
        .copied()
        .collect();
    let error = |[low, high]: [f32; 2]| {
        let step = (high - low) / STEPS;
        let one = |x: f32| {
            let excess = (x - high).max(low - x).max(0.0);
            if excess > 0.0 {
                excess * excess
            } else {
                step * step / 12.0
            }
        };
        sample.iter().map(|&x| one(x)).sum::<f32>()
    };
    let mut best = [least, most];
    for end in [1, 0] {
        let whole = best[end];
        let candidates = (3..=10).map(|part| {
            let mut range = best;
            range[end] = whole * part as f32 / 10.0;
            (error(range), range)
        });
        best = candidates
            .min_by(|a, b| a.0.total_cmp(&b.0))
            .map_or(best, |(_, range)| range);
    }
    best
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Var};

    use super::*;

    #[test]
    fn a_weight_has_steps_by_channel_and_an_activation_a_zero_point() {
        let weight = Tensor::new(&[[127f32, 3.4, -2.6], [0.0127, 0.00034, 0.0]], &Device::Cpu);
        let x = Tensor::arange(-10f32, 245.4, &Device::Cpu).unwrap();
        let (x, weight) = in_mode(&(x + 0.2).unwrap(), &weight.unwrap(), Mode::Int8).unwrap();
        let rows = weight.to_vec2::<f32>().unwrap();
        assert_eq!(rows[0], [127.0, 3.0, -3.0]);
        assert!((rows[1][1] - 0.0003).abs() < 1e-7, "{rows:?}");
        let x = x.to_vec1::<f32>().unwrap();
        assert!(x.contains(&0.0), "zero stays zero");
        for (i, x) in x.into_iter().enumerate() {
            assert!((x - (i as f32 - 9.8)).abs() < 0.51, "{i}: {x}");
        }
    }

    #[test]
    fn outliers_are_clipped_and_gradients_pass() {
        let mut values: Vec<f32> = (0..20_000).map(|i| (i % 100) as f32 / 100.0).collect();
        values[77] = 4.0;
        let [low, high] = range(&values);
        assert!(low == 0.0 && (1.0..2.1).contains(&high), "{high}");
        let x = Var::from_vec(vec![0.123f32, -1.0, 1.0], 3, &Device::Cpu).unwrap();
        let y = rounded(&x, Rounding::Activation).unwrap();
        let gradients = (y * 3.0).unwrap().sum_all().unwrap().backward().unwrap();
        assert_eq!(
            gradients.get(&x).unwrap().to_vec1::<f32>().unwrap(),
            [3.0; 3]
        );
    }

    #[test]
    fn in_other_modes_nothing_is_rounded() {
        let x = Tensor::new(&[0.1f32, 0.77], &Device::Cpu).unwrap();
        let (same, _) = in_mode(&x, &x, Mode::Train).unwrap();
        assert_eq!(same.to_vec1::<f32>().unwrap(), x.to_vec1::<f32>().unwrap());
    }
}
