//! Weights as int8 with symmetric scales.

use tract_onnx::pb::TensorProto;

/// Largest magnitude of a quantized weight; -128 stays unused so that both signs are alike.
pub(super) const LEVELS: f32 = 127.0;

/// Which axis has a scale for each of its channels.
#[derive(Debug, Clone, Copy)]
pub(super) enum Axis {
    First(usize),
    Last(usize),
}

pub(super) struct Quantized {
    pub(super) values: Vec<i8>,
    pub(super) scales: Vec<f32>,
    /// Root mean square of the rounding error, relative to that of the weights.
    pub(super) error: f32,
}

impl Quantized {
    pub(super) fn of(data: &[f32], axis: Option<Axis>) -> Self {
        let channels = match axis {
            None => 1,
            Some(Axis::First(n) | Axis::Last(n)) => n,
        };
        let per_channel = data.len() / channels;
        let channel = |index: usize| match axis {
            None => 0,
            Some(Axis::First(_)) => index / per_channel,
            Some(Axis::Last(_)) => index % channels,
        };
        let mut maxima = vec![0f32; channels];
        for (index, value) in data.iter().enumerate() {
            let maximum = &mut maxima[channel(index)];
            *maximum = maximum.max(value.abs());
        }
        // A channel of zeros has any scale.
        let scales: Vec<f32> = maxima
            .iter()
            .map(|&top| if top > 0.0 { top / LEVELS } else { 1.0 })
            .collect();
        let mut values = Vec::with_capacity(data.len());
        let (mut noise, mut power) = (0f64, 0f64);
        for (index, &value) in data.iter().enumerate() {
            let scale = scales[channel(index)];
            let step = (value / scale).round_ties_even().clamp(-LEVELS, LEVELS);
            noise += f64::from(value - step * scale).powi(2);
            power += f64::from(value).powi(2);
            values.push(step as i8);
        }
        Self {
            values,
            scales,
            error: (noise / power.max(f64::MIN_POSITIVE)).sqrt() as f32,
        }
    }
}

pub(super) fn dims(tensor: &TensorProto) -> Vec<usize> {
    tensor.dims.iter().map(|&side| side as usize).collect()
}

pub(super) fn last_dim(tensor: &TensorProto) -> usize {
    *dims(tensor).last().expect("weights have axes")
}

pub(super) fn f32_len(tensor: &TensorProto) -> usize {
    tensor.raw_data.len() / 4
}

pub(super) fn f32_data(tensor: &TensorProto) -> Vec<f32> {
    let (values, _) = tensor.raw_data.as_chunks::<4>();
    values
        .iter()
        .map(|&bytes| f32::from_le_bytes(bytes))
        .collect()
}
