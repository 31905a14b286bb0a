//! The elementary functions of [`crate::portable::act`] on sixteen lanes, step for step.

use core::arch::x86_64::*;
use core::f32::consts::LOG2_E;

/// One number in every lane.
macro_rules! all {
    ($x:expr) => {
        _mm512_set1_ps($x)
    };
}

/// See [`crate::portable::act::exp`]; one instruction scales by the power of two, which rounds as the portable two factors do: the
/// first of them is always exact.
#[inline]
#[target_feature(enable = "avx512f,avx512dq")]
pub(super) fn exp(x: __m512) -> __m512 {
    let [e] = exps([x]);
    e
}

/// Several [`exp`] side by side: each is one long chain of steps, and the processor looks ahead over few chains behind each other.
#[inline]
#[target_feature(enable = "avx512f,avx512dq")]
pub(super) fn exps<const K: usize>(mut x: [__m512; K]) -> [__m512; K] {
    let round = all!(12_582_912.0);
    for x in &mut x {
        // A NaN is in the second place, and stays.
        *x = _mm512_min_ps(all!(89.0), _mm512_max_ps(all!(-104.0), *x));
    }
    let mut n = x;
    for n in &mut n {
        *n = _mm512_add_ps(_mm512_mul_ps(*n, all!(LOG2_E)), round);
    }
    for n in &mut n {
        *n = _mm512_sub_ps(*n, round);
    }
    let mut r = x;
    for i in 0..K {
        r[i] = _mm512_sub_ps(r[i], _mm512_mul_ps(n[i], all!(0.693_359_4)));
    }
    for i in 0..K {
        r[i] = _mm512_sub_ps(r[i], _mm512_mul_ps(n[i], all!(-2.121_944_4e-4)));
    }
    let mut p = [all!(1.987_569_1e-4); K];
    for coefficient in [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5] {
        for i in 0..K {
            p[i] = _mm512_add_ps(_mm512_mul_ps(p[i], r[i]), all!(coefficient));
        }
    }
    for i in 0..K {
        p[i] = _mm512_mul_ps(p[i], _mm512_mul_ps(r[i], r[i]));
    }
    for i in 0..K {
        p[i] = _mm512_add_ps(_mm512_add_ps(p[i], r[i]), all!(1.0));
    }
    for i in 0..K {
        p[i] = _mm512_scalef_ps(p[i], n[i]);
    }
    p
}

/// See [`crate::portable::act::log1p`].
#[inline]
#[target_feature(enable = "avx512f,avx512dq")]
pub(super) fn log1p(u: __m512) -> __m512 {
    let one = all!(1.0);
    let sqrt_half = _mm512_set1_epi32(0x3f35_04f3);
    let w = _mm512_add_ps(one, u);
    // What rounding 1 + u lost.
    let is_large = _mm512_cmp_ps_mask::<_CMP_GE_OQ>(w, all!(2.0));
    let lost = _mm512_sub_ps(u, _mm512_sub_ps(w, one));
    let lost = _mm512_mask_sub_ps(lost, is_large, one, _mm512_sub_ps(w, u));
    let bits = _mm512_sub_epi32(_mm512_castps_si512(w), sqrt_half);
    let k = _mm512_cvtepi32_ps(_mm512_srai_epi32::<23>(bits));
    let m = _mm512_add_epi32(_mm512_and_si512(bits, _mm512_set1_epi32(0x007f_ffff)), sqrt_half);
    let f = _mm512_sub_ps(_mm512_castsi512_ps(m), one);
    let s = _mm512_div_ps(f, _mm512_add_ps(all!(2.0), f));
    let z = _mm512_mul_ps(s, s);
    let z2 = _mm512_mul_ps(z, z);
    let even = _mm512_mul_ps(z2, _mm512_add_ps(all!(0.400_009_7), _mm512_mul_ps(z2, all!(0.242_790_8))));
    let odd = _mm512_mul_ps(z, _mm512_add_ps(all!(0.666_666_6), _mm512_mul_ps(z2, all!(0.284_987_87))));
    let r = _mm512_add_ps(even, odd);
    let half_f2 = _mm512_mul_ps(_mm512_mul_ps(all!(0.5), f), f);
    let low = _mm512_add_ps(_mm512_mul_ps(k, all!(9.058_001e-6)), _mm512_div_ps(lost, w));
    let sum = _mm512_add_ps(_mm512_mul_ps(s, _mm512_add_ps(half_f2, r)), low);
    let sum = _mm512_add_ps(_mm512_sub_ps(sum, half_f2), f);
    _mm512_add_ps(sum, _mm512_mul_ps(k, all!(6.931_381e-1)))
}

/// See [`crate::portable::act::softplus`].
#[inline]
#[target_feature(enable = "avx512f,avx512dq")]
pub(super) fn softplus(x: __m512) -> __m512 {
    let y = log1p(exp(x));
    _mm512_mask_mov_ps(y, _mm512_cmp_ps_mask::<_CMP_GT_OQ>(x, all!(20.0)), x)
}

/// 1 + e^-x.
#[inline]
#[target_feature(enable = "avx512f,avx512dq")]
fn one_and_exp_of_minus(x: __m512) -> __m512 {
    _mm512_add_ps(all!(1.0), exp(_mm512_xor_ps(x, all!(-0.0))))
}

/// See [`crate::portable::act::sigmoid`].
#[inline]
#[target_feature(enable = "avx512f,avx512dq")]
pub(super) fn sigmoid(x: __m512) -> __m512 {
    _mm512_div_ps(all!(1.0), one_and_exp_of_minus(x))
}

/// See [`crate::portable::act::silu`].
#[inline]
#[target_feature(enable = "avx512f,avx512dq")]
pub(super) fn silu(x: __m512) -> __m512 {
    _mm512_div_ps(x, one_and_exp_of_minus(x))
}

/// See [`crate::portable::act::tanh`].
#[inline]
#[target_feature(enable = "avx512f,avx512dq")]
pub(super) fn tanh(x: __m512) -> __m512 {
    let a = _mm512_abs_ps(x);
    let z = _mm512_mul_ps(x, x);
    let mut p = all!(-5.704_988_7e-3);
    for coefficient in [2.063_909e-2, -5.373_971_6e-2, 1.333_144_2e-1, -3.333_328e-1] {
        p = _mm512_add_ps(_mm512_mul_ps(p, z), all!(coefficient));
    }
    let near = _mm512_add_ps(x, _mm512_mul_ps(x, _mm512_mul_ps(z, p)));
    let e = _mm512_add_ps(exp(_mm512_mul_ps(all!(2.0), a)), all!(1.0));
    let far = _mm512_sub_ps(all!(1.0), _mm512_div_ps(all!(2.0), e));
    let sign = all!(-0.0);
    let far = _mm512_or_ps(_mm512_andnot_ps(sign, far), _mm512_and_ps(sign, x));
    _mm512_mask_mov_ps(far, _mm512_cmp_ps_mask::<_CMP_LT_OQ>(a, all!(0.625)), near)
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
                store(&mut y, $name(load(&x)));
                y
            }
            // SAFETY: the test has asked for the features.
            (stringify!($name), act::$name as fn(f32) -> f32, (|x| unsafe { of_array(x) }) as fn([f32; LANES]) -> [f32; LANES])
        }};
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
