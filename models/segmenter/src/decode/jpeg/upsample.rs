//! Components with fewer samples than pixels, brought to the image's size.

use super::Size;

/// One component as its blocks hold it.
pub(super) struct Subsampled {
    pub samples: Vec<u16>,
    /// From one row to the next.
    pub stride: usize,
    /// What of it belongs to the image.
    pub rows: usize,
    pub cols: usize,
    /// Pixels for each sample, down and across.
    pub down: usize,
    pub across: usize,
}

impl Subsampled {
    /// By halves as libjpeg interpolates ("fancy upsampling": three parts of the nearer sample, one of the farther);
    /// other factors repeat the sample.
    pub(super) fn upsample(&self, size: Size) -> Vec<u16> {
        let interpolated = self.down <= 2 && self.across <= 2;
        let mut out = Vec::with_capacity(size.rows * size.cols);
        for y in 0..size.rows {
            let near = self.row(y / self.down);
            if (self.down, self.across) == (1, 1) {
                out.extend_from_slice(near);
            } else if interpolated {
                out.extend(self.interpolate(y).take(size.cols));
            } else {
                out.extend((0..size.cols).map(|x| near[x / self.across]));
            }
        }
        out
    }

    fn row(&self, index: usize) -> &[u16] {
        let start = index.min(self.rows - 1) * self.stride;
        &self.samples[start..start + self.cols]
    }

    fn interpolate(&self, y: usize) -> impl Iterator<Item = u16> {
        let near = self.row(y / self.down);
        let sums: Vec<u32> = if self.down == 2 {
            let other = if y % 2 == 0 {
                (y / 2).saturating_sub(1)
            } else {
                y / 2 + 1
            };
            let other = self.row(other).iter();
            near.iter()
                .zip(other)
                .map(|(&near, &far)| 3 * u32::from(near) + u32::from(far))
                .collect()
        } else {
            near.iter().map(|&sample| sample.into()).collect()
        };
        // What libjpeg adds before it divides alternates, so that neither side is favoured.
        let (shift, left, right) = match (self.down, self.across) {
            (1, _) => (2, 1, 2),
            (_, 2) => (4, 8, 7),
            _ if y % 2 == 0 => (2, 1, 1),
            _ => (2, 2, 2),
        };
        let across = self.across;
        (0..sums.len() * across).map(move |x| {
            let sum = sums[x / across];
            let value = match (across, x % 2) {
                (1, _) => sum + left,
                (_, 0) => 3 * sum + sums[(x / 2).saturating_sub(1)] + left,
                _ => 3 * sum + sums[(x / 2 + 1).min(sums.len() - 1)] + right,
            };
            (value >> shift) as u16
        })
    }
}
