//! Sums in an order that does not depend on the CPU.

/// Sums are made of this many partial ones, whatever the width of the CPU's vectors.
pub(super) const LANES: usize = 16;

/// Folds `values` lane by lane, then the lanes pairwise.
#[inline(always)]
pub(super) fn fold_lanes(
    values: &[f32],
    start: f32,
    step: impl Fn(f32, f32) -> f32,
    join: impl Fn(f32, f32) -> f32,
) -> f32 {
    let mut lanes = [start; LANES];
    let (chunks, rest) = values.as_chunks::<LANES>();
    for chunk in chunks {
        for (lane, &value) in lanes.iter_mut().zip(chunk) {
            *lane = step(*lane, value);
        }
    }
    if !rest.is_empty() {
        for (lane, &value) in lanes.iter_mut().zip(rest) {
            *lane = step(*lane, value);
        }
    }
    join_lanes(lanes, join)
}

/// Pairwise.
#[inline(always)]
pub(super) fn join_lanes(mut lanes: [f32; LANES], join: impl Fn(f32, f32) -> f32) -> f32 {
    let mut half = LANES / 2;
    while half > 0 {
        for lane in 0..half {
            lanes[lane] = join(lanes[lane], lanes[lane + half]);
        }
        half /= 2;
    }
    lanes[0]
}
