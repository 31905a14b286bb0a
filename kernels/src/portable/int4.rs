//! Attention over a cache of 4-bit codes: groups of 32 numbers of a head share a scale in half precision.

use super::attention::{divide, softmax_weights};
use super::reduce::{LANES, tree};
use super::stored::f32_to_f16;
use crate::quant::{GROUP, NONLINEAR_TABLE, f16_to_f32};
use crate::table::{Attention, Int4};

/// The codes of a group: numbers 0 to 15 in the low halves of the bytes, 16 to 31 in the high ones.
pub type Codes = [u8; GROUP / 2];

/// Rounds up to 32 numbers to the nearest of sixteen levels, and returns the bits of their scale. Of equally near levels the lower is
/// taken. The number that lies farthest from zero, the first of equals, is the lowest level, whatever its sign.
pub fn round_group(x: &[f32], codes: &mut Codes) -> u16 {
    let farthest = x.iter().fold(0.0f32, |most, &x| if x.abs() > most.abs() { x } else { most });
    let scale = f32_to_f16(farthest / f32::from(NONLINEAR_TABLE[0]));
    // So small that even the smallest half is too large: all are zero.
    let inverse = if scale & 0x7fff == 0 { 0.0 } else { 1.0 / f16_to_f32(scale) };
    *codes = [0; GROUP / 2];
    for (i, x) in x.iter().take(GROUP).enumerate() {
        let level = x * inverse;
        let middles = NONLINEAR_TABLE.iter().zip(NONLINEAR_TABLE.get(1..).unwrap_or_default());
        let code = middles.filter(|&(&low, &high)| level > 0.5 * (f32::from(low) + f32::from(high))).count() as u8;
        if let Some(byte) = codes.get_mut(i % (GROUP / 2)) {
            *byte |= if i < GROUP / 2 { code } else { code << 4 };
        }
    }
    scale
}

/// Numbers 0 to 15 of a group, or 16 to 31: a level times the scale, rounded once.
#[inline(always)]
fn half_of_group(codes: &Codes, scale: f32, is_upper: bool) -> [f32; LANES] {
    codes.map(|byte| {
        let code = if is_upper { byte >> 4 } else { byte & 15 };
        f32::from(NONLINEAR_TABLE[usize::from(code)]) * scale
    })
}

/// Calls `each` with every sixteen numbers of a position and their first column; the last may be beyond the head.
#[inline(always)]
fn each_half(codes: &[Codes], scales: &[u16], mut each: impl FnMut(usize, [f32; LANES])) {
    for (g, (codes, &scale)) in codes.iter().zip(scales).enumerate() {
        let scale = f16_to_f32(scale);
        each(g * GROUP, half_of_group(codes, scale, false));
        each(g * GROUP + LANES, half_of_group(codes, scale, true));
    }
}

/// One query head over a key-value head's cache; see [`super::attend`]. `first` is the position where that begins, `scores` (len).
#[inline(always)]
pub(super) fn attend_head(a: &Attention<'_>, cache: &Int4<'_>, q: &[f32], first: usize, scores: &mut [f32], out: &mut [f32]) {
    let groups = a.head_dim.div_ceil(GROUP).max(1);
    let range = first * groups..(first + a.len) * groups;
    let part = |codes: &'_ [Codes]| -> core::ops::Range<usize> { range.start.min(codes.len())..range.end.min(codes.len()) };
    let positions = |codes, scales| -> Option<_> {
        let (codes, scales): (&[Codes], &[u16]) = (codes, scales);
        Some(codes.get(part(codes))?.chunks_exact(groups).zip(scales.get(range.clone())?.chunks_exact(groups)))
    };
    let (Some(keys), Some(values)) = (positions(cache.keys, cache.key_scales), positions(cache.values, cache.value_scales)) else { return };
    for (score, (codes, scales)) in scores.iter_mut().zip(keys) {
        let mut lanes = [0.0; LANES];
        each_half(codes, scales, |at, key| {
            for ((lane, &q), key) in lanes.iter_mut().zip(q.get(at..).unwrap_or_default()).zip(key) {
                *lane += q * key;
            }
        });
        *score = tree(lanes) * a.scale;
    }
    let total = softmax_weights(scores);
    out.fill(0.0);
    for (&weight, (codes, scales)) in scores.iter().zip(values) {
        each_half(codes, scales, |at, value| {
            for (out, value) in out.get_mut(at..).unwrap_or_default().iter_mut().zip(value) {
                *out += weight * value;
            }
        });
    }
    divide(out, total);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(codes: &Codes, scale: u16) -> [f32; GROUP] {
        let mut x = [0.0; GROUP];
        each_half(&[*codes], &[scale], |at, half| x[at..at + LANES].copy_from_slice(&half));
        x
    }

    #[test]
    fn every_level_is_its_own_nearest() {
        for scale in [0.5f32, -0.25, 3.0] {
            let x: [f32; GROUP] = core::array::from_fn(|i| f32::from(NONLINEAR_TABLE[i % 16]) * scale);
            let mut codes = [0; 16];
            let bits = round_group(&x, &mut codes);
            assert_eq!(numbers(&codes, bits), x);
        }
    }

    #[test]
    fn rounding_is_to_the_nearest_level() {
        let x: [f32; GROUP] = core::array::from_fn(|i| if i == 9 { 3.0 } else { (i as f32 * 0.7).sin() });
        let mut codes = [0; 16];
        let scale = round_group(&x, &mut codes);
        for (x, y) in x.into_iter().zip(numbers(&codes, scale)) {
            let levels = NONLINEAR_TABLE.map(|level| f32::from(level) * f16_to_f32(scale));
            assert!(levels.iter().all(|level| (level - x).abs() >= (y - x).abs() * 0.9999), "{x} became {y}");
        }
        assert_eq!(numbers(&codes, scale)[9], -127.0 * f16_to_f32(scale));
    }

    #[test]
    fn silence_is_zero_and_nothing_is_infinite() {
        let mut codes = [0; 16];
        let scale = round_group(&[1e-9; GROUP], &mut codes);
        assert_eq!(numbers(&codes, scale), [0.0; GROUP]);
        let scale = round_group(&[f32::INFINITY, f32::NAN, 1.0], &mut codes);
        assert!(numbers(&codes, scale).iter().all(|x| x.is_finite()));
    }
}
