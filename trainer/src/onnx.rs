//! Writing ONNX: a graph of standard operators with static shapes, built node by node.
//!
//! `graph` is the builder, `weights` reads the state dict, `layers` holds what several parts share, `tiny_vit` and
//! `mask_decoder` lower one network each, `automatic` joins them to the graph of a bundle.

mod array;
pub mod automatic;
mod graph;
mod layers;
mod mask_decoder;
#[cfg(test)]
pub(crate) mod testing;
mod tiny_vit;
mod weights;
mod window_attention;

pub use array::Array;
pub use automatic::lower_automatic;
pub use graph::{
    GraphBuilder, OPSET, Value, f32_tensor, float, i8_tensor, int, ints, node, serialize, u8_tensor,
};
pub use tract_onnx::pb::ModelProto;
