//! Sixteen channels in four registers.

use core::arch::aarch64::*;

/// Channels taken together: four registers, so that none waits for the result of the one before.
pub(super) const LANES: usize = 16;

/// (16)
pub(super) type Lanes = [float32x4_t; LANES / 4];

/// Lanes `at..at + 16` of `x`; without `WHOLE`, zero from `end` on.
#[inline(always)]
pub(super) fn load<const WHOLE: bool>(x: &[f32], at: usize, end: usize) -> Lanes {
    from_array(&cells::<WHOLE, _>(x, at, end))
}

/// The reverse of [`load`]: lanes from `end` on are dropped.
#[inline(always)]
pub(super) fn store<const WHOLE: bool>(x: &mut [f32], at: usize, end: usize, lanes: Lanes) {
    set_cells::<WHOLE, _>(x, at, end, to_array(lanes));
}

/// What is stored for lanes `at..at + 16`; without `WHOLE`, zero from `end` on.
#[inline(always)]
pub(super) fn cells<const WHOLE: bool, T: Copy + Default>(x: &[T], at: usize, end: usize) -> [T; LANES] {
    let mut cells = [T::default(); LANES];
    if WHOLE {
        if let Some(x) = x.get(at..).and_then(|x| x.first_chunk()) {
            cells = *x;
        }
    } else {
        for (cell, &x) in cells.iter_mut().zip(x.get(at..end).unwrap_or_default()) {
            *cell = x;
        }
    }
    cells
}

/// The reverse of [`cells`].
#[inline(always)]
pub(super) fn set_cells<const WHOLE: bool, T: Copy>(x: &mut [T], at: usize, end: usize, cells: [T; LANES]) {
    if WHOLE {
        if let Some(x) = x.get_mut(at..).and_then(|x| x.first_chunk_mut()) {
            *x = cells;
        }
    } else {
        for (x, cell) in x.get_mut(at..end).unwrap_or_default().iter_mut().zip(cells) {
            *x = cell;
        }
    }
}

#[inline(always)]
pub(super) fn from_array(x: &[f32; LANES]) -> Lanes {
    // SAFETY: 16 readable floats; NEON is part of every aarch64 core.
    unsafe { [vld1q_f32(x.as_ptr()), vld1q_f32(x.as_ptr().add(4)), vld1q_f32(x.as_ptr().add(8)), vld1q_f32(x.as_ptr().add(12))] }
}

#[inline(always)]
pub(super) fn to_array(lanes: Lanes) -> [f32; LANES] {
    let mut x = [0.0; LANES];
    for (i, lanes) in lanes.into_iter().enumerate() {
        // SAFETY: four floats from `4 * i` are in the array; NEON is part of every aarch64 core.
        unsafe { vst1q_f32(x.as_mut_ptr().add(4 * i), lanes) };
    }
    x
}

#[inline(always)]
pub(super) fn splat(x: f32) -> Lanes {
    // SAFETY: NEON is part of every aarch64 core.
    [unsafe { vdupq_n_f32(x) }; LANES / 4]
}

#[inline(always)]
pub(super) fn each(mut a: Lanes, b: Lanes, f: impl Fn(float32x4_t, float32x4_t) -> float32x4_t) -> Lanes {
    for (a, b) in a.iter_mut().zip(b) {
        *a = f(*a, b);
    }
    a
}

#[inline(always)]
pub(super) fn add(a: Lanes, b: Lanes) -> Lanes {
    // SAFETY: NEON is part of every aarch64 core.
    each(a, b, |a, b| unsafe { vaddq_f32(a, b) })
}

#[inline(always)]
pub(super) fn multiply(a: Lanes, b: Lanes) -> Lanes {
    // SAFETY: NEON is part of every aarch64 core.
    each(a, b, |a, b| unsafe { vmulq_f32(a, b) })
}

/// A portable function on every lane.
#[inline(always)]
pub(super) fn map(x: Lanes, f: impl Fn(f32) -> f32) -> Lanes {
    let mut x = to_array(x);
    for x in &mut x {
        *x = f(*x);
    }
    from_array(&x)
}
