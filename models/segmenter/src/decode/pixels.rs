//! Stored bits to numbers (PS3.5 section 8): allocated and stored bits, sign, planes, YBR to RGB.

use super::error::DecodeError;
use super::format::Format;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Photometric {
    Monochrome1,
    Monochrome2,
    PaletteColor,
    Rgb,
    YbrFull,
    YbrFull422,
    /// JPEG 2000 with its own colour transform, which its decoder undoes.
    YbrOfCodec,
}

/// What a stored sample is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Number {
    Unsigned,
    Signed,
    /// Of FloatPixelData or DoubleFloatPixelData.
    Float,
}

/// How the samples of one frame lie in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Layout {
    pub rows: usize,
    pub cols: usize,
    /// Samples a pixel: 1 or 3.
    pub samples: usize,
    /// Bits: 1, 8, 16 or 32.
    pub allocated: usize,
    pub stored: usize,
    pub high_bit: usize,
    pub number: Number,
    /// Colour-by-plane.
    pub planar: bool,
    /// Two chroma samples are shared by each pair of pixels: Y Y Cb Cr.
    pub chroma_422: bool,
}

impl Layout {
    /// Lowest and highest stored value. Of floating-point samples, which have no such limits, 0 and 0:
    /// mirrored in it they are negated.
    pub(super) fn range(&self) -> [f32; 2] {
        let count = 2f32.powi(self.stored as i32);
        match self.number {
            Number::Unsigned => [0.0, count - 1.0],
            Number::Signed => [-count / 2.0, count / 2.0 - 1.0],
            Number::Float => [0.0; 2],
        }
    }

    fn stored_samples(&self) -> usize {
        let pixels = self.rows * self.cols;
        if self.chroma_422 {
            pixels * 2
        } else {
            pixels * self.samples
        }
    }

    /// Bytes of `frames` frames; 1-bit frames are not aligned to bytes.
    pub(super) fn bytes(&self, frames: usize) -> usize {
        (self.stored_samples() * frames * self.allocated).div_ceil(8)
    }

    /// Values of frame `index` of `data`, channels interleaved.
    pub(super) fn samples(&self, data: &[u8], index: usize) -> Result<Vec<f32>, DecodeError> {
        if data.len() < self.bytes(index + 1) {
            return Err(DecodeError::Truncated {
                format: Format::Dicom,
            });
        }
        let count = self.stored_samples();
        let values: Vec<f32> = if self.allocated == 1 {
            let bits = index * count..(index + 1) * count;
            bits.map(|bit| f32::from((data[bit / 8] >> (bit % 8)) & 1))
                .collect()
        } else {
            let start = self.bytes(index);
            self.words(&data[start..start + self.bytes(1)])
        };
        Ok(if self.chroma_422 {
            spread_chroma(&values)
        } else if self.planar && self.samples > 1 {
            let plane = self.rows * self.cols;
            (0..plane)
                .flat_map(|px| (0..self.samples).map(move |channel| channel * plane + px))
                .map(|at| values[at])
                .collect()
        } else {
            values
        })
    }

    /// Values of one frame from words of 16 bits, a plane for each channel.
    pub(super) fn interleave(self, planes: &[Vec<u16>]) -> Vec<f32> {
        let value = move |word: u16| self.value(word.into());
        if let [plane] = planes {
            return plane.iter().map(|&word| value(word)).collect();
        }
        let mut data = vec![0.0; planes.iter().map(Vec::len).sum()];
        for (channel, plane) in planes.iter().enumerate() {
            let targets = data.iter_mut().skip(channel).step_by(planes.len());
            for (target, &word) in targets.zip(plane) {
                *target = value(word);
            }
        }
        data
    }

    fn words(self, data: &[u8]) -> Vec<f32> {
        match self.allocated {
            8 => data
                .iter()
                .map(move |&byte| self.value(byte.into()))
                .collect(),
            16 => {
                let words = data.as_chunks::<2>().0.iter().copied();
                words
                    .map(move |word| self.value(u16::from_le_bytes(word).into()))
                    .collect()
            }
            _ => {
                let words = data.as_chunks::<4>().0.iter().copied();
                words
                    .map(move |word| self.value(u32::from_le_bytes(word)))
                    .collect()
            }
        }
    }

    /// To the top of the word and back: drops overlay bits and extends the sign. What fits into an i32 goes through one,
    /// which is one instruction for several values.
    #[inline(always)]
    fn value(self, raw: u32) -> f32 {
        let shift = (self.high_bit + 1).saturating_sub(self.stored) as u32;
        let unused = 32_u32.saturating_sub(self.stored as u32);
        let top = raw.unbounded_shr(shift) << unused;
        match self.number {
            Number::Signed => (top as i32 >> unused) as f32,
            _ if unused == 0 => top as f32,
            _ => (top >> unused) as i32 as f32,
        }
    }
}

fn spread_chroma(values: &[f32]) -> Vec<f32> {
    let pair = |quad: &[f32]| [quad[0], quad[2], quad[3], quad[1], quad[2], quad[3]];
    values.chunks_exact(4).flat_map(pair).collect()
}

/// YBR_FULL to RGB in place (PS3.3 C.7.6.3.1.2), for samples of `bits` bits.
pub(super) fn ybr_to_rgb(data: &mut [f32], bits: usize) {
    let maximum = (2f32).powi(bits as i32) - 1.0;
    let center = (2f32).powi(bits as i32 - 1);
    for pixel in data.chunks_exact_mut(3) {
        let (y, cb, cr) = (pixel[0], pixel[1] - center, pixel[2] - center);
        let rgb = [
            y + 1.402 * cr,
            y - 0.344_136 * cb - 0.714_136 * cr,
            y + 1.772 * cb,
        ];
        for (target, value) in pixel.iter_mut().zip(rgb) {
            // `round` is a call on CPUs of 2003, which builds are for.
            *target = (value.clamp(0.0, maximum) + 0.5) as i64 as f32;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GREY: Layout = Layout {
        rows: 1,
        cols: 2,
        samples: 1,
        allocated: 16,
        stored: 12,
        high_bit: 11,
        number: Number::Signed,
        planar: false,
        chroma_422: false,
    };

    #[test]
    fn sign_extends_from_the_stored_bits_and_drops_what_is_above() {
        let values = GREY.samples(&[0xff, 0x0f, 0x01, 0xf0], 0).unwrap();
        assert_eq!(values, [-1.0, 1.0]);
        let high = Layout {
            high_bit: 15,
            number: Number::Unsigned,
            ..GREY
        };
        assert_eq!(
            high.samples(&[0xf0, 0xff, 0x1f, 0x00], 0).unwrap(),
            [4095.0, 1.0]
        );
    }

    #[test]
    fn the_widest_words_keep_their_values() {
        let all = [0xff; 4];
        for (allocated, number, expected) in [
            (8, Number::Unsigned, 255.0),
            (16, Number::Unsigned, 65_535.0),
            (16, Number::Signed, -1.0),
            (32, Number::Unsigned, 4_294_967_295_u32 as f32),
            (32, Number::Signed, -1.0),
        ] {
            let layout = Layout {
                cols: 1,
                allocated,
                stored: allocated,
                high_bit: allocated - 1,
                number,
                ..GREY
            };
            assert_eq!(layout.samples(&all, 0).unwrap(), [expected]);
        }
    }

    #[test]
    fn one_bit_frames_run_on_without_alignment() {
        let bits = Layout {
            cols: 3,
            allocated: 1,
            stored: 1,
            high_bit: 0,
            number: Number::Unsigned,
            ..GREY
        };
        assert_eq!(bits.samples(&[0b0011_0101], 1).unwrap(), [0.0, 1.0, 1.0]);
        assert_eq!(
            bits.samples(&[0b0011_0101], 2).unwrap_err().kind(),
            "truncated"
        );
    }

    #[test]
    fn planes_and_shared_chroma_become_pixels() {
        let bytes = Layout {
            allocated: 8,
            stored: 8,
            high_bit: 7,
            number: Number::Unsigned,
            ..GREY
        };
        let planar = Layout {
            samples: 3,
            planar: true,
            ..bytes
        };
        assert_eq!(
            planar.samples(&[1, 2, 3, 4, 5, 6], 0).unwrap(),
            [1.0, 3.0, 5.0, 2.0, 4.0, 6.0]
        );
        let shared = Layout {
            samples: 3,
            chroma_422: true,
            ..bytes
        };
        assert_eq!(
            shared.samples(&[1, 2, 8, 9], 0).unwrap(),
            [1.0, 8.0, 9.0, 2.0, 8.0, 9.0]
        );
    }

    #[test]
    fn planes_of_words_become_pixels() {
        let planes = [vec![0x0fff, 1], vec![2, 3], vec![4, 5]];
        assert_eq!(GREY.interleave(&planes[..1]), [-1.0, 1.0]);
        assert_eq!(GREY.interleave(&planes), [-1.0, 2.0, 4.0, 1.0, 3.0, 5.0]);
    }

    #[test]
    fn ybr_primaries() {
        // Y, Cb, Cr of pure red and of mid grey, from the equations of C.7.6.3.1.2.
        let mut data = [76.0, 85.0, 255.0, 128.0, 128.0, 128.0];
        ybr_to_rgb(&mut data, 8);
        let expected = [254.0, 0.0, 0.0, 128.0, 128.0, 128.0_f32];
        assert!(
            data.iter()
                .zip(expected)
                .all(|(value, expected)| (value - expected).abs() < 0.5),
            "{data:?}"
        );
    }
}
