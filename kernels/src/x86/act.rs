//! The elementary functions of [`crate::portable::act`] on sixteen lanes, step for step.
//!
//! Each is one long chain of steps, and a processor looks ahead over few chains that stand behind each other: so they take several
//! registers and do every step for all of them.

use core::arch::x86_64::*;
use core::f32::consts::LOG2_E;

/// One number in every lane.
macro_rules! all {
    ($x:expr) => {
        _mm512_set1_ps($x)
    };
}

/// One step for each register.
macro_rules! each {
    ($i:ident < $k:ident: $step:expr) => {{
        let mut out = [_mm512_setzero_ps(); $k];
        for $i in 0..$k {
            out[$i] = $step;
        }
        out
    }};
}
pub(super) use each;

/// See [`crate::portable::act::exp`]; one instruction scales by the power of two, which rounds as the portable two factors do: the
/// first of them is always exact.
#[inline]
#[target_feature(enable = "avx512f,avx512dq")]
pub(super) fn exp<const K: usize>(x: [__m512; K]) -> [__m512; K] {
    // SAFETY: the feature is there.
    unsafe { exp_inside(x) }
}

/// [`exp`] as a part of its caller: recurrences go on with its results while others are on their way.
///
/// # Safety
/// Only for functions with AVX-512F: this one has no features, so that the compiler can be made to inline it.
#[inline(always)]
pub(super) unsafe fn exp_inside<const K: usize>(x: [__m512; K]) -> [__m512; K] {
    // SAFETY: the caller's promise.
    unsafe {
        // A NaN is in the second place, and stays.
        let x = each!(i < K: _mm512_min_ps(all!(89.0), _mm512_max_ps(all!(-104.0), x[i])));
        let n = each!(i < K: _mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(_mm512_mul_ps(x[i], all!(LOG2_E))));
        // The product is exact, so that it does not matter that this rounds once.
        let r = each!(i < K: _mm512_fnmadd_ps(n[i], all!(0.693_359_4), x[i]));
        exp_of_rest(n, r)
    }
}

/// Up to here [`decays`] need no bounds: a whole number of doublings times the high part of ln 2 is exact.
const SHORT: f32 = 10_000.0;

/// Whether all numbers are from 0 to [`SHORT`].
///
/// # Safety
/// As for [`exp_inside`].
#[inline(always)]
pub(super) unsafe fn are_short<const K: usize>(y: &[__m512; K]) -> bool {
    // SAFETY: the caller's promise.
    unsafe {
        // Numbers below zero and NaN are large as unsigned integers.
        let mut largest = _mm512_setzero_si512();
        for i in 0..K {
            largest = _mm512_max_epu32(largest, _mm512_castps_si512(y[i]));
        }
        _mm512_cmpgt_epu32_mask(largest, _mm512_set1_epi32(SHORT.to_bits() as i32)) == 0
    }
}

/// [`exp`] of `-y`, where [`are_short`] says yes: the decays of a recurrence, for which `y` is a step size times a rate. Nothing is held to bounds:
/// what lies below those of [`exp`] becomes 0 all the same.
///
/// # Safety
/// As for [`exp_inside`].
#[inline(always)]
pub(super) unsafe fn decays<const K: usize>(y: [__m512; K]) -> [__m512; K] {
    // SAFETY: the caller's promise.
    unsafe {
        let n = each!(i < K: _mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(_mm512_mul_ps(y[i], all!(-LOG2_E))));
        let r = each!(i < K: _mm512_fnmsub_ps(n[i], all!(0.693_359_4), y[i]));
        exp_of_rest(n, r)
    }
}

/// What [`exp`] makes of the nearest whole number of doublings and what is left but for their low part.
///
/// # Safety
/// As for [`exp_inside`].
#[inline(always)]
unsafe fn exp_of_rest<const K: usize>(n: [__m512; K], r: [__m512; K]) -> [__m512; K] {
    // SAFETY: the caller's promise.
    unsafe {
        let r = each!(i < K: _mm512_sub_ps(r[i], _mm512_mul_ps(n[i], all!(-2.121_944_4e-4))));
        let mut p = [all!(1.987_569_1e-4); K];
        for coefficient in [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5] {
            p = each!(i < K: _mm512_add_ps(_mm512_mul_ps(p[i], r[i]), all!(coefficient)));
        }
        let p = each!(i < K: _mm512_mul_ps(p[i], _mm512_mul_ps(r[i], r[i])));
        let e_r = each!(i < K: _mm512_add_ps(_mm512_add_ps(p[i], r[i]), all!(1.0)));
        each!(i < K: _mm512_scalef_ps(e_r[i], n[i]))
    }
}

/// See [`crate::portable::act::log1p`].
#[inline]
#[target_feature(enable = "avx512f,avx512dq")]
pub(super) fn log1p<const K: usize>(u: [__m512; K]) -> [__m512; K] {
    let one = all!(1.0);
    let sqrt_half = _mm512_set1_epi32(0x3f35_04f3);
    let w = each!(i < K: _mm512_add_ps(one, u[i]));
    // What rounding 1 + u lost.
    let lost = each!(i < K: {
        let is_large = _mm512_cmp_ps_mask::<_CMP_GE_OQ>(w[i], all!(2.0));
        let lost = _mm512_sub_ps(u[i], _mm512_sub_ps(w[i], one));
        _mm512_mask_sub_ps(lost, is_large, one, _mm512_sub_ps(w[i], u[i]))
    });
    let bits = each!(i < K: _mm512_castsi512_ps(_mm512_sub_epi32(_mm512_castps_si512(w[i]), sqrt_half)));
    let k = each!(i < K: _mm512_cvtepi32_ps(_mm512_srai_epi32::<23>(_mm512_castps_si512(bits[i]))));
    let f = each!(i < K: {
        let m = _mm512_and_si512(_mm512_castps_si512(bits[i]), _mm512_set1_epi32(0x007f_ffff));
        _mm512_sub_ps(_mm512_castsi512_ps(_mm512_add_epi32(m, sqrt_half)), one)
    });
    let s = each!(i < K: _mm512_div_ps(f[i], _mm512_add_ps(all!(2.0), f[i])));
    let share = each!(i < K: _mm512_div_ps(lost[i], w[i]));
    let z = each!(i < K: _mm512_mul_ps(s[i], s[i]));
    let z2 = each!(i < K: _mm512_mul_ps(z[i], z[i]));
    let even = each!(i < K: _mm512_mul_ps(z2[i], _mm512_add_ps(all!(0.400_009_7), _mm512_mul_ps(z2[i], all!(0.242_790_8)))));
    let odd = each!(i < K: _mm512_mul_ps(z[i], _mm512_add_ps(all!(0.666_666_6), _mm512_mul_ps(z2[i], all!(0.284_987_87)))));
    let half_f2 = each!(i < K: _mm512_mul_ps(_mm512_mul_ps(all!(0.5), f[i]), f[i]));
    let low = each!(i < K: _mm512_add_ps(_mm512_mul_ps(k[i], all!(9.058_001e-6)), share[i]));
    let sum = each!(i < K: _mm512_mul_ps(s[i], _mm512_add_ps(half_f2[i], _mm512_add_ps(even[i], odd[i]))));
    let sum = each!(i < K: _mm512_add_ps(_mm512_sub_ps(_mm512_add_ps(sum[i], low[i]), half_f2[i]), f[i]));
    each!(i < K: _mm512_add_ps(sum[i], _mm512_mul_ps(k[i], all!(6.931_381e-1))))
}

/// See [`crate::portable::act::softplus`].
#[inline]
#[target_feature(enable = "avx512f,avx512dq")]
pub(super) fn softplus<const K: usize>(x: [__m512; K]) -> [__m512; K] {
    softplus_of(x, exp(x))
}

/// [`softplus`] of numbers whose exponentials are there.
#[inline]
#[target_feature(enable = "avx512f,avx512dq")]
pub(super) fn softplus_of<const K: usize>(x: [__m512; K], exp_x: [__m512; K]) -> [__m512; K] {
    let y = log1p(exp_x);
    each!(i < K: _mm512_mask_mov_ps(y[i], _mm512_cmp_ps_mask::<_CMP_GT_OQ>(x[i], all!(20.0)), x[i]))
}

/// 1 + e^-x.
#[inline]
#[target_feature(enable = "avx512f,avx512dq")]
fn one_and_exp_of_minus<const K: usize>(x: [__m512; K]) -> [__m512; K] {
    let e = exp(each!(i < K: _mm512_xor_ps(x[i], all!(-0.0))));
    each!(i < K: _mm512_add_ps(all!(1.0), e[i]))
}

/// See [`crate::portable::act::sigmoid`].
#[inline]
#[target_feature(enable = "avx512f,avx512dq")]
pub(super) fn sigmoid<const K: usize>(x: [__m512; K]) -> [__m512; K] {
    let divisor = one_and_exp_of_minus(x);
    each!(i < K: _mm512_div_ps(all!(1.0), divisor[i]))
}

/// See [`crate::portable::act::silu`].
#[inline]
#[target_feature(enable = "avx512f,avx512dq")]
pub(super) fn silu<const K: usize>(x: [__m512; K]) -> [__m512; K] {
    let divisor = one_and_exp_of_minus(x);
    each!(i < K: _mm512_div_ps(x[i], divisor[i]))
}

/// See [`crate::portable::act::tanh`].
#[inline]
#[target_feature(enable = "avx512f,avx512dq")]
pub(super) fn tanh<const K: usize>(x: [__m512; K]) -> [__m512; K] {
    let sign = all!(-0.0);
    let z = each!(i < K: _mm512_mul_ps(x[i], x[i]));
    let mut p = [all!(-5.704_988_7e-3); K];
    for coefficient in [2.063_909e-2, -5.373_971_6e-2, 1.333_144_2e-1, -3.333_328e-1] {
        p = each!(i < K: _mm512_add_ps(_mm512_mul_ps(p[i], z[i]), all!(coefficient)));
    }
    let near = each!(i < K: _mm512_add_ps(x[i], _mm512_mul_ps(x[i], _mm512_mul_ps(z[i], p[i]))));
    let e = exp(each!(i < K: _mm512_mul_ps(all!(2.0), _mm512_abs_ps(x[i]))));
    let far = each!(i < K: _mm512_sub_ps(all!(1.0), _mm512_div_ps(all!(2.0), _mm512_add_ps(e[i], all!(1.0)))));
    let far = each!(i < K: _mm512_or_ps(_mm512_andnot_ps(sign, far[i]), _mm512_and_ps(sign, x[i])));
    each!(i < K: _mm512_mask_mov_ps(far[i], _mm512_cmp_ps_mask::<_CMP_LT_OQ>(_mm512_abs_ps(x[i]), all!(0.625)), near[i]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::portable::act;
    use crate::x86::lanes::{LANES, load, store};

    type Function = (&'static str, fn(f32) -> f32, fn([f32; LANES]) -> [f32; LANES]);

    /// A function of registers as one of arrays.
    macro_rules! of_arrays {
        ($name:ident) => {{
            #[target_feature(enable = "avx512f,avx512dq")]
            fn of_array(x: [f32; LANES]) -> [f32; LANES] {
                let mut y = [0.0; LANES];
                let [of_one] = $name([load(&x)]);
                store(&mut y, of_one);
                y
            }
            // SAFETY: the test has asked for the features.
            (stringify!($name), act::$name as fn(f32) -> f32, (|x| unsafe { of_array(x) }) as fn([f32; LANES]) -> [f32; LANES])
        }};
    }

    #[test]
    fn decays_are_exponentials_to_the_bit() {
        if !std::is_x86_feature_detected!("avx512dq") {
            return;
        }
        #[target_feature(enable = "avx512f,avx512dq")]
        fn of_array(x: [f32; LANES]) -> [f32; LANES] {
            let mut y = [0.0; LANES];
            // SAFETY: the features are there.
            unsafe {
                let x: [__m512; 1] = [load(&x)];
                let [of_one] = if are_short(&x) { decays(x) } else { exp([_mm512_xor_ps(x[0], all!(-0.0))]) };
                store(&mut y, of_one);
            }
            y
        }
        // Neighbours have one sign, so that registers are far, near, and at the bound between.
        for first in (0..=u32::MAX).step_by(1_021 * LANES).chain((SHORT.to_bits() - 4_096..SHORT.to_bits() + 4_096).step_by(1)) {
            let x: [f32; LANES] = core::array::from_fn(|i| f32::from_bits(first.wrapping_add(61 * i as u32)));
            // SAFETY: the features were asked for.
            for (x, y) in x.into_iter().zip(unsafe { of_array(x) }) {
                let want = act::exp(-x);
                assert!(y.to_bits() == want.to_bits() || (y.is_nan() && want.is_nan()), "decay({x:e}) = {y:e}, portable {want:e}");
            }
        }
    }

    #[test]
    fn functions_are_the_portable_ones_to_the_bit() {
        if !std::is_x86_feature_detected!("avx512dq") {
            return;
        }
        let functions: [Function; 6] =
            [of_arrays!(exp), of_arrays!(log1p), of_arrays!(softplus), of_arrays!(sigmoid), of_arrays!(silu), of_arrays!(tanh)];
        for (name, portable, lanes) in functions {
            // Every 4,099th float, infinities and both signs among them.
            for first in (0..=u32::MAX).step_by(4_099 * LANES) {
                let x: [f32; LANES] = core::array::from_fn(|i| f32::from_bits(first.wrapping_add(4_099 * i as u32)));
                for (x, y) in x.into_iter().zip(lanes(x)) {
                    let want = portable(x);
                    assert!(y.to_bits() == want.to_bits() || (y.is_nan() && want.is_nan()), "{name}({x:e}) = {y:e}, portable {want:e}");
                }
            }
        }
    }
}
