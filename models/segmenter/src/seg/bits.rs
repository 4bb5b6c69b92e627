//! Pixels of one bit: frames follow each other without a gap, the first pixel in the lowest bit
//! (PS3.5 section 8.1.1).

use contract::LabelMap;

#[derive(Debug, Default)]
pub(super) struct Bits {
    bytes: Vec<u8>,
    count: usize,
}

impl Bits {
    /// Pixels of `frame` that are not background.
    pub(super) fn push(&mut self, frame: &LabelMap) {
        self.bytes
            .resize((self.count + frame.data.len()).div_ceil(8), 0);
        for (index, label) in (self.count..).zip(&frame.data) {
            self.bytes[index / 8] |= u8::from(*label != 0) << (index % 8);
        }
        self.count += frame.data.len();
    }

    /// Padded to an even length.
    pub(super) fn finish(mut self) -> Vec<u8> {
        self.bytes.resize(self.bytes.len().next_multiple_of(2), 0);
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_follow_each_other_within_a_byte() {
        let frame = |data: [u8; 3]| LabelMap {
            rows: 1,
            cols: 3,
            data: data.to_vec(),
        };
        let mut bits = Bits::default();
        bits.push(&frame([1, 0, 1]));
        bits.push(&frame([0, 7, 1]));
        assert_eq!(bits.bytes, [0b11_0101]);
        bits.push(&frame([0, 1, 1]));
        assert_eq!(bits.bytes, [0b1011_0101, 1]);
        assert_eq!(bits.finish().len(), 2);
        assert_eq!(Bits::default().finish().len(), 0);
    }

    #[test]
    fn the_length_is_even() {
        let mut bits = Bits::default();
        bits.push(&LabelMap::new(1, 17));
        assert_eq!(bits.finish(), [0; 4]);
    }
}
