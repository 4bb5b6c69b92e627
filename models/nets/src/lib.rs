//! Segment Anything in candle, with upstream's parameter names. Modules in the order of the forward pass.

pub mod ops;
