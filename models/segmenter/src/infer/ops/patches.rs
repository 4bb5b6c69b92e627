//! The rows that a 3x3 convolution multiplies: the neighbourhood of each output pixel.

/// A 3x3 convolution with padding 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Patches {
    /// Of the input.
    pub(crate) height: usize,
    pub(crate) width: usize,
    pub(crate) channels: usize,
    pub(crate) stride: usize,
    pub(crate) layout: Layout,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Layout {
    /// (1, C, H, W), the image; a patch has the order (channel, row, column).
    Planes,
    /// (H * W, C); a patch has the order (row, column, channel).
    Tokens,
}

impl Patches {
    pub(crate) fn out(&self) -> [usize; 2] {
        [self.height, self.width].map(|side| (side - 1) / self.stride + 1)
    }

    /// Rows of the output for an input of this shape.
    pub(super) fn rows_of(&self, shape: &[usize]) -> Result<usize, String> {
        let Self {
            height,
            width,
            channels,
            ..
        } = *self;
        let fits = match self.layout {
            Layout::Planes => shape == [1, channels, height, width],
            Layout::Tokens => shape == [height * width, channels],
        };
        if fits {
            Ok(self.out().iter().product())
        } else {
            Err(format!(
                "takes {channels} channels of {height} x {width}, not {shape:?}"
            ))
        }
    }

    /// The patches from output pixel `start` on, each at the start of `stride` values of `rows`.
    pub(super) fn gather<T: Copy>(
        &self,
        map: &[T],
        padding: T,
        start: usize,
        stride: usize,
        rows: &mut [T],
    ) {
        let [_, out_width] = self.out();
        for (i, row) in rows.chunks_exact_mut(stride).enumerate() {
            let (y, x) = ((start + i) / out_width, (start + i) % out_width);
            let (top, left) = (y * self.stride, x * self.stride);
            match self.layout {
                Layout::Tokens => self.tokens(map, padding, [top, left], row),
                Layout::Planes => self.planes(map, padding, [top, left], row),
            }
        }
    }

    /// `top` and `left` count from the border of padding.
    fn tokens<T: Copy>(&self, map: &[T], padding: T, [top, left]: [usize; 2], row: &mut [T]) {
        let c = self.channels;
        // The columns that lie inside are one piece.
        let inside = (1 - left.min(1)).min(3)..(self.width + 1 - left).min(3);
        for (dy, row) in row.chunks_exact_mut(3 * c).take(3).enumerate() {
            if top + dy == 0 || top + dy > self.height {
                row.fill(padding);
                continue;
            }
            let from = ((top + dy - 1) * self.width + left + inside.start - 1) * c;
            row[..inside.start * c].fill(padding);
            row[inside.end * c..].fill(padding);
            row[inside.start * c..inside.end * c].copy_from_slice(&map[from..][..inside.len() * c]);
        }
    }

    fn planes<T: Copy>(&self, map: &[T], padding: T, [top, left]: [usize; 2], row: &mut [T]) {
        let area = self.height * self.width;
        let inside = |place: usize, side: usize| (1..=side).contains(&place);
        let whole = left > 0 && left + 2 <= self.width;
        for (plane, row) in map.chunks_exact(area).zip(row.as_chunks_mut::<9>().0) {
            for (dy, taps) in row.as_chunks_mut::<3>().0.iter_mut().enumerate() {
                if !inside(top + dy, self.height) {
                    *taps = [padding; 3];
                    continue;
                }
                let line = &plane[(top + dy - 1) * self.width..][..self.width];
                *taps = if whole {
                    [line[left - 1], line[left], line[left + 1]]
                } else {
                    [0, 1, 2].map(|dx| {
                        if inside(left + dx, self.width) {
                            line[left + dx - 1]
                        } else {
                            padding
                        }
                    })
                };
            }
        }
    }
}
