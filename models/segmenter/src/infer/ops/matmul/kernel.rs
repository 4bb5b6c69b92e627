//! What the kernels of all CPUs take and give.

/// Columns of a panel of int8 weights.
pub(crate) const COLS: usize = 32;

/// Values along K that lie side by side for one column.
pub(super) const QUAD: usize = 4;

/// Rows of one call of a kernel at most.
pub(crate) const ROWS: usize = 8;

/// 16 columns, four values along K each: what an AVX-512 register holds.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct Line(pub(super) [i8; 64]);

/// Sums of up to [`ROWS`] rows of a panel.
#[derive(Clone, Copy, Default)]
#[repr(C, align(64))]
pub(crate) struct Tile(pub(crate) [[i32; COLS]; ROWS]);

/// What multiplies int8 on this CPU.
pub(super) struct Kernel {
    /// Whether it takes activations as i8, the 256 steps less 128, and not as u8.
    pub(super) signed: bool,
    /// Rows of activations (1 to [`ROWS`], each twice as many bytes as `lines` has elements), lines, sums.
    pub(super) tile: fn(&[u8], &[Line], &mut Tile),
    pub(super) tile_f32: TileOfF32,
}

/// Columns of a panel: a register of AVX-512.
pub(crate) const COLS_F32: usize = 16;

/// Columns of a tile: two panels.
pub(crate) const TILE_COLS: usize = 2 * COLS_F32;

/// Rows of a tile: with two panels their sums fill half of the registers of AVX-512.
pub(crate) const TILE_ROWS: usize = 8;

pub(crate) type TileF32 = [[f32; TILE_COLS]; TILE_ROWS];

/// Rows of K values, K, panels (K, 16), and rows that are so many values apart for the products.
pub(super) type TileOfF32 = fn(&[f32], usize, &[[f32; COLS_F32]], &mut [f32], usize);

/// Two values along K of 16 columns, in the order of the kernel.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct Pair(pub(super) [u16; 2 * COLS_F32]);

/// What multiplies numbers of 16 bits on this CPU; sums are f32, or become it every few products.
#[derive(Debug)]
pub(crate) struct Half {
    /// How a number is kept.
    pub(crate) name: &'static str,
    /// Rounds a row; zeros follow it to the end of its place.
    pub(super) round: fn(&[f32], &mut [u16]),
    /// Rounds a panel (K, 16); pairs beyond it stay.
    pub(super) pairs: fn(&[[f32; COLS_F32]], &mut [Pair]),
    /// Rows of whole eights, how many values a row has, panels of half as many pairs, and as [`TileOfF32`].
    pub(super) tile: fn(&[u16], usize, &[Pair], &mut [f32], usize),
}
