//! Low-rank updates of attention projections (finetune-SAM's `LoRA_Sam`): y = W x + B A x, scale 1.

use std::collections::BTreeMap;

use candle_core::{Result, Tensor, bail};
use serde::{Deserialize, Serialize};

use crate::layers::Linear;
use crate::params::{Init, Params};
use crate::{Mode, ops};

/// Which parts carry LoRA.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LoraConfig {
    pub rank: usize,
    /// ViT: blocks. TinyViT: i means all blocks of `layers.{i + 1}`.
    pub encoder_layers: Vec<usize>,
    pub decoder: bool,
    pub rows: LoraRows,
}

/// Where TinyViT's "q" and "v" updates land in the fused qkv output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LoraRows {
    /// On q and v: TinyViT lays its qkv out head by head.
    PerHead,
    /// On the first and last `dim` rows, as the reference does: a mixture of q, k and v of some heads.
    Reference,
}

/// One linear layer with an optional low-rank update: `q_proj` or `v_proj` in the decoder.
pub struct LoraLinear {
    linear: Linear,
    update: Option<[Tensor; 2]>,
}

impl LoraLinear {
    pub fn new(
        inputs: usize,
        outputs: usize,
        rank: Option<usize>,
        params: &Params,
    ) -> Result<Self> {
        let Some(rank) = rank else {
            return Ok(Self {
                linear: Linear::new(inputs, outputs, params)?,
                update: None,
            });
        };
        let a = params
            .pp("w_a")
            .get((rank, inputs), "weight", Init::fan_in(inputs))?;
        let b = params
            .pp("w_b")
            .get((outputs, rank), "weight", Init::Const(0.0))?;
        let linear = Linear::new(inputs, outputs, &params.pp("proj"))?;
        Ok(Self {
            linear,
            update: Some([a, b]),
        })
    }

    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let y = self.linear.forward(x)?;
        match &self.update {
            Some([a, b]) => y + low_rank(x, a, b)?,
            None => Ok(y),
        }
    }
}

/// A fused qkv, with optional updates of q and v.
pub struct QkvLinear {
    qkv: Linear,
    lora: Option<QkvLora>,
}

struct QkvLora {
    q: [Tensor; 2],
    v: [Tensor; 2],
    n_heads: usize,
    rows: LoraRows,
}

impl QkvLinear {
    pub fn new(
        dim: usize,
        n_heads: usize,
        lora: Option<&LoraConfig>,
        params: &Params,
    ) -> Result<Self> {
        let init = [Init::TruncatedNormal(0.02), Init::Const(0.0)];
        let Some(config) = lora else {
            return Ok(Self {
                qkv: Linear::with_init(dim, 3 * dim, init, params)?,
                lora: None,
            });
        };
        let pair = |letter: &str| -> Result<[Tensor; 2]> {
            let a = params.pp(format!("linear_a_{letter}"));
            let b = params.pp(format!("linear_b_{letter}"));
            Ok([
                a.get((config.rank, dim), "weight", Init::fan_in(dim))?,
                b.get((dim, config.rank), "weight", Init::Const(0.0))?,
            ])
        };
        let lora = QkvLora {
            q: pair("q")?,
            v: pair("v")?,
            n_heads,
            rows: config.rows,
        };
        let qkv = Linear::with_init(dim, 3 * dim, init, &params.pp("qkv"))?;
        Ok(Self {
            qkv,
            lora: Some(lora),
        })
    }

    /// (B, N, dim) -> (B, N, 3 dim)
    pub fn forward(&self, x: &Tensor, mode: Mode) -> Result<Tensor> {
        let y = self.qkv.forward_in(x, mode)?;
        let Some(lora) = &self.lora else { return Ok(y) };
        let q = low_rank(x, &lora.q[0], &lora.q[1])?;
        let v = low_rank(x, &lora.v[0], &lora.v[1])?;
        let (b, n, dim) = q.dims3()?;
        let delta = match lora.rows {
            LoraRows::Reference => Tensor::cat(&[&q, &q.zeros_like()?, &v], 2)?,
            LoraRows::PerHead => {
                let shape = (b, n, lora.n_heads, 1, dim / lora.n_heads);
                let (q, v) = (q.reshape(shape)?, v.reshape(shape)?);
                Tensor::cat(&[&q, &q.zeros_like()?, &v], 3)?.reshape((b, n, 3 * dim))?
            }
        };
        y + delta
    }
}

fn low_rank(x: &Tensor, a: &Tensor, b: &Tensor) -> Result<Tensor> {
    ops::linear(&ops::linear(x, a, None)?, b, None)
}

/// Rows of the fused qkv that an update of `dim` rows lands on.
fn rows_of(letter: char, dim: usize, head_dim: usize, rows: LoraRows) -> Vec<usize> {
    let block = usize::from(letter == 'v') * 2;
    match rows {
        LoraRows::Reference => (block * dim..(block + 1) * dim).collect(),
        LoraRows::PerHead => (0..dim)
            .map(|i| (i / head_dim) * 3 * head_dim + block * head_dim + i % head_dim)
            .collect(),
    }
}

/// Adds every update to its weight and gives the tensors their plain upstream names. Exact up to
/// rounding. `rows` and `head_dim` (channels a head, 32 in all published sizes) are TinyViT's; the plain
/// ViT has q, k and v one after the other.
pub fn merge(
    mut state: BTreeMap<String, Tensor>,
    rows: LoraRows,
    head_dim: usize,
) -> Result<BTreeMap<String, Tensor>> {
    let names: Vec<String> = state.keys().cloned().collect();
    for name in &names {
        if let Some(base) = name.strip_suffix(".w_a.weight") {
            let delta = take_product(&mut state, &format!("{base}.w_a"), &format!("{base}.w_b"))?;
            let merged = (take(&mut state, &format!("{base}.proj.weight"))? + delta)?;
            let bias = take(&mut state, &format!("{base}.proj.bias"))?;
            state.insert(format!("{base}.weight"), merged);
            state.insert(format!("{base}.bias"), bias);
        } else if let Some(base) = name.strip_suffix(".linear_a_q.weight") {
            let mut weight = take(&mut state, &format!("{base}.qkv.weight"))?.to_vec2::<f32>()?;
            let dim = weight.len() / 3;
            let rows = if base.contains("image_encoder.blocks.") {
                LoraRows::Reference
            } else {
                rows
            };
            if rows == LoraRows::PerHead && !dim.is_multiple_of(head_dim) {
                bail!("{base} has {dim} channels, which heads of {head_dim} do not divide");
            }
            for letter in ['q', 'v'] {
                let (a, b) = (
                    format!("{base}.linear_a_{letter}"),
                    format!("{base}.linear_b_{letter}"),
                );
                let delta = take_product(&mut state, &a, &b)?;
                if delta.dims() != [dim, weight.first().map_or(0, Vec::len)] {
                    bail!(
                        "{b} makes an update of {:?} for {dim} channels",
                        delta.dims()
                    );
                }
                let delta = delta.to_vec2::<f32>()?;
                for (row, delta) in rows_of(letter, dim, head_dim, rows).into_iter().zip(delta) {
                    weight[row].iter_mut().zip(delta).for_each(|(w, d)| *w += d);
                }
            }
            let bias = take(&mut state, &format!("{base}.qkv.bias"))?;
            state.insert(
                format!("{base}.weight"),
                Tensor::new(weight, bias.device())?,
            );
            state.insert(format!("{base}.bias"), bias);
        }
    }
    Ok(state)
}

fn take(state: &mut BTreeMap<String, Tensor>, name: &str) -> Result<Tensor> {
    state
        .remove(name)
        .ok_or_else(|| candle_core::Error::Msg(format!("LoRA weights lack {name}")))
}

/// B A, from `a.weight` (rank, in) and `b.weight` (out, rank).
fn take_product(state: &mut BTreeMap<String, Tensor>, a: &str, b: &str) -> Result<Tensor> {
    let a = take(state, &format!("{a}.weight"))?;
    take(state, &format!("{b}.weight"))?.matmul(&a)
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;
    use crate::Mode;
    use crate::sam::{EncoderConfig, Sam, SamConfig};
    use crate::tiny_vit::TinyVitConfig;

    fn config(rows: Option<LoraRows>) -> SamConfig {
        let encoder = TinyVitConfig {
            embed_dims: [8, 64, 96, 320],
            depths: [1; 4],
            num_heads: [1, 2, 3, 10],
            ..TinyVitConfig::mobile_sam(64)
        };
        let updates = |rows| LoraConfig {
            rank: 2,
            encoder_layers: vec![0, 1, 2],
            decoder: true,
            rows,
        };
        SamConfig {
            encoder: EncoderConfig::TinyVit(encoder),
            num_cls: 2,
            lora: rows.map(updates),
            adapter: None,
        }
    }

    fn logits(config: &SamConfig, params: &Params) -> Tensor {
        let sam = Sam::new(config, params).unwrap();
        let ramp = Tensor::arange(0f32, 3.0 * 64.0 * 64.0, &Device::Cpu).unwrap();
        let image = (ramp * 0.37)
            .unwrap()
            .sin()
            .unwrap()
            .reshape((1, 3, 64, 64))
            .unwrap();
        sam.forward_noprompt(&image, Mode::Eval).unwrap()
    }

    fn largest_difference(a: &Tensor, b: &Tensor) -> f32 {
        let difference = (a - b).unwrap().abs().unwrap().flatten_all().unwrap();
        difference.max(0).unwrap().to_scalar().unwrap()
    }

    #[test]
    fn updates_start_as_nothing_on_plain_weights_and_merge_exactly() {
        let plain = Params::new(BTreeMap::new(), |_| false, 7);
        let expected = logits(&config(None), &plain);
        let plain = plain.finish().state_dict().unwrap();
        for rows in [LoraRows::PerHead, LoraRows::Reference] {
            let params = Params::new(plain.clone(), |_| false, 8);
            let start = logits(&config(Some(rows)), &params);
            let loaded = params.finish();
            let is_update = |name: &String| name.contains("linear_") || name.contains(".w_");
            assert!(
                loaded.report.random.iter().all(is_update),
                "{:?}",
                loaded.report.random
            );
            assert_eq!(loaded.report.unused, Vec::<String>::new());
            assert!(largest_difference(&start, &expected) < 1e-5);

            let mut state = loaded.state_dict().unwrap();
            for (name, tensor) in &mut state {
                if name.contains("linear_b_") || name.contains(".w_b.") {
                    let n = tensor.elem_count() as f32;
                    let ramp = Tensor::arange(0f32, n, &Device::Cpu).unwrap();
                    let wave = (ramp.sin().unwrap() * 0.2).unwrap();
                    *tensor = wave.reshape(tensor.shape()).unwrap();
                }
            }
            let updated = logits(
                &config(Some(rows)),
                &Params::new(state.clone(), |_| false, 0),
            );
            assert!(
                largest_difference(&updated, &expected) > 1e-3,
                "the updates do nothing"
            );
            let merged = merge(state, rows, 32).unwrap();
            assert!(merged.keys().eq(plain.keys()));
            let merged = logits(&config(None), &Params::new(merged, |_| false, 0));
            assert!(largest_difference(&merged, &updated) < 1e-4);
        }
    }
}
