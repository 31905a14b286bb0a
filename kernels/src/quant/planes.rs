//! Codes of 2, 3, 5 and 6 bits: `weight = row_scale * factor * (levels[code] + shift * pick)`.
//!
//! A code is cut into planes of 4, 2 or 1 bits, the powers of two that add up to its width; the widest holds the lowest bits. A
//! plane of `w` bits is arranged like Q4's: a word is 32 / w consecutive columns of one row, four for every `w` bits of its four
//! bytes, the first four in the lowest bits. So a plane takes `w` lines of 64 bytes, and a tile one line for each bit of a code:
//!
//! ```text
//! 4-bit plane, word w of 4    byte 4 * lane + j:  columns  8w + 4 + j | 8w + j                     (bits 7..4 | 3..0)
//! 2-bit plane, word w of 2    byte 4 * lane + j:  columns 16w + 12 + j | 16w + 8 + j | 16w + 4 + j | 16w + j
//! 1-bit plane, one word       byte 4 * lane + j:  columns 28 + j | 24 + j | .. | 4 + j | j
//! ```
//!
//! A sub-scale's byte is Q4's: a signed 7-bit factor above the pick between two tables, the second being the first plus `shift`.

use super::{Format, GROUP, MatrixError, TILE_ROWS, cast, q3, q5, q6, split_scales, split_scales_mut, t2, table_bytes, tile_index};
use core::ops::Range;

/// One tile: a line of 16 rows x 4 bytes for each bit of a code, plane by plane.
pub(crate) type Tile<const BITS: usize> = [[u8; 4 * TILE_ROWS]; BITS];

/// A matrix of codes of `BITS` bits.
#[derive(Clone, Copy, Debug)]
pub struct Coded<'a, const BITS: usize> {
    /// Value of each code, 2^BITS.
    pub levels: &'a [i8],
    /// What the second table adds to the first.
    pub shift: i8,
    /// (tile_rows) x 16.
    pub row_scales: &'a [[f32; TILE_ROWS]],
    /// (tile_rows, groups) x 16: signed factor in the upper 7 bits, table pick in the lowest.
    pub sub_scales: &'a [[i8; TILE_ROWS]],
    /// (tile_rows, groups).
    pub tiles: &'a [Tile<BITS>],
}

/// The formats with codes in planes.
#[derive(Clone, Copy, Debug)]
pub enum Planes<'a> {
    /// See [`Format::Q3`].
    Q3(Coded<'a, 3>),
    /// See [`Format::Q5`].
    Q5(Coded<'a, 5>),
    /// See [`Format::Q6`].
    Q6(Coded<'a, 6>),
    /// See [`Format::T2`].
    T2(Coded<'a, 2>),
}

/// Does the same with the matrix of any width.
macro_rules! each {
    ($planes:expr, $coded:ident => $what:expr) => {
        match $planes {
            Planes::Q3($coded) => $what,
            Planes::Q5($coded) => $what,
            Planes::Q6($coded) => $what,
            Planes::T2($coded) => $what,
        }
    };
}

impl<'a> Planes<'a> {
    /// Views `bytes` as a matrix of one of these formats.
    pub(super) fn from_bytes(format: Format, rows: usize, cols: usize, bytes: &'a [u8]) -> Result<Self, MatrixError> {
        match format {
            Format::Q3 => Ok(Planes::Q3(Coded::with_table(rows, cols, bytes)?)),
            Format::Q5 => Ok(Planes::Q5(Coded::with_table(rows, cols, bytes)?)),
            Format::Q6 => Ok(Planes::Q6(Coded::with_table(rows, cols, bytes)?)),
            Format::T2 => Ok(Planes::T2(Coded::from_bytes(rows, cols, &t2::LEVELS, 0, bytes)?)),
            Format::F32 | Format::F16 | Format::Q8 | Format::Q4 => Err(MatrixError::Format),
        }
    }

    /// Some tile rows, and the tiles that lie in them.
    pub(super) fn part(&self, tile_rows: Range<usize>, tiles: Range<usize>) -> Option<Self> {
        Some(match self {
            Planes::Q3(coded) => Planes::Q3(coded.part(tile_rows, tiles)?),
            Planes::Q5(coded) => Planes::Q5(coded.part(tile_rows, tiles)?),
            Planes::Q6(coded) => Planes::Q6(coded.part(tile_rows, tiles)?),
            Planes::T2(coded) => Planes::T2(coded.part(tile_rows, tiles)?),
        })
    }

    pub(super) fn unpack_row(&self, tile_row: usize, lane: usize, groups: usize, out: &mut [f32]) {
        each!(self, coded => coded.unpack_row(tile_row, lane, groups, out));
    }

    pub(super) fn row_scales(&self) -> &'a [[f32; TILE_ROWS]] {
        each!(self, coded => coded.row_scales)
    }

    /// Value of each code.
    #[cfg(all(target_arch = "x86_64", feature = "std"))]
    pub(crate) fn levels(&self) -> &'a [i8] {
        each!(self, coded => coded.levels)
    }
}

impl<'a, const BITS: usize> Coded<'a, BITS> {
    /// A matrix whose bytes begin with its table and shift.
    fn with_table(rows: usize, cols: usize, bytes: &'a [u8]) -> Result<Self, MatrixError> {
        let (head, planes) = bytes.split_at_checked(table_bytes(BITS)).ok_or(MatrixError::Length)?;
        let (levels, rest) = cast::<i8>(head)?.split_at_checked(1 << BITS).ok_or(MatrixError::Length)?;
        let shift = rest.first().copied().ok_or(MatrixError::Length)?;
        if levels.iter().any(|&level| level.checked_add(shift).is_none()) {
            return Err(MatrixError::Table);
        }
        Self::from_bytes(rows, cols, levels, shift, planes)
    }

    fn from_bytes(rows: usize, cols: usize, levels: &'a [i8], shift: i8, bytes: &'a [u8]) -> Result<Self, MatrixError> {
        let (row_scales, sub_scales, codes) = split_scales(rows, cols, bytes)?;
        Ok(Coded { levels, shift, row_scales, sub_scales, tiles: cast(codes)? })
    }

    fn part(&self, tile_rows: Range<usize>, tiles: Range<usize>) -> Option<Self> {
        Some(Coded {
            row_scales: self.row_scales.get(tile_rows)?,
            sub_scales: self.sub_scales.get(tiles.clone())?,
            tiles: self.tiles.get(tiles)?,
            ..*self
        })
    }

    fn unpack_row(&self, tile_row: usize, lane: usize, groups: usize, out: &mut [f32]) {
        let Some(row_scale) = self.row_scales.get(tile_row).map(|s| s[lane]) else { return };
        let first = tile_row * groups;
        for (group, out) in out.chunks_mut(GROUP).enumerate() {
            let (Some(tile), Some(sub_scale)) = (self.tiles.get(first + group), self.sub_scales.get(first + group)) else { return };
            let factor = i32::from(sub_scale[lane] >> 1);
            let shift = i32::from(sub_scale[lane] & 1) * i32::from(self.shift);
            for (code, out) in codes_of(tile, lane).into_iter().zip(out) {
                let level = self.levels.get(usize::from(code)).copied().unwrap_or_default();
                *out = ((i32::from(level) + shift) * factor) as f32 * row_scale;
            }
        }
    }
}

/// The codes of row `lane`, plane by plane: what an embedding looks up in every step.
fn codes_of<const BITS: usize>(tile: &Tile<BITS>, lane: usize) -> [u8; GROUP] {
    // Four codes of a word at a time: what a shift moves from byte to byte is masked away.
    let mut words = [0u32; GROUP / 4];
    for (width, low) in planes(BITS) {
        let mask = 0x0101_0101 * ((1u32 << width) - 1);
        for (word, codes) in words.iter_mut().enumerate() {
            let at = word * width;
            let bytes = u32::from_le_bytes(tile[low + at / 8].as_chunks::<4>().0[lane]);
            *codes |= (bytes >> (at % 8) & mask) << low;
        }
    }
    let mut codes = [0; GROUP];
    for (codes, word) in codes.as_chunks_mut::<4>().0.iter_mut().zip(words) {
        *codes = word.to_le_bytes();
    }
    codes
}

/// The planes of a code: their widths, and the bits before, for each of which the planes so far took a line.
fn planes(bits: usize) -> impl Iterator<Item = (usize, usize)> {
    let mut before = 0;
    [4, 2, 1].into_iter().filter(move |width| bits & width != 0).map(move |width| {
        let low = before;
        before += width;
        (width, low)
    })
}

/// Where a plane keeps its bits of a code in a tile.
struct Part {
    line: usize,
    byte: usize,
    /// Position in the byte.
    shift: usize,
    mask: u8,
    /// Position in the code.
    low: usize,
}

/// The parts of the code of row `lane`, column `col`, from the lowest bits to the highest.
fn parts(bits: usize, lane: usize, col: usize) -> impl Iterator<Item = Part> {
    planes(bits).map(move |(width, low)| {
        let columns = 32 / width;
        Part { line: low + col / columns, byte: lane * 4 + col % 4, shift: col % columns / 4 * width, mask: (1 << width) - 1, low }
    })
}

/// The table that the quantizer writes for a format of [`Planes`], and what the second one adds.
pub fn default_table(format: Format) -> Option<(&'static [i8], i8)> {
    match format {
        Format::Q3 => Some((&q3::LEVELS, q3::SHIFT)),
        Format::Q5 => Some((&q5::LEVELS, q5::SHIFT)),
        Format::Q6 => Some((&q6::LEVELS, q6::SHIFT)),
        Format::T2 => Some((&t2::LEVELS, 0)),
        Format::F32 | Format::F16 | Format::Q8 | Format::Q4 => None,
    }
}

/// Writes a matrix of `format`, one of [`Planes`], into `out` ([`Format::matrix_bytes`] bytes) from its codes and scales.
///
/// `table` is the value of each code and what the second table adds; [`Format::T2`] has its own and takes none. `sub_scale(row,
/// group)` gives the byte as stored. Padding columns take code 0, but the activations they meet are zero; padding rows have a
/// row scale of zero.
pub fn pack_planes(
    format: Format,
    rows: usize,
    cols: usize,
    table: (&[i8], i8),
    row_scale: impl Fn(usize) -> f32,
    sub_scale: impl Fn(usize, usize) -> i8,
    code: impl Fn(usize, usize) -> u8,
    out: &mut [u8],
) {
    let Some(bits) = bits(format) else { return };
    out.fill(0);
    let (head, planes) = out.split_at_mut(if format == Format::T2 { 0 } else { table_bytes(bits) });
    if !head.is_empty() {
        let (levels, shift) = table;
        head[..1 << bits].copy_from_slice(bytemuck::cast_slice(levels));
        head[1 << bits] = shift as u8;
    }
    let (row_scales, sub_scales, codes) = split_scales_mut(rows, cols, planes);
    let (row_scales, _) = row_scales.as_chunks_mut::<4>();
    let (lines, _) = codes.as_chunks_mut::<{ 4 * TILE_ROWS }>();
    for row in 0..rows {
        let lane = row % TILE_ROWS;
        row_scales[row] = row_scale(row).to_le_bytes();
        for group in 0..cols.div_ceil(GROUP) {
            let tile = tile_index(row, group, cols);
            sub_scales[tile * TILE_ROWS + lane] = sub_scale(row, group) as u8;
            for col in group * GROUP..cols.min((group + 1) * GROUP) {
                let code = code(row, col);
                for part in parts(bits, lane, col % GROUP) {
                    lines[tile * bits + part.line][part.byte] |= (code >> part.low & part.mask) << part.shift;
                }
            }
        }
    }
}

/// Bits of a code of one of these formats.
fn bits(format: Format) -> Option<usize> {
    match format {
        Format::T2 => Some(2),
        Format::Q3 => Some(3),
        Format::Q5 => Some(5),
        Format::Q6 => Some(6),
        Format::F32 | Format::F16 | Format::Q8 | Format::Q4 => None,
    }
}

const _: () = assert!(q3::LEVELS.len() == 8 && q5::LEVELS.len() == 32 && q6::LEVELS.len() == 64 && t2::LEVELS.len() == 4);
