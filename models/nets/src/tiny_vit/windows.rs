//! Windows that divide the grid: padding would be computed like any other token.

use std::collections::BTreeMap;

use candle_core::{Result, Tensor, bail};

use super::config::TinyVitConfig;

impl TinyVitConfig {
    /// Every window side replaced by that divisor of its stage's grid which is nearest to it, the larger of two. At
    /// 256 px 7, 14, 7 become 8, 16, 8; 1024 tokens of padding in every block of the second stage go.
    #[must_use]
    pub fn with_dividing_windows(mut self) -> Self {
        for stage in 1..4 {
            let (grid, published) = (self.grid(stage), self.window_sizes[stage]);
            let divisors = (1..=grid).filter(|side| grid.is_multiple_of(*side));
            self.window_sizes[stage] = divisors
                .rev()
                .min_by_key(|side| side.abs_diff(published))
                .expect("1 divides every grid");
        }
        self
    }

    /// Side of a stage's feature map; the last stage keeps that of the one before.
    fn grid(&self, stage: usize) -> usize {
        let embedding = self.embedding_size();
        if stage == 1 { 2 * embedding } else { embedding }
    }
}

/// Stretches the tables of attention biases (heads, window * window) in `state` to the windows of `config`, bilinear
/// with the offsets 0 and largest kept: a student of other windows starts from pretrained weights.
pub fn fit_attention_biases(
    state: &mut BTreeMap<String, Tensor>,
    config: &TinyVitConfig,
) -> Result<()> {
    for (name, tensor) in state.iter_mut() {
        let Some(rest) = name.strip_prefix("image_encoder.layers.") else {
            continue;
        };
        if !rest.ends_with(".attn.attention_biases") {
            continue;
        }
        let stage = rest.split('.').next().and_then(|it| it.parse().ok());
        let Some(&side) = stage.and_then(|stage: usize| config.window_sizes.get(stage)) else {
            bail!("{name}: no such stage");
        };
        *tensor = stretched(tensor, side)?;
    }
    Ok(())
}

/// (heads, n * n) -> (heads, side * side)
fn stretched(table: &Tensor, side: usize) -> Result<Tensor> {
    let (heads, columns) = table.dims2()?;
    let own = columns.isqrt();
    if own == side {
        return Ok(table.clone());
    }
    if own * own != columns || own < 2 || side < 2 {
        bail!("a table of {columns} offsets cannot become one of {side} x {side}");
    }
    let rows = table.to_vec2::<f32>()?;
    let step = (own - 1) as f32 / (side - 1) as f32;
    // Lower neighbour and the weight of the upper one.
    let at = |i: usize| {
        let place = i as f32 * step;
        let low = (place as usize).min(own - 2);
        (low, place - low as f32)
    };
    let mut data = Vec::with_capacity(heads * side * side);
    for row in &rows {
        for y in 0..side {
            for x in 0..side {
                let ((top, v), (left, u)) = (at(y), at(x));
                let line = |y: usize| row[y * own + left] * (1.0 - u) + row[y * own + left + 1] * u;
                data.push(line(top) * (1.0 - v) + line(top + 1) * v);
            }
        }
    }
    Tensor::from_vec(data, (heads, side * side), table.device())
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    #[test]
    fn windows_divide_the_grid() {
        for (size, windows) in [
            (256, [7, 8, 16, 8]),
            (320, [7, 8, 10, 5]),
            (384, [7, 8, 12, 8]),
            (512, [7, 8, 16, 8]),
        ] {
            let config = TinyVitConfig::mobile_sam(size).with_dividing_windows();
            assert_eq!(config.window_sizes, windows, "{size} px");
        }
    }

    #[test]
    fn a_plane_stays_a_plane() {
        // One head of 3 x 3 offsets, y + 10 x.
        let plane: Vec<f32> = (0..9)
            .map(|i| (i / 3) as f32 + 10.0 * (i % 3) as f32)
            .collect();
        let table = Tensor::from_vec(plane, (1, 9), &Device::Cpu).unwrap();
        let mut config = TinyVitConfig::mobile_sam(256);
        config.window_sizes[2] = 5;
        let name = "image_encoder.layers.2.blocks.0.attn.attention_biases";
        let mut state = BTreeMap::from([(name.to_owned(), table)]);
        fit_attention_biases(&mut state, &config).unwrap();
        let found = state[name].to_vec2::<f32>().unwrap();
        let wanted: Vec<f32> = (0..25)
            .map(|i| (i / 5) as f32 / 2.0 + 5.0 * (i % 5) as f32)
            .collect();
        assert_eq!(found, [wanted]);
    }
}
