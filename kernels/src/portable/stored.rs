//! How a recurrent state stores its numbers between tokens.

use super::scan::WIDTH;

/// Between stored numbers and those that are computed with, [`WIDTH`] at a time.
pub(crate) trait Stored {
    /// A stored number.
    type Cell: Copy + Default;

    /// As `f32`, exact.
    fn read(cells: &[Self::Cell; WIDTH]) -> [f32; WIDTH];

    /// Rounded to what can be stored.
    fn rounded(x: [f32; WIDTH]) -> [Self::Cell; WIDTH];

    /// `cells[i] <- step(i, cells[i])`.
    #[inline(always)]
    fn update(cells: &mut [Self::Cell; WIDTH], mut step: impl FnMut(usize, f32) -> f32) {
        let mut x = Self::read(cells);
        for (i, x) in x.iter_mut().enumerate() {
            *x = step(i, *x);
        }
        *cells = Self::rounded(x);
    }
}

/// As they are.
pub(crate) enum Whole {}

impl Stored for Whole {
    type Cell = f32;

    #[inline(always)]
    fn read(cells: &[f32; WIDTH]) -> [f32; WIDTH] {
        *cells
    }

    #[inline(always)]
    fn rounded(x: [f32; WIDTH]) -> [f32; WIDTH] {
        x
    }

    /// In place: a core with few registers needs no copy.
    #[inline(always)]
    fn update(cells: &mut [f32; WIDTH], mut step: impl FnMut(usize, f32) -> f32) {
        for (i, x) in cells.iter_mut().enumerate() {
            *x = step(i, *x);
        }
    }
}

/// In half precision, by integer arithmetic.
#[cfg(feature = "narrow-states")]
pub(crate) enum Half {}

#[cfg(feature = "narrow-states")]
impl Stored for Half {
    type Cell = u16;

    #[inline(always)]
    fn read(cells: &[u16; WIDTH]) -> [f32; WIDTH] {
        cells.map(crate::quant::f16_to_f32)
    }

    #[inline(always)]
    fn rounded(x: [f32; WIDTH]) -> [u16; WIDTH] {
        x.map(f32_to_f16)
    }
}

/// The largest number in half precision.
#[cfg(feature = "narrow-states")]
pub(crate) const LARGEST_HALF: f32 = 65504.0;

/// Single to half precision, to the nearest, ties to even. What lies beyond the largest half becomes that, with its sign, and so does, with
/// a plus, what is no number: nothing that is not finite is ever stored.
#[cfg(feature = "narrow-states")]
#[inline(always)]
pub(crate) fn f32_to_f16(x: f32) -> u16 {
    /// 2^-14: below, halves are multiples of 2^-24.
    const LEAST_NORMAL: f32 = f32::from_bits((127 - 14) << 23);
    let x = if x < LARGEST_HALF { x } else { LARGEST_HALF };
    let x = if x > -LARGEST_HALF { x } else { -LARGEST_HALF };
    let sign = (x.to_bits() >> 16) & 0x8000;
    let magnitude = f32::from_bits(x.to_bits() & 0x7fff_ffff);
    // Between 1/2 and 1, `f32` are multiples of 2^-24 too: the addition rounds.
    let multiples = (magnitude + 0.5).to_bits().wrapping_sub(0.5f32.to_bits());
    let bits = magnitude.to_bits();
    let is_odd = (bits >> 13) & 1;
    let normal = (bits + 0xfff + is_odd).wrapping_sub(112 << 23) >> 13;
    (sign | if magnitude < LEAST_NORMAL { multiples } else { normal }) as u16
}

#[cfg(all(test, feature = "narrow-states"))]
mod tests {
    use super::f32_to_f16;
    use crate::quant::f16_to_f32;

    /// What the crate `half` rounds to, saturated.
    fn expected(x: f32) -> u16 {
        let largest = half::f16::MAX;
        half::f16::from_f32(x).clamp(-largest, largest).to_bits()
    }

    #[test]
    fn every_half_goes_there_and_back() {
        for bits in (0..=u16::MAX).filter(|bits| bits & 0x7c00 != 0x7c00) {
            let x = f16_to_f32(bits);
            assert_eq!((x.to_bits(), f32_to_f16(x)), (half::f16::from_bits(bits).to_f32().to_bits(), bits));
        }
    }

    #[test]
    fn rounding_is_to_the_nearest_even_and_saturates() {
        // Around every half, around every middle between two, and every 4,099th float.
        let near = |x: f32| (-2i32..=2).map(move |by| f32::from_bits(x.to_bits().wrapping_add_signed(by)));
        let halves = (0..0x7c00u16).map(f16_to_f32);
        let middles = (0..0x7bffu16).map(|bits| 0.5 * (f16_to_f32(bits) + f16_to_f32(bits + 1)));
        let others = (0..=u32::MAX).step_by(4_099).map(f32::from_bits);
        let positive = halves.chain(middles).flat_map(near);
        for x in positive.flat_map(|x| [x, -x]).chain(others).filter(|x| !x.is_nan()) {
            assert_eq!(f32_to_f16(x), expected(x), "{x:e}");
        }
        assert_eq!(
            [f32::INFINITY, f32::NEG_INFINITY, 65520.0, f32::NAN, -f32::NAN].map(f32_to_f16),
            [0x7bff, 0xfbff, 0x7bff, 0x7bff, 0x7bff]
        );
    }
}
