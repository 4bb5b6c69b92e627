//! Gradient checkpointing: the forward pass keeps the input of every part and nothing inside it, the backward pass
//! computes each part again: a second forward pass, for the memory of one block instead of all.

use candle_core::backprop::GradStore;
use candle_core::{Result, Tensor, Var, bail};

use super::ImageEncoderVit;

/// A forward pass whose gradients can still be had.
pub struct Tape<'a> {
    encoder: &'a ImageEncoderVit,
    /// Of every part, in order.
    inputs: Vec<Tensor>,
    embedding: Var,
}

impl ImageEncoderVit {
    /// As `forward`, to the same bits.
    pub fn forward_checkpointed(&self, image: &Tensor) -> Result<Tape<'_>> {
        let mut x = image.detach();
        let mut inputs = Vec::with_capacity(self.n_parts());
        for index in 0..self.n_parts() {
            let y = self.part(index, &x)?.detach();
            inputs.push(std::mem::replace(&mut x, y));
        }
        Ok(Tape {
            encoder: self,
            inputs,
            embedding: Var::from_tensor(&x)?,
        })
    }
}

impl Tape<'_> {
    /// (B, 256, g, g), to compute a loss from.
    pub fn embedding(&self) -> &Tensor {
        self.embedding.as_tensor()
    }

    /// Goes on from the backward pass of that loss and hands each part's gradients to `collect`. `training` are
    /// the names of the encoder's tensors that train, without `image_encoder.`: below the first nothing is computed.
    pub fn backward(
        mut self,
        loss: &GradStore,
        training: &[&str],
        mut collect: impl FnMut(&GradStore) -> Result<()>,
    ) -> Result<()> {
        let trains = |part: &usize| training.iter().any(|name| self.encoder.owns(*part, name));
        let Some(first) = (0..self.encoder.n_parts()).find(trains) else {
            return Ok(());
        };
        let Some(mut gradient) = loss.get(self.embedding()).cloned() else {
            bail!("the loss does not depend on the embedding");
        };
        for index in (first..self.encoder.n_parts()).rev() {
            let Some(input) = self.inputs.pop() else {
                bail!("a part without input");
            };
            let input = Var::from_tensor(&input)?;
            let y = self.encoder.part(index, input.as_tensor())?;
            // candle starts from a gradient of ones.
            let store = (y * gradient.detach())?.backward()?;
            collect(&store)?;
            if index > first {
                let Some(next) = store.get(input.as_tensor()) else {
                    bail!("part {index} does not depend on its input");
                };
                gradient = next.clone();
            }
        }
        Ok(())
    }
}
