//! Components with fewer samples than pixels, brought to the image's size.

use super::stream::Size;

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
        let mut out = Vec::with_capacity(size.rows * size.cols + 1);
        for y in 0..size.rows {
            let near = self.row(y / self.down);
            if (self.down, self.across) == (1, 1) {
                out.extend_from_slice(near);
            } else if interpolated {
                self.interpolate(y, &mut out);
                out.truncate((y + 1) * size.cols);
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

    /// Row `y`, with up to a column more than the image has.
    fn interpolate(&self, y: usize, out: &mut Vec<u16>) {
        let near = self.row(y / self.down);
        // The first and the last one twice, for what lies beyond the edges.
        let mut sums = vec![0; self.cols + 2];
        let inner = &mut sums[1..=self.cols];
        if self.down == 2 {
            let other = if y.is_multiple_of(2) {
                (y / 2).saturating_sub(1)
            } else {
                y / 2 + 1
            };
            for ((sum, &near), &far) in inner.iter_mut().zip(near).zip(self.row(other)) {
                *sum = 3 * u32::from(near) + u32::from(far);
            }
        } else {
            for (sum, &sample) in inner.iter_mut().zip(near) {
                *sum = sample.into();
            }
        }
        sums[0] = sums[1];
        sums[self.cols + 1] = sums[self.cols];
        // What libjpeg adds before it divides alternates, so that neither side is favoured.
        if self.across == 1 {
            let add = if y.is_multiple_of(2) { 1 } else { 2 };
            let inner = &sums[1..=self.cols];
            out.extend(inner.iter().map(|sum| ((sum + add) >> 2) as u16));
            return;
        }
        let (shift, left, right) = if self.down == 1 { (2, 1, 2) } else { (4, 8, 7) };
        for window in sums.windows(3) {
            let three = 3 * window[1];
            out.extend([
                ((three + window[0] + left) >> shift) as u16,
                ((three + window[2] + right) >> shift) as u16,
            ]);
        }
    }
}
