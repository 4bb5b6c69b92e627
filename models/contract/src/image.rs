/// A two-dimensional image in the modality's own units (after rescale, before windowing).
///
/// `data` is row-major, channels interleaved; `channels` is 1 (grey) or 3 (RGB).
#[derive(Debug, Clone, PartialEq)]
pub struct Image {
    pub rows: usize,
    pub cols: usize,
    pub channels: usize,
    pub data: Vec<f32>,
}
