//! Quantized matrix times a few vectors, and the int8 rounding of what enters it.
//!
//! One step of a stream multiplies each matrix by one vector; a prefill by several at once. Both are the same sums: per group
//! the exact integer dot product, one rounding to `f32`, and the groups added in ascending order.

use super::SCALAR;
use super::act::round_to_i8;
#[cfg(feature = "planes")]
use crate::quant::{
    Coded, Planes,
    planes::Tile,
    {q3, q5, q6, t2},
};
use crate::quant::{GROUP, Matrix, TILE_ROWS, Weights, f16_to_f32};
use crate::rows::RowsMut;
use crate::table::Activations;

/// Vectors that share one pass over a tile: their sums lie on the stack, of which a microcontroller has little.
const BATCH: usize = if SCALAR { 1 } else { 8 };

type Lanes = [f32; TILE_ROWS];

/// Below this a group counts as silent: its reciprocal would overflow.
pub(crate) const SILENT: f32 = 1.0e-30;

/// Rounds `x` to int8 per group of 32: `x[i] ~ codes[i] * scales[i / 32]`, and sums the codes of each group.
///
/// `codes` has the padded length (a multiple of 32); what lies behind `x` becomes zero.
#[inline(always)]
pub(crate) fn quantize_activations(x: &[f32], codes: &mut [i8], scales: &mut [f32], sums: &mut [i32]) {
    let (groups, _) = codes.as_chunks_mut::<GROUP>();
    for (g, ((codes, scale), sum)) in groups.iter_mut().zip(scales).zip(sums).enumerate() {
        let mut padded = [0.0; GROUP];
        let x = x.get(g * GROUP..).unwrap_or_default();
        for (padded, &x) in padded.iter_mut().zip(x) {
            *padded = x;
        }
        let mut largest = [0.0f32; TILE_ROWS];
        for half in padded.as_chunks::<TILE_ROWS>().0 {
            for i in 0..TILE_ROWS {
                let a = half[i].abs();
                largest[i] = if a > largest[i] { a } else { largest[i] };
            }
        }
        let largest = largest.iter().fold(0.0f32, |m, &a| if a > m { a } else { m });
        let silent = largest < SILENT;
        *scale = if silent { 0.0 } else { largest / 127.0 };
        let inverse = if silent { 0.0 } else { 127.0 / largest };
        for (code, x) in codes.iter_mut().zip(padded) {
            *code = round_to_i8(x * inverse);
        }
        *sum = codes.iter().map(|&c| i32::from(c)).sum();
    }
}

/// `out[t] = matrix * x[t]` for every vector `t`.
///
/// `expand_q4` turns a tile of 4-bit codes into 8-bit ones: the one step that no compiler vectorises from plain code.
#[inline(always)]
pub(crate) fn matmul(
    matrix: &Matrix<'_>,
    x: Activations<'_>,
    mut out: RowsMut<'_>,
    expand_q4: impl Fn(&[[u8; 64]; 4], &[i8; 16], &mut [[i8; 64]; 8]),
) {
    // Nothing to sum without a column; the bounds below tell the optimiser so.
    let groups = matrix.groups().max(1);
    match (&matrix.weights, x) {
        (Weights::F32(words), Activations::Float { x, stride }) => float_tiles(words, groups, x, stride, out),
        (Weights::F16(words), Activations::Float { x, stride }) => float_tiles(words, groups, x, stride, out),
        (Weights::Q8(q), Activations::Int8 { codes, scales, sums: _ }) => {
            let mut tile_rows = (q.sub_scales.chunks_exact(groups), q.tiles.chunks_exact(groups));
            for (i, row_scales) in q.row_scales.iter().enumerate() {
                let (Some(sub_scales), Some(tiles)) = (tile_rows.0.next(), tile_rows.1.next()) else { return };
                let mut batches = Batches::new(codes, scales, &[], groups);
                while let Some(batch) = batches.next() {
                    let mut acc = [[0.0; TILE_ROWS]; BATCH];
                    for (g, (tile, sub)) in tiles.iter().zip(sub_scales).enumerate() {
                        for (acc, (x, scale, _)) in acc.iter_mut().zip(batch.group(g)) {
                            let isum = dot_tile(tile, x);
                            for r in 0..TILE_ROWS {
                                acc[r] += isum[r].wrapping_mul(i32::from(sub[r])) as f32 * scale;
                            }
                        }
                    }
                    store(&acc, row_scales, i, batch.first, batch.len, &mut out);
                }
            }
        }
        (Weights::Q4(q), Activations::Int8 { codes, scales, sums }) => {
            let planes = CodedPlanes { shift: q.shift, row_scales: q.row_scales, sub_scales: q.sub_scales, tiles: q.tiles };
            coded_tiles(planes, groups, (codes, scales, sums), out, |tile, out| expand_q4(tile, q.table, out));
        }
        #[cfg(feature = "planes")]
        (Weights::Planes(planes), Activations::Int8 { codes, scales, sums }) => {
            let x = (codes, scales, sums);
            match planes {
                Planes::Q3(q) => {
                    let table = q3::table(q.levels);
                    coded_tiles(q.into(), groups, x, out, |tile, out| q3::expand(tile, &table, &expand_q4, out));
                }
                Planes::Q5(q) => {
                    let tables = q5::tables(q.levels);
                    coded_tiles(q.into(), groups, x, out, |tile, out| q5::expand(tile, &tables, &expand_q4, out));
                }
                Planes::Q6(q) => {
                    let tables = q6::tables(q.levels);
                    coded_tiles(q.into(), groups, x, out, |tile, out| q6::expand(tile, &tables, &expand_q4, out));
                }
                Planes::T2(q) => coded_tiles(q.into(), groups, x, out, t2::expand),
            }
        }
        // The executor asks `Format::is_quantized` which kind to prepare.
        _ => {}
    }
}

/// What formats with codes and a second table have in common.
struct CodedPlanes<'a, T> {
    shift: i8,
    row_scales: &'a [Lanes],
    sub_scales: &'a [[i8; TILE_ROWS]],
    tiles: &'a [T],
}

#[cfg(feature = "planes")]
impl<'a, const BITS: usize> From<&Coded<'a, BITS>> for CodedPlanes<'a, Tile<BITS>> {
    #[inline(always)]
    fn from(q: &Coded<'a, BITS>) -> Self {
        CodedPlanes { shift: q.shift, row_scales: q.row_scales, sub_scales: q.sub_scales, tiles: q.tiles }
    }
}

/// Coded weights times codes, scales and sums of codes; `expand` turns a tile into the layout of 8-bit codes.
#[inline(always)]
fn coded_tiles<T>(
    planes: CodedPlanes<'_, T>,
    groups: usize,
    (codes, scales, sums): (&[i8], &[f32], &[i32]),
    mut out: RowsMut<'_>,
    expand: impl Fn(&T, &mut [[i8; 64]; 8]),
) {
    let shift = i32::from(planes.shift);
    let mut tile_rows = (planes.sub_scales.chunks_exact(groups), planes.tiles.chunks_exact(groups));
    for (i, row_scales) in planes.row_scales.iter().enumerate() {
        let (Some(sub_scales), Some(tiles)) = (tile_rows.0.next(), tile_rows.1.next()) else { return };
        let mut batches = Batches::new(codes, scales, sums, groups);
        while let Some(batch) = batches.next() {
            let mut acc = [[0.0; TILE_ROWS]; BATCH];
            for (g, (tile, sub)) in tiles.iter().zip(sub_scales).enumerate() {
                let mut expanded = [[0; 64]; 8];
                expand(tile, &mut expanded);
                for (acc, (x, scale, sum)) in acc.iter_mut().zip(batch.group(g)) {
                    let isum = dot_tile(&expanded, x);
                    for r in 0..TILE_ROWS {
                        let picked = i32::from(sub[r] & 1).wrapping_mul(shift).wrapping_mul(sum);
                        acc[r] += isum[r].wrapping_add(picked).wrapping_mul(i32::from(sub[r] >> 1)) as f32 * scale;
                    }
                }
            }
            store(&acc, row_scales, i, batch.first, batch.len, &mut out);
        }
    }
}

/// Exact dot products of 16 rows x 32 columns with 32 codes.
#[inline(always)]
fn dot_tile(tile: &[[i8; 64]; 8], x: &[i8; GROUP]) -> [i32; TILE_ROWS] {
    if SCALAR {
        return dot_rows(tile, x);
    }
    let mut acc = [0i32; 64];
    for (words, x) in tile.as_chunks::<2>().0.iter().zip(x.as_chunks::<8>().0) {
        let (x0, x1) = (repeat(x, 0), repeat(x, 4));
        for i in 0..64 {
            // Two products of at most 128 * 127 fit in 16 bits.
            let a = i16::from(words[0][i]).wrapping_mul(i16::from(x0[i]));
            let b = i16::from(words[1][i]).wrapping_mul(i16::from(x1[i]));
            acc[i] = acc[i].wrapping_add(i32::from(a.wrapping_add(b)));
        }
    }
    let mut isum = [0; TILE_ROWS];
    for r in 0..TILE_ROWS {
        isum[r] = acc[4 * r].wrapping_add(acc[4 * r + 1]).wrapping_add(acc[4 * r + 2]).wrapping_add(acc[4 * r + 3]);
    }
    isum
}

/// The same, row by row: for registers of one number.
#[inline(always)]
fn dot_rows(tile: &[[i8; 64]; 8], x: &[i8; GROUP]) -> [i32; TILE_ROWS] {
    let mut isum = [0i32; TILE_ROWS];
    for (words, x) in tile.iter().zip(x.as_chunks::<4>().0) {
        let x = x.map(i32::from);
        for (isum, word) in isum.iter_mut().zip(words.as_chunks::<4>().0) {
            for (&w, x) in word.iter().zip(x) {
                *isum = isum.wrapping_add(i32::from(w).wrapping_mul(x));
            }
        }
    }
    isum
}

/// The four codes from `at`, once for each of the 16 rows: one broadcast of a 32-bit word.
#[inline(always)]
fn repeat(x: &[i8; 8], at: usize) -> [i8; 64] {
    let word = i32::from_ne_bytes([x[at] as u8, x[at + 1] as u8, x[at + 2] as u8, x[at + 3] as u8]);
    bytemuck::cast([word; TILE_ROWS])
}

/// 32 columns of a float tile row.
type Block<W> = [[W; TILE_ROWS]; GROUP];

/// How a float is stored.
trait Stored: Sized {
    /// A word as `f32`.
    fn word(word: &[Self; TILE_ROWS]) -> [f32; TILE_ROWS];

    /// A block as `f32`: itself, or converted in the buffer it is lent.
    fn block<'b>(words: &'b Block<Self>, buffer: &'b mut Block<f32>) -> &'b Block<f32>;
}

impl Stored for f32 {
    #[inline(always)]
    fn word(word: &[f32; TILE_ROWS]) -> [f32; TILE_ROWS] {
        *word
    }

    #[inline(always)]
    fn block<'b>(words: &'b Block<f32>, _: &'b mut Block<f32>) -> &'b Block<f32> {
        words
    }
}

impl Stored for u16 {
    #[inline(always)]
    fn word(word: &[u16; TILE_ROWS]) -> [f32; TILE_ROWS] {
        word.map(f16_to_f32)
    }

    #[inline(always)]
    fn block<'b>(words: &'b Block<u16>, buffer: &'b mut Block<f32>) -> &'b Block<f32> {
        // One long loop, which compilers turn into vectors.
        for (&half, out) in words.as_flattened().iter().zip(buffer.as_flattened_mut()) {
            *out = f16_to_f32(half);
        }
        buffer
    }
}

/// Float weights: 32 columns are summed on their own, then added, so that rounding grows with the groups, not the columns.
#[inline(always)]
fn float_tiles<W: Stored>(words: &[[W; TILE_ROWS]], groups: usize, x: &[f32], stride: usize, mut out: RowsMut<'_>) {
    let mut buffer = [[0.0; TILE_ROWS]; GROUP];
    let stride = stride.max(1);
    for (i, words) in words.chunks_exact((groups * GROUP).max(1)).enumerate() {
        for (b, xs) in x.chunks((stride * BATCH).max(1)).enumerate() {
            let len = xs.len() / stride;
            let mut acc = [[0.0; TILE_ROWS]; BATCH];
            for (g, words) in words.as_chunks::<GROUP>().0.iter().enumerate() {
                if SCALAR {
                    // One vector: converting as it goes takes no buffer.
                    let Some(x) = xs.get(g * GROUP..).and_then(|x| x.first_chunk::<GROUP>()) else { continue };
                    let mut sum = [0.0; TILE_ROWS];
                    for (w, &x) in words.iter().zip(x) {
                        let w = W::word(w);
                        for r in 0..TILE_ROWS {
                            sum[r] += w[r] * x;
                        }
                    }
                    for r in 0..TILE_ROWS {
                        acc[0][r] += sum[r];
                    }
                    continue;
                }
                let words = W::block(words, &mut buffer);
                let mut xs = xs.chunks_exact(stride);
                for acc in &mut acc {
                    let Some(x) = xs.next() else { break };
                    let Some(x) = x.get(g * GROUP..).and_then(|x| x.first_chunk::<GROUP>()) else { continue };
                    let mut sum = [0.0; TILE_ROWS];
                    for (w, &x) in words.iter().zip(x) {
                        for r in 0..TILE_ROWS {
                            sum[r] += w[r] * x;
                        }
                    }
                    for r in 0..TILE_ROWS {
                        acc[r] += sum[r];
                    }
                }
            }
            store(&acc, &[1.0; TILE_ROWS], i, b * BATCH, len, &mut out);
        }
    }
}

/// Scales and writes the sums of one tile row.
#[inline(always)]
fn store(acc: &[Lanes; BATCH], row_scales: &Lanes, tile_row: usize, first: usize, len: usize, out: &mut RowsMut<'_>) {
    for (t, acc) in acc.iter().take(len).enumerate() {
        let Some(out) = out.row_mut(first + t).get_mut(tile_row * TILE_ROWS..) else { continue };
        let mut y = [0.0; TILE_ROWS];
        for r in 0..TILE_ROWS {
            y[r] = acc[r] * row_scales[r];
        }
        for (out, y) in out.iter_mut().zip(y) {
            *out = y;
        }
    }
}

/// Walks the vectors of an int8 activation block, [`BATCH`] at a time.
struct Batches<'a> {
    codes: &'a [[i8; GROUP]],
    scales: &'a [f32],
    sums: &'a [i32],
    groups: usize,
    first: usize,
}

struct Batch<'a> {
    codes: &'a [[i8; GROUP]],
    scales: &'a [f32],
    sums: &'a [i32],
    groups: usize,
    first: usize,
    len: usize,
}

impl<'a> Batches<'a> {
    #[inline(always)]
    fn new(codes: &'a [i8], scales: &'a [f32], sums: &'a [i32], groups: usize) -> Self {
        Batches { codes: codes.as_chunks().0, scales, sums, groups, first: 0 }
    }

    #[inline(always)]
    fn next(&mut self) -> Option<Batch<'a>> {
        let left = self.codes.len() / self.groups - self.first;
        let len = left.min(BATCH);
        if len == 0 {
            return None;
        }
        let at = self.first * self.groups;
        let first = self.first;
        self.first += len;
        Some(Batch {
            codes: self.codes.get(at..)?,
            scales: self.scales.get(at..)?,
            sums: self.sums.get(at..).unwrap_or_default(),
            groups: self.groups,
            first,
            len,
        })
    }
}

impl<'a> Batch<'a> {
    /// Group `g` of each vector: codes, scale, sum of codes.
    #[inline(always)]
    fn group(&self, g: usize) -> impl Iterator<Item = (&'a [i8; GROUP], f32, i32)> {
        let groups = self.groups;
        let (codes, scales, sums) = (self.codes, self.scales, self.sums);
        (0..self.len).filter_map(move |t| {
            let at = t * groups + g;
            Some((codes.get(at)?, *scales.get(at)?, sums.get(at).copied().unwrap_or(0)))
        })
    }
}
