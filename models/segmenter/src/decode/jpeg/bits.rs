//! Entropy-coded data of one restart interval, bit by bit, and the Huffman codes in it (T.81 annexes C and F.2.2).

use super::error::malformed;
use crate::decode::error::DecodeError;

/// One interval without its markers. What is read beyond its end is zeros, and [`Bits::finish`] then says so: a check
/// for each row instead of one for each bit.
pub(super) struct Bits<'a> {
    data: &'a [u8],
    position: usize,
    /// The next bits, the first one on top.
    buffer: u64,
    /// Below zero where more was taken than there is.
    count: i32,
}

impl<'a> Bits<'a> {
    pub(super) fn new(data: &'a [u8]) -> Self {
        Self {
            data,
            position: 0,
            buffer: 0,
            count: 0,
        }
    }

    /// Makes at least 32 bits ready, unless the data ends: a code and what follows it.
    #[inline(always)]
    fn refill(&mut self) {
        if self.count >= 32 {
            return;
        }
        if let Some(&four) = self.data[self.position..].first_chunk::<4>() {
            let word = u32::from_be_bytes(four);
            let inverse = !word;
            let no_ff = inverse.wrapping_sub(0x0101_0101) & word & 0x8080_8080 == 0;
            if no_ff {
                self.buffer |= u64::from(word) << (32 - self.count);
                self.count += 32;
                self.position += 4;
                return;
            }
        }
        self.refill_by_bytes();
    }

    fn refill_by_bytes(&mut self) {
        while self.count <= 48
            && let Some(&byte) = self.data.get(self.position)
        {
            self.buffer |= u64::from(byte) << (56 - self.count);
            self.count += 8;
            // Behind 0xff stands a 0 that is no data.
            self.position += if byte == 0xff { 2 } else { 1 };
        }
    }

    #[inline(always)]
    fn peek(&self, count: u32) -> usize {
        (self.buffer >> (64 - count)) as usize
    }

    #[inline(always)]
    fn skip(&mut self, count: u32) {
        self.buffer <<= count;
        self.count -= count as i32;
    }

    /// `count` bits, 1 to 16, as a number.
    #[inline(always)]
    pub(super) fn take(&mut self, count: u32) -> i32 {
        self.refill();
        let value = self.peek(count);
        self.skip(count);
        value as i32
    }

    /// A difference or coefficient of `category` bits (T.81 F.2.2.1).
    #[inline(always)]
    pub(super) fn signed(&mut self, category: u32) -> i32 {
        let value = self.take(category);
        if value < 1 << (category - 1) {
            value - (1 << category) + 1
        } else {
            value
        }
    }

    /// Is the data used up, and more was asked for?
    pub(super) fn is_overdrawn(&self) -> bool {
        self.count < 0
    }

    /// After the last sample of the interval: nothing may be missing, and nothing but padding may be left.
    pub(super) fn finish(&mut self) -> Result<(), DecodeError> {
        if self.is_overdrawn() {
            return Err(malformed("entropy-coded data ends before its last sample"));
        }
        // Up to seven bits of padding are part of the last byte.
        self.skip((self.count % 8) as u32);
        self.refill_by_bytes();
        let mut rest = Vec::new();
        while self.count > 0 && rest.len() < 8 {
            rest.push(self.peek(8));
            self.skip(8);
        }
        rest.extend(
            self.data[self.position.min(self.data.len())..]
                .iter()
                .map(|&byte| usize::from(byte)),
        );
        let padding = rest.iter().all(|&byte| byte == rest[0])
            && matches!(rest.first(), None | Some(0 | 0xff));
        if padding {
            return Ok(());
        }
        Err(malformed(
            "entropy-coded data goes on behind its last sample",
        ))
    }
}

const LOOKUP_BITS: u32 = 10;

/// One Huffman table.
pub(super) struct Huffman {
    /// Length and value of the code that these bits begin with; 0 where it is longer.
    lookup: Box<[u16; 1 << LOOKUP_BITS]>,
    /// By length: the first number of 16 bits behind the codes of that length, and the index of a code's value less the
    /// code itself.
    ends: [u32; 17],
    starts: [i32; 17],
    values: Vec<u8>,
}

impl Huffman {
    /// `counts`: codes of 1 to 16 bits.
    pub(super) fn new(counts: &[u8; 16], values: &[u8]) -> Result<Self, DecodeError> {
        let mut lookup = Box::new([0; 1 << LOOKUP_BITS]);
        let (mut ends, mut starts) = ([0; 17], [0; 17]);
        let (mut code, mut index) = (0u32, 0usize);
        for length in 1..=16u32 {
            starts[length as usize] = index as i32 - code as i32;
            for _ in 0..counts[length as usize - 1] {
                if code >= 1 << length {
                    return Err(malformed("a huffman table has too many codes"));
                }
                if length <= LOOKUP_BITS {
                    let first = (code << (LOOKUP_BITS - length)) as usize;
                    let entry = (length as u16) << 8 | u16::from(values[index]);
                    lookup[first..first + (1 << (LOOKUP_BITS - length))].fill(entry);
                }
                code += 1;
                index += 1;
            }
            ends[length as usize] = code << (16 - length);
            code <<= 1;
        }
        Ok(Self {
            lookup,
            ends,
            starts,
            values: values.to_vec(),
        })
    }

    /// The value of the next code.
    #[inline(always)]
    pub(super) fn decode(&self, bits: &mut Bits) -> Result<u8, DecodeError> {
        bits.refill();
        let entry = self.lookup[bits.peek(LOOKUP_BITS)];
        if entry == 0 {
            return self.decode_long(bits);
        }
        bits.skip(u32::from(entry >> 8));
        Ok(entry as u8)
    }

    #[cold]
    fn decode_long(&self, bits: &mut Bits) -> Result<u8, DecodeError> {
        let next = bits.peek(16) as u32;
        for length in LOOKUP_BITS + 1..=16 {
            if next < self.ends[length as usize] {
                let code = (next >> (16 - length)) as i32;
                bits.skip(length);
                return Ok(self.values[(self.starts[length as usize] + code) as usize]);
            }
        }
        Err(malformed("entropy-coded data has a code of no table"))
    }
}
