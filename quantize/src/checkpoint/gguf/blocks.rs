//! The block types of GGUF tensors: from packed bytes to numbers, in the order of operations of llama.cpp's reference.
//!
//! Every type packs blocks of 32 or 256 numbers of a row. Scales are half floats; those of the K types have 4 to 8 bits more per sixteen or
//! thirty-two numbers.

use half::{bf16, f16};

/// A tensor's type in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BlockType {
    F32,
    F16,
    Bf16,
    F64,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q2K,
    Q3K,
    Q4K,
    Q5K,
    Q6K,
    Iq4Nl,
    Iq4Xs,
}

use BlockType::*;

/// Number in the file, name, numbers and bytes of a block.
// One type a line.
#[rustfmt::skip]
const TYPES: &[(u32, BlockType, &str, usize, usize)] = &[
    (0, F32, "F32", 1, 4),
    (1, F16, "F16", 1, 2),
    (30, Bf16, "BF16", 1, 2),
    (28, F64, "F64", 1, 8),
    (2, Q4_0, "Q4_0", 32, 18),
    (3, Q4_1, "Q4_1", 32, 20),
    (6, Q5_0, "Q5_0", 32, 22),
    (7, Q5_1, "Q5_1", 32, 24),
    (8, Q8_0, "Q8_0", 32, 34),
    (10, Q2K, "Q2_K", 256, 84),
    (11, Q3K, "Q3_K", 256, 110),
    (12, Q4K, "Q4_K", 256, 144),
    (13, Q5K, "Q5_K", 256, 176),
    (14, Q6K, "Q6_K", 256, 210),
    (20, Iq4Nl, "IQ4_NL", 32, 18),
    (23, Iq4Xs, "IQ4_XS", 256, 136),
];

/// Names of types that files may have and that are not read.
const OTHERS: &[(u32, &str)] = &[
    (9, "Q8_1"),
    (15, "Q8_K"),
    (16, "IQ2_XXS"),
    (17, "IQ2_XS"),
    (18, "IQ3_XXS"),
    (19, "IQ1_S"),
    (21, "IQ3_S"),
    (22, "IQ2_S"),
    (24, "I8"),
    (25, "I16"),
    (26, "I32"),
    (27, "I64"),
    (29, "IQ1_M"),
    (34, "TQ1_0"),
    (35, "TQ2_0"),
    (39, "MXFP4"),
    (40, "NVFP4"),
];

/// The sixteen values of the non-linear 4-bit types.
const IQ4_VALUES: [i8; 16] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

impl BlockType {
    /// The type of a number in the file, or what is wrong with it.
    pub(super) fn of(number: u32) -> Result<Self, String> {
        if let Some((_, kind, ..)) = TYPES.iter().find(|(n, ..)| *n == number) {
            return Ok(*kind);
        }
        let known: Vec<&str> = TYPES.iter().map(|(_, _, name, ..)| *name).collect();
        let name = OTHERS.iter().find(|(n, _)| *n == number).map_or_else(|| format!("number {number}"), |(_, name)| (*name).to_owned());
        Err(format!("has the type {name}; read are {}; take a file of one of these", known.join(", ")))
    }

    fn row(self) -> (&'static str, usize, usize) {
        let found = TYPES.iter().find(|(_, kind, ..)| *kind == self);
        found.map_or(("", 1, 1), |&(_, _, name, len, bytes)| (name, len, bytes))
    }

    pub(super) fn name(self) -> &'static str {
        self.row().0
    }

    /// Numbers of a block.
    pub(super) fn block_len(self) -> usize {
        self.row().1
    }

    /// Bytes of a block.
    pub(super) fn block_bytes(self) -> usize {
        self.row().2
    }

    /// Bytes of `len` numbers in rows of `row`; nothing if blocks would cross rows or the size is beyond counting.
    pub(super) fn bytes_of(self, row: usize, len: usize) -> Option<usize> {
        if !row.is_multiple_of(self.block_len()) {
            return None;
        }
        (len / self.block_len()).checked_mul(self.block_bytes())
    }

    /// Appends the numbers of whole blocks to `out`.
    pub(super) fn unpack(self, bytes: &[u8], out: &mut Vec<f32>) {
        match self {
            F32 => out.extend(bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b))),
            F16 => out.extend(bytes.as_chunks::<2>().0.iter().map(|b| f16::from_le_bytes(*b).to_f32())),
            Bf16 => out.extend(bytes.as_chunks::<2>().0.iter().map(|b| bf16::from_le_bytes(*b).to_f32())),
            F64 => out.extend(bytes.as_chunks::<8>().0.iter().map(|b| f64::from_le_bytes(*b) as f32)),
            Q4_0 => each(bytes, out, q4_0),
            Q4_1 => each(bytes, out, q4_1),
            Q5_0 => each(bytes, out, q5_0),
            Q5_1 => each(bytes, out, q5_1),
            Q8_0 => each(bytes, out, q8_0),
            Q2K => each(bytes, out, q2_k),
            Q3K => each(bytes, out, q3_k),
            Q4K => each(bytes, out, q4_k),
            Q5K => each(bytes, out, q5_k),
            Q6K => each(bytes, out, q6_k),
            Iq4Nl => each(bytes, out, iq4_nl),
            Iq4Xs => each(bytes, out, iq4_xs),
        }
    }
}

/// Unpacks blocks of `BYTES` into `LEN` numbers each.
fn each<const BYTES: usize, const LEN: usize>(bytes: &[u8], out: &mut Vec<f32>, unpack: fn(&[u8; BYTES], &mut [f32; LEN])) {
    let mut numbers = [0.0; LEN];
    for block in bytes.as_chunks::<BYTES>().0 {
        unpack(block, &mut numbers);
        out.extend_from_slice(&numbers);
    }
}

/// The half float at byte `at`.
fn half(block: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}

fn low(byte: u8) -> i32 {
    i32::from(byte & 15)
}

fn high(byte: u8) -> i32 {
    i32::from(byte >> 4)
}

/// `d * (q - 8)`: d, then 16 bytes with numbers i and i + 16 in their halves.
fn q4_0(block: &[u8; 18], out: &mut [f32; 32]) {
    let d = half(block, 0);
    for (i, &byte) in block[2..].iter().enumerate() {
        out[i] = d * (low(byte) - 8) as f32;
        out[i + 16] = d * (high(byte) - 8) as f32;
    }
}

/// `d * q + m`: d, m, then the codes as in Q4_0.
fn q4_1(block: &[u8; 20], out: &mut [f32; 32]) {
    let (d, m) = (half(block, 0), half(block, 2));
    for (i, &byte) in block[4..].iter().enumerate() {
        out[i] = d * low(byte) as f32 + m;
        out[i + 16] = d * high(byte) as f32 + m;
    }
}

/// The fifth bits of 32 codes, from byte `at` on, as 16.
fn fifth_bits(block: &[u8], at: usize) -> impl Fn(usize) -> i32 {
    let bits = u32::from_le_bytes([block[at], block[at + 1], block[at + 2], block[at + 3]]);
    move |i| ((bits >> i & 1) << 4) as i32
}

/// `d * (q - 16)`: d, fifth bits, then the codes as in Q4_0.
fn q5_0(block: &[u8; 22], out: &mut [f32; 32]) {
    let (d, fifth) = (half(block, 0), fifth_bits(block, 2));
    for (i, &byte) in block[6..].iter().enumerate() {
        out[i] = d * ((low(byte) | fifth(i)) - 16) as f32;
        out[i + 16] = d * ((high(byte) | fifth(i + 16)) - 16) as f32;
    }
}

/// `d * q + m`: d, m, fifth bits, then the codes as in Q4_0.
fn q5_1(block: &[u8; 24], out: &mut [f32; 32]) {
    let (d, m, fifth) = (half(block, 0), half(block, 2), fifth_bits(block, 4));
    for (i, &byte) in block[8..].iter().enumerate() {
        out[i] = d * (low(byte) | fifth(i)) as f32 + m;
        out[i + 16] = d * (high(byte) | fifth(i + 16)) as f32 + m;
    }
}

/// `d * q`: d, then 32 signed bytes.
fn q8_0(block: &[u8; 34], out: &mut [f32; 32]) {
    let d = half(block, 0);
    for (x, &byte) in out.iter_mut().zip(&block[2..]) {
        *x = f32::from(byte as i8) * d;
    }
}

/// `d * s * q - m * t` per sixteen: 16 bytes of s and t, 64 of codes with 2 bits each, d, m.
fn q2_k(block: &[u8; 84], out: &mut [f32; 256]) {
    let (d, m) = (half(block, 80), half(block, 82));
    for (group, numbers) in out.as_chunks_mut::<16>().0.iter_mut().enumerate() {
        let (scale, least) = (d * low(block[group]) as f32, m * high(block[group]) as f32);
        // 128 numbers share 32 bytes; every 32 of them take two more bits of each.
        let (first, shift) = (16 + 32 * (group / 8) + 16 * (group % 2), 2 * (group / 2 % 4));
        for (x, &byte) in numbers.iter_mut().zip(&block[first..first + 16]) {
            *x = scale * f32::from(byte >> shift & 3) - least;
        }
    }
}

/// `d * (s - 32) * q` per sixteen: 32 bytes of third bits, 64 of codes with 2 bits each, 12 of scales with 6, d.
fn q3_k(block: &[u8; 110], out: &mut [f32; 256]) {
    let d = half(block, 108);
    let packed = &block[96..108];
    for (group, numbers) in out.as_chunks_mut::<16>().0.iter_mut().enumerate() {
        let four = if group < 8 { packed[group] & 15 } else { packed[group - 8] >> 4 };
        let two = packed[8 + group % 4] >> (2 * (group / 4)) & 3;
        let scale = d * (i32::from(four | two << 4) - 32) as f32;
        let (byte, shift) = (16 * (group % 2), 2 * (group / 2 % 4));
        let first = 32 + 32 * (group / 8) + byte;
        for (i, x) in numbers.iter_mut().enumerate() {
            // The third bit is inverted: set means nothing to take away.
            let third = block[byte + i] >> (group / 2) & 1;
            let q = i32::from(block[first + i] >> shift & 3) - if third == 0 { 4 } else { 0 };
            *x = scale * q as f32;
        }
    }
}

/// Scale and minimum of each thirty-two, 6 bits each in 12 bytes.
fn scales_and_minima(packed: &[u8], group: usize) -> (f32, f32) {
    let (scale, least) = match group {
        0..4 => (packed[group] & 63, packed[group + 4] & 63),
        _ => {
            let both = packed[group + 4];
            (both & 15 | packed[group - 4] >> 6 << 4, both >> 4 | packed[group] >> 6 << 4)
        }
    };
    (f32::from(scale), f32::from(least))
}

/// `d * s * q - m * t` per thirty-two: d, m, 12 bytes of s and t, 128 of codes.
fn q4_k(block: &[u8; 144], out: &mut [f32; 256]) {
    let (d, m) = (half(block, 0), half(block, 2));
    for (group, numbers) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let (scale, least) = scales_and_minima(&block[4..16], group);
        let (scale, least) = (d * scale, m * least);
        // Two groups share 32 bytes, one in each half.
        let (first, shift) = (16 + 32 * (group / 2), 4 * (group % 2));
        for (x, &byte) in numbers.iter_mut().zip(&block[first..first + 32]) {
            *x = scale * f32::from(byte >> shift & 15) - least;
        }
    }
}

/// As Q4_K, with 32 bytes of fifth bits before the codes.
fn q5_k(block: &[u8; 176], out: &mut [f32; 256]) {
    let (d, m) = (half(block, 0), half(block, 2));
    for (group, numbers) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let (scale, least) = scales_and_minima(&block[4..16], group);
        let (scale, least) = (d * scale, m * least);
        let (first, shift) = (48 + 32 * (group / 2), 4 * (group % 2));
        for (i, x) in numbers.iter_mut().enumerate() {
            let q = block[first + i] >> shift & 15 | (block[16 + i] >> group & 1) << 4;
            *x = scale * f32::from(q) - least;
        }
    }
}

/// `d * s * (q - 32)` per sixteen: 128 bytes with 4 bits of each code, 64 with 2, 16 scales, d.
fn q6_k(block: &[u8; 210], out: &mut [f32; 256]) {
    let d = half(block, 208);
    for (group, numbers) in out.as_chunks_mut::<16>().0.iter_mut().enumerate() {
        let scale = d * f32::from(block[192 + group] as i8);
        // Of 128 numbers, the first 64 are in the low halves of 64 bytes; every 32 take two more bits of 32 bytes.
        let (part, quarter, odd) = (group / 8, group / 2 % 4, group % 2);
        let first = 64 * part + 32 * (quarter % 2) + 16 * odd;
        let upper = 128 + 32 * part + 16 * odd;
        for (i, x) in numbers.iter_mut().enumerate() {
            let four = block[first + i] >> (4 * (quarter / 2)) & 15;
            let two = block[upper + i] >> (2 * quarter) & 3;
            *x = scale * (i32::from(four | two << 4) - 32) as f32;
        }
    }
}

/// `d * value[q]`: as Q4_0 with a table.
fn iq4_nl(block: &[u8; 18], out: &mut [f32; 32]) {
    let d = half(block, 0);
    for (i, &byte) in block[2..].iter().enumerate() {
        out[i] = d * f32::from(IQ4_VALUES[usize::from(byte & 15)]);
        out[i + 16] = d * f32::from(IQ4_VALUES[usize::from(byte >> 4)]);
    }
}

/// `d * (s - 32) * value[q]` per thirty-two: d, 2 and 4 bits of the scales, then 16 bytes of codes per group as in Q4_0.
fn iq4_xs(block: &[u8; 136], out: &mut [f32; 256]) {
    let d = half(block, 0);
    let upper = u16::from_le_bytes([block[2], block[3]]);
    for (group, numbers) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let four = block[4 + group / 2] >> (4 * (group % 2)) & 15;
        let two = (upper >> (2 * group) & 3) as u8;
        let scale = d * (i32::from(four | two << 4) - 32) as f32;
        let first = 8 + 16 * group;
        for (i, &byte) in block[first..first + 16].iter().enumerate() {
            numbers[i] = scale * f32::from(IQ4_VALUES[usize::from(byte & 15)]);
            numbers[i + 16] = scale * f32::from(IQ4_VALUES[usize::from(byte >> 4)]);
        }
    }
}
