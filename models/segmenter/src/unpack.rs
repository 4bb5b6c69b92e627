//! A `.tar` of a bundle into a temporary directory, without trusting its entries.

#[derive(Debug, thiserror::Error)]
pub enum UnpackError {}
