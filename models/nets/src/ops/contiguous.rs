//! The values of a contiguous f32 tensor inside a custom operation.

use candle_core::{CpuStorage, Layout, Result, bail};

pub(super) fn values<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    let Some((start, end)) = layout.contiguous_offsets() else {
        bail!(
            "a custom operation got strides {:?}: make its input contiguous",
            layout.stride()
        )
    };
    Ok(&storage.as_slice::<f32>()?[start..end])
}
