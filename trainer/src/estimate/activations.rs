//! The values that candle keeps between forward and backward pass, counted layer by layer as
//! `nets` computes them: a change of a forward pass there belongs here too.

use std::collections::BTreeMap;

use candle_core::Var;
use nets::image_encoder_vit::ImageEncoderVitConfig;
use nets::sam::{EncoderConfig, SamConfig};
use nets::tiny_vit::{Stem, TinyVitConfig};

/// Width of the decoder's attention to the image, as a part of the embedding's channels.
const CROSS_ATTENTION_SHARE: usize = 2;
const DECODER_LAYERS: usize = 2;
const DECODER_HEADS: usize = 8;

/// Numbers of f32 values.
pub(super) struct Activations<'a> {
    pub(super) kept: usize,
    /// The largest single result that is kept.
    pub(super) largest: usize,
    /// The largest that is not, as nothing before it trains.
    pub(super) passing: usize,
    vars: &'a BTreeMap<String, Var>,
    /// Whether a layer so far has a weight that trains: nothing before the first one is kept.
    tracked: bool,
    /// With gradient checkpointing: what the block that keeps most keeps while it is computed again.
    block: Option<usize>,
}

/// Attention within windows, for one block.
struct Windows {
    /// Tokens, padding included.
    tokens: usize,
    /// Copies that padding and splitting make, in values a channel.
    copies: usize,
    /// Tokens of one window.
    size: usize,
}

impl<'a> Activations<'a> {
    /// Of one forward pass with `batch` images through a network in which `vars` train.
    pub(super) fn count(
        config: &SamConfig,
        vars: &'a BTreeMap<String, Var>,
        batch: usize,
        checkpointing: bool,
    ) -> Self {
        let mut count = Self {
            kept: 0,
            largest: 0,
            passing: 0,
            vars,
            tracked: false,
            block: checkpointing.then_some(0),
        };
        match &config.encoder {
            EncoderConfig::TinyVit(encoder) => count.tiny_vit(encoder, batch),
            EncoderConfig::Vit(encoder) => count.vit(encoder, batch),
        }
        let encoder = count.kept;
        count.decoder(config, batch);
        count.loss(config, batch);
        if let Some(block) = count.block {
            // The decoder's results are gone before the first block is computed again.
            count.kept = encoder + block.max(count.kept - encoder);
        }
        count
    }

    /// From here on results depend on the weights under `prefix` too.
    fn enter(&mut self, prefix: &str) {
        self.tracked |= self.trains(prefix);
    }

    fn trains(&self, prefix: &str) -> bool {
        let from = prefix.to_owned();
        let next = self.vars.range(from..).next();
        next.is_some_and(|(name, _)| name.starts_with(prefix))
    }

    /// `times` results of `n` values.
    fn keep(&mut self, times: usize, n: usize) {
        if self.tracked {
            self.kept += times * n;
            self.largest = self.largest.max(n);
        } else {
            self.passing = self.passing.max(n);
        }
    }

    fn tiny_vit(&mut self, config: &TinyVitConfig, batch: usize) {
        let dims = config.embed_dims;
        let mut side = config.img_size;
        self.enter("image_encoder.patch_embed.");
        let stem: &[(usize, usize)] = match config.stem {
            Stem::Stride4 => &[(2, dims[0] / 2), (2, dims[0])],
            Stem::Stride2 => &[(2, dims[0])],
            Stem::Pointwise => &[(1, dims[0] / 2), (1, dims[0])],
        };
        for &(stride, channels) in stem {
            side /= stride;
            // Convolution, norm, GELU.
            self.keep(3, batch * side * side * channels);
        }
        for i in 0..config.depths[0] {
            self.enter(&format!("image_encoder.layers.0.blocks.{i}."));
            let n = batch * side * side * dims[0];
            self.keep(6, (n as f64 * config.mbconv_expand_ratio) as usize);
            self.keep(4, n);
        }
        for stage in 0..4 {
            if stage > 0 {
                for i in 0..config.depths[stage] {
                    self.tiny_vit_block(config, [stage, i], side, batch);
                }
            }
            let Some(&dim) = dims.get(stage + 1) else {
                break;
            };
            self.enter(&format!("image_encoder.layers.{stage}.downsample."));
            self.keep(3, batch * side * side * dim);
            if !matches!(dim, 320 | 448 | 576) {
                side /= 2;
            }
            // The rest of the convolutions and norms, tokens, and later the map again.
            self.keep(7, batch * side * side * dim);
        }
        self.neck(batch * side * side * config.out_chans);
    }

    fn tiny_vit_block(
        &mut self,
        config: &TinyVitConfig,
        [stage, index]: [usize; 2],
        side: usize,
        batch: usize,
    ) {
        let prefix = format!("image_encoder.layers.{stage}.blocks.{index}.");
        self.enter(&prefix);
        let (dim, tokens) = (config.embed_dims[stage], batch * side * side);
        let windows = Windows::new(side, config.window_sizes[stage], batch);
        let n = windows.tokens * dim;
        self.keep(1, windows.copies * dim);
        // Norm; q, k and v apart; product, its transpose and projection; back to the grid.
        self.keep(1 + 3 + 3 + 1, n);
        self.qkv(&prefix, n);
        self.keep(1, windows.tokens * windows.size * config.num_heads[stage]);
        // Two sums, map, local convolution, its norm, tokens, norm, end of the MLP and its sum.
        self.keep(9, tokens * dim);
        self.keep(2, (tokens as f64 * dim as f64 * config.mlp_ratio) as usize);
        self.adapters(&prefix, tokens * dim);
    }

    fn vit(&mut self, config: &ImageEncoderVitConfig, batch: usize) {
        let (dim, side) = (config.embed_dim, config.embedding_size());
        let tokens = batch * side * side;
        self.enter("image_encoder.patch_embed.");
        self.keep(2, tokens * dim);
        self.enter("image_encoder.pos_embed");
        self.keep(1, tokens * dim);
        for i in 0..config.depth {
            let prefix = format!("image_encoder.blocks.{i}.");
            self.enter(&prefix);
            let before = self.kept;
            let window = if config.global_attn_indexes.contains(&i) {
                side
            } else {
                config.window_size
            };
            let windows = Windows::new(side, window, batch);
            let n = windows.tokens * dim;
            self.keep(1, windows.copies * dim);
            // q, k and v apart; q in two orders; product, its transpose and projection; back.
            self.keep(3 + 2 + 3 + 1, n);
            self.qkv(&prefix, n);
            self.keep(1, windows.tokens * windows.size * config.num_heads);
            // Relative positions by row and by column, each in two orders, then joined.
            self.keep(6, windows.tokens * window * config.num_heads);
            // Two norms, two sums, the grid cut to size, end of the MLP.
            self.keep(6, tokens * dim);
            self.keep(2, (tokens as f64 * dim as f64 * config.mlp_ratio) as usize);
            self.adapters(&prefix, tokens * dim);
            if let Some(block) = &mut self.block {
                *block = (*block).max(self.kept - before);
                // Its input, whether anything below trains or not.
                self.kept = before + tokens * dim;
            }
        }
        self.keep(1, tokens * dim);
        self.neck(tokens * config.out_chans);
    }

    /// The fused q, k and v, and with LoRA their update: q's and v's part, zeros and their gradient
    /// for k's, the three joined, the sum.
    fn qkv(&mut self, block: &str, n: usize) {
        self.keep(1, 3 * n);
        if self.trains(&format!("{block}attn.qkv.linear_a_q.")) {
            self.keep(4, n);
            self.keep(2, 3 * n);
        }
    }

    /// On attention and MLP, each with a bottleneck of a quarter.
    fn adapters(&mut self, block: &str, n: usize) {
        if self.trains(&format!("{block}MLP_Adapter.")) {
            self.keep(4, n / 4);
            self.keep(5, n);
        }
    }

    fn neck(&mut self, n: usize) {
        self.enter("image_encoder.neck.");
        self.keep(4, n);
    }

    fn decoder(&mut self, config: &SamConfig, batch: usize) {
        self.enter("prompt_encoder.no_mask_embed.");
        self.enter("mask_decoder.");
        let tokens = batch * config.encoder.embedding_size().pow(2);
        let n = tokens * config.encoder.out_chans();
        let inner = n / CROSS_ATTENTION_SHARE;
        let n_queries = config.num_cls + 2;
        let lora =
            usize::from(self.trains("mask_decoder.transformer.layers.0.self_attn.q_proj.w_a."));
        // The embedding with its prompt and its positions, each as tokens too.
        self.keep(5, n);
        for i in 0..DECODER_LAYERS {
            // Keys with positions; end of the attention of image to tokens, sum, norm.
            self.keep(4, n);
            // k and v of tokens to image, q, product and its transpose of image to tokens.
            self.keep(2 + 2 + 2 + 2 + 2 * 2 * lora, inner);
            self.keep(2, tokens * DECODER_HEADS * n_queries);
            if self.trains(&format!("mask_decoder.transformer.layers.{i}.Adapter.")) {
                self.keep(2, n / 4);
                self.keep(2, n);
            }
        }
        self.keep(1, n);
        self.keep(4 + 2 * lora, inner);
        self.keep(1, tokens * DECODER_HEADS * n_queries);
        // The map; twice a transposed convolution in two steps and GELU, between them a norm.
        self.keep(1 + 4, n);
        self.keep(3, 2 * n);
        self.keep(1, tokens * 16 * config.num_cls);
    }

    /// Logits at the input's size, their softmax and sigmoid, both terms of the loss.
    fn loss(&mut self, config: &SamConfig, batch: usize) {
        let (size, low_res) = (
            config.encoder.img_size(),
            4 * config.encoder.embedding_size(),
        );
        let n_classes = batch * config.num_cls;
        if low_res != size {
            self.keep(2, n_classes * low_res * size);
            self.keep(2, n_classes * size * size);
        }
        self.keep(8, n_classes * size * size);
        self.keep(3, batch * size * size);
    }
}

impl Windows {
    /// Of `side` tokens on a grid of `grid`.
    fn new(grid: usize, side: usize, batch: usize) -> Self {
        let padded = grid.div_ceil(side) * side;
        let tokens = batch * padded * padded;
        let copies = if grid == side {
            0
        } else if padded == grid {
            tokens
        } else {
            // Rows are padded first, then columns, then the windows are laid out.
            batch * padded * grid + 2 * tokens
        };
        Self {
            tokens,
            copies,
            size: side * side,
        }
    }
}

#[cfg(test)]
mod tests;
