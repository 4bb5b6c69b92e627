//! Lossless JPEG streams for tests, with everything that a writer may choose.

/// What a stream is to look like.
#[derive(Clone, Copy)]
pub(super) struct Options {
    pub precision: u32,
    pub selection: u8,
    pub point_transform: u32,
    /// Rows of a restart interval; 0 for none.
    pub interval: usize,
    pub interleaved: bool,
    /// Rows stand behind the first scan.
    pub dnl: bool,
    /// Differences are taken modulo this power of two.
    pub modulo: u32,
}

pub(super) const PLAIN: Options = Options {
    precision: 16,
    selection: 1,
    point_transform: 0,
    interval: 0,
    interleaved: true,
    dnl: false,
    modulo: 16,
};

struct Bits {
    bytes: Vec<u8>,
    buffer: u64,
    count: u32,
}

impl Bits {
    fn put(&mut self, value: u32, count: u32) {
        self.buffer = self.buffer << count | u64::from(value) & ((1 << count) - 1);
        self.count += count;
        while self.count >= 8 {
            self.count -= 8;
            let byte = (self.buffer >> self.count) as u8;
            self.bytes.push(byte);
            if byte == 0xff {
                self.bytes.push(0);
            }
        }
    }

    fn flush(&mut self) {
        if self.count > 0 {
            self.put(u32::MAX, 8 - self.count);
        }
    }
}

fn segment(stream: &mut Vec<u8>, marker: u8, content: &[u8]) {
    stream.extend([0xff, marker]);
    stream.extend((content.len() as u16 + 2).to_be_bytes());
    stream.extend(content);
}

/// Codes of 2 bits for categories 0 to 2, and longer ones, to 16 bits, for the others.
const COUNTS: [u8; 16] = [0, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1];

fn code(category: u32) -> (u32, u32) {
    match category {
        0..=2 => (category, 2),
        _ => ((1 << category) - 2, category),
    }
}

/// A stream of rows of `cols` samples, a plane for each component.
pub(super) fn encode(planes: &[Vec<u16>], cols: usize, options: Options) -> Vec<u8> {
    let rows = planes[0].len() / cols;
    let mut stream = vec![0xff, 0xd8];
    let lines = if options.dnl { 0 } else { rows as u16 };
    let mut frame = vec![options.precision as u8];
    frame.extend(lines.to_be_bytes());
    frame.extend((cols as u16).to_be_bytes());
    frame.push(planes.len() as u8);
    for component in 0..planes.len() as u8 {
        frame.extend([component + 1, 0x11, 0]);
    }
    segment(&mut stream, 0xc3, &frame);
    let values = 0..=16;
    let table: Vec<u8> = [0].into_iter().chain(COUNTS).chain(values).collect();
    segment(&mut stream, 0xc4, &table);
    if options.interval > 0 {
        segment(
            &mut stream,
            0xdd,
            &((options.interval * cols) as u16).to_be_bytes(),
        );
    }
    let scans: Vec<Vec<usize>> = if options.interleaved {
        vec![(0..planes.len()).collect()]
    } else {
        (0..planes.len()).map(|component| vec![component]).collect()
    };
    for (index, components) in scans.iter().enumerate() {
        let mut header = vec![components.len() as u8];
        for &component in components {
            header.extend([component as u8 + 1, 0]);
        }
        header.extend([options.selection, 0, options.point_transform as u8]);
        segment(&mut stream, 0xda, &header);
        scan(&mut stream, planes, components, cols, options);
        if options.dnl && index == 0 {
            segment(&mut stream, 0xdc, &(rows as u16).to_be_bytes());
        }
    }
    stream.extend([0xff, 0xd9]);
    stream
}

fn scan(
    stream: &mut Vec<u8>,
    planes: &[Vec<u16>],
    components: &[usize],
    cols: usize,
    options: Options,
) {
    let rows = planes[0].len() / cols;
    let interval = if options.interval == 0 {
        rows
    } else {
        options.interval
    };
    for (index, first) in (0..rows).step_by(interval).enumerate() {
        if index > 0 {
            stream.extend([0xff, 0xd0 + ((index - 1) % 8) as u8]);
        }
        let mut bits = Bits {
            bytes: Vec::new(),
            buffer: 0,
            count: 0,
        };
        for y in first..rows.min(first + interval) {
            for x in 0..cols {
                for &component in components {
                    let at = |y: usize, x: usize| {
                        i32::from(planes[component][y * cols + x] >> options.point_transform)
                    };
                    let prediction = match (y == first, x == 0) {
                        (true, true) => 1 << (options.precision - options.point_transform - 1),
                        (true, false) => at(y, x - 1),
                        (false, true) => at(y - 1, 0),
                        (false, false) => {
                            let (a, b, c) = (at(y, x - 1), at(y - 1, x), at(y - 1, x - 1));
                            match options.selection {
                                1 => a,
                                2 => b,
                                3 => c,
                                4 => a + b - c,
                                5 => a + ((b - c) >> 1),
                                6 => b + ((a - c) >> 1),
                                _ => (a + b) >> 1,
                            }
                        }
                    };
                    put(&mut bits, at(y, x) - prediction, options.modulo);
                }
            }
        }
        bits.flush();
        stream.extend(bits.bytes);
    }
}

fn put(bits: &mut Bits, difference: i32, modulo: u32) {
    let (half, whole) = (1 << (modulo - 1), 1 << modulo);
    let difference = (difference + half - 1).rem_euclid(whole) - half + 1;
    let category = 32 - difference.unsigned_abs().leading_zeros();
    let (code, length) = code(category);
    bits.put(code, length);
    if (1..16).contains(&category) {
        bits.put((difference - i32::from(difference < 0)) as u32, category);
    }
}
