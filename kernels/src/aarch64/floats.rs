//! Products with float weights: four vectors share a load and, of halves, the conversion, which is an instruction here.

use super::walk::{Sums, store};
use crate::quant::{GROUP, TILE_ROWS};
use crate::rows::RowsMut;
use core::arch::aarch64::*;
use core::arch::asm;

/// How a float is stored.
pub(super) trait Stored: Sized {
    /// A column of 16 rows.
    fn column(words: &[Self; TILE_ROWS]) -> Sums;
}

impl Stored for f32 {
    #[inline(always)]
    fn column(words: &[f32; TILE_ROWS]) -> Sums {
        let at = words.as_ptr();
        // SAFETY: 16 readable floats; NEON is part of every aarch64 core.
        unsafe { [vld1q_f32(at), vld1q_f32(at.add(4)), vld1q_f32(at.add(8)), vld1q_f32(at.add(12))] }
    }
}

impl Stored for u16 {
    #[inline(always)]
    fn column(words: &[u16; TILE_ROWS]) -> Sums {
        let (a, b, c, d);
        // SAFETY: 16 readable halves; NEON is part of every aarch64 core, and the instructions touch only their operands. (Stable Rust
        // has no half-precision vectors yet.)
        unsafe {
            let (low, high) = (vld1q_u16(words.as_ptr()), vld1q_u16(words.as_ptr().add(8)));
            asm!(
                "fcvtl {a:v}.4s, {low:v}.4h",
                "fcvtl2 {b:v}.4s, {low:v}.8h",
                "fcvtl {c:v}.4s, {high:v}.4h",
                "fcvtl2 {d:v}.4s, {high:v}.8h",
                a = out(vreg) a, b = out(vreg) b, c = out(vreg) c, d = lateout(vreg) d, low = in(vreg) low, high = in(vreg) high,
                options(pure, nomem, nostack, preserves_flags)
            );
        }
        [a, b, c, d]
    }
}

/// `out[t] = matrix * x[t]`; vector `t` starts at `t * stride`.
#[inline(always)]
pub(super) fn tile_rows<W: Stored>(words: &[[W; TILE_ROWS]], groups: usize, x: &[f32], stride: usize, mut out: RowsMut<'_>) {
    for (i, words) in words.chunks_exact(groups * GROUP).enumerate() {
        let (columns, row) = (words.as_chunks::<GROUP>().0, i * TILE_ROWS);
        let mut vectors = x.chunks_exact(stride.max(groups * GROUP)).enumerate();
        while let Some((t, first)) = vectors.next() {
            let mut more = || vectors.next().map(|(_, x)| x);
            let Some(second) = more() else {
                let [acc] = products(columns, [first]);
                store(&mut out, t, row, acc, &[1.0; TILE_ROWS]);
                break;
            };
            // Of the last four, what is missing repeats the second.
            let (third, fourth) = (more(), more());
            let acc = products(columns, [first, second, third.unwrap_or(second), fourth.unwrap_or(second)]);
            let there = [true, true, third.is_some(), fourth.is_some()];
            for (k, acc) in acc.into_iter().enumerate().filter(|&(k, _)| there[k]) {
                store(&mut out, t + k, row, acc, &[1.0; TILE_ROWS]);
            }
        }
    }
}

/// The sums of a tile row: a group of 32 columns on its own, then added.
#[inline(always)]
fn products<W: Stored, const N: usize>(columns: &[[[W; TILE_ROWS]; GROUP]], x: [&[f32]; N]) -> [Sums; N] {
    // SAFETY: NEON is part of every aarch64 core.
    let zero = unsafe { vdupq_n_f32(0.0) };
    let mut acc = [[zero; 4]; N];
    for (g, columns) in columns.iter().enumerate() {
        let mut x_group = [&[0.0; GROUP]; N];
        for t in 0..N {
            if let Some(group) = x[t].get(g * GROUP..).and_then(|x| x.first_chunk()) {
                x_group[t] = group;
            }
        }
        let mut sum = [[zero; 4]; N];
        for (c, words) in columns.iter().enumerate() {
            let w = W::column(words);
            for t in 0..N {
                for j in 0..4 {
                    // SAFETY: NEON is part of every aarch64 core.
                    sum[t][j] = unsafe { vaddq_f32(sum[t][j], vmulq_n_f32(w[j], x_group[t][c])) };
                }
            }
        }
        for t in 0..N {
            for j in 0..4 {
                // SAFETY: NEON is part of every aarch64 core.
                acc[t][j] = unsafe { vaddq_f32(acc[t][j], sum[t][j]) };
            }
        }
    }
    acc
}
