//! Recurrent states in half precision: the conversion is an instruction here.

use crate::portable;
use crate::rows::RowsMut;
use crate::state::StateMut;
use crate::table::{GatedDelta, Ssd};
#[cfg(feature = "narrow-states")]
pub(super) use halves::Fcvt;

/// See [`portable::ssd`].
pub(super) fn ssd(ssd: &Ssd<'_>, states: &mut [StateMut<'_>], y: RowsMut<'_>) {
    ssd.each_stream(states, y, |ssd, state, y| with_rows!(state, Fcvt, |state, Stored| portable::ssd::<Stored>(ssd, state, y)));
}

/// See [`portable::gated_delta_step`].
pub(super) fn gated_delta_step(delta: &GatedDelta<'_>, state: StateMut<'_>, y: &mut [f32]) {
    with_rows!(state, Fcvt, |state, Stored| portable::gated_delta_step::<Stored>(delta, state, y));
}

#[cfg(feature = "narrow-states")]
mod halves {
    use crate::portable::stored::{LARGEST_HALF, Stored};
    use core::arch::aarch64::*;
    use core::arch::asm;

    /// [`crate::portable::stored::Half`], by the conversions that every 64-bit core has. (Stable Rust has no half-precision vectors yet: the
    /// instructions are assembly of one line.)
    pub(crate) enum Fcvt {}

    impl Stored for Fcvt {
        type Cell = u16;

        #[inline(always)]
        fn read(cells: &[u16; 16]) -> [f32; 16] {
            let mut x = [0.0; 16];
            for (x, cells) in x.as_chunks_mut::<8>().0.iter_mut().zip(cells.as_chunks::<8>().0) {
                let (low, high);
                // SAFETY: eight readable halves and eight writable floats; NEON is part of every aarch64 core, and the instructions touch
                // only their operands.
                unsafe {
                    let halves = vld1q_u16(cells.as_ptr());
                    asm!(
                        "fcvtl {low:v}.4s, {halves:v}.4h",
                        "fcvtl2 {high:v}.4s, {halves:v}.8h",
                        low = out(vreg) low, high = lateout(vreg) high, halves = in(vreg) halves,
                        options(pure, nomem, nostack, preserves_flags)
                    );
                    vst1q_f32(x.as_mut_ptr(), low);
                    vst1q_f32(x.as_mut_ptr().add(4), high);
                }
            }
            x
        }

        #[inline(always)]
        fn rounded(x: [f32; 16]) -> [u16; 16] {
            let mut cells = [0; 16];
            for (cells, x) in cells.as_chunks_mut::<8>().0.iter_mut().zip(x.as_chunks::<8>().0) {
                let halves: uint16x8_t;
                // SAFETY: eight readable floats and eight writable halves, the rest as above.
                unsafe {
                    // Of a NaN and a number the number.
                    let bounded = |x| vmaxnmq_f32(vminnmq_f32(x, vdupq_n_f32(LARGEST_HALF)), vdupq_n_f32(-LARGEST_HALF));
                    let (low, high) = (bounded(vld1q_f32(x.as_ptr())), bounded(vld1q_f32(x.as_ptr().add(4))));
                    asm!(
                        "fcvtn {halves:v}.4h, {low:v}.4s",
                        "fcvtn2 {halves:v}.8h, {high:v}.4s",
                        halves = out(vreg) halves, low = in(vreg) low, high = in(vreg) high,
                        options(pure, nomem, nostack, preserves_flags)
                    );
                    vst1q_u16(cells.as_mut_ptr(), halves);
                }
            }
            cells
        }
    }

    #[cfg(test)]
    mod tests {
        use super::{Fcvt, Stored};
        use crate::portable::stored::Half;

        #[test]
        fn halves_are_the_portable_ones_to_the_bit() {
            // Every 4,099th float, what is no number among them.
            for first in (0..=u32::MAX).step_by(4_099 * 16) {
                let x: [f32; 16] = core::array::from_fn(|i| f32::from_bits(first.wrapping_add(4_099 * i as u32)));
                let cells = Half::rounded(x);
                assert_eq!(Fcvt::rounded(x), cells, "{x:?}");
                assert_eq!(Fcvt::read(&cells).map(f32::to_bits), Half::read(&cells).map(f32::to_bits));
            }
        }
    }
}
