//! The elementary functions of [`crate::portable::act`] on eight lanes, step for step.
//!
//! Each is one long chain of steps, and a processor looks ahead over few chains that stand behind each other: so they take several
//! registers and do every step for all of them.

use super::lanes::{LANES, load, store};
use crate::portable::act;
use core::arch::x86_64::*;
use core::f32::consts::LOG2_E;

/// One number in every lane.
macro_rules! all {
    ($x:expr) => {
        _mm256_set1_ps($x)
    };
}

/// One step for each register.
macro_rules! each {
    ($i:ident < $k:ident: $step:expr) => {{
        let mut out = [_mm256_setzero_ps(); $k];
        for $i in 0..$k {
            out[$i] = $step;
        }
        out
    }};
}
pub(super) use each;

/// e^x for x between the bounds. Its power of two 2^n is the product of 2^(n + BY) and 2^-BY. Where the first is a normal number, and that is what
/// callers see to, its product with a number near 1 is exact, so that rounding once by the second is what the portable two factors do. A NaN stays.
#[inline]
#[target_feature(enable = "avx2")]
fn exp_by<const BY: i32, const K: usize>(x: [__m256; K]) -> [__m256; K] {
    // 1.5 * 2^23 + BY + 127: adding it leaves the nearest integer in the low bits, ties to even as it is even itself, and with it the exponent of the
    // first factor.
    const { assert!((BY + 127) % 2 == 0) };
    let round = all!(12_582_912.0 + (BY + 127) as f32);
    let shifted = each!(i < K: _mm256_add_ps(_mm256_mul_ps(x[i], all!(LOG2_E)), round));
    let n = each!(i < K: _mm256_sub_ps(shifted[i], round));
    let r = each!(i < K: _mm256_sub_ps(x[i], _mm256_mul_ps(n[i], all!(0.693_359_4))));
    let r = each!(i < K: _mm256_sub_ps(r[i], _mm256_mul_ps(n[i], all!(-2.121_944_4e-4))));
    let mut p = [all!(1.987_569_1e-4); K];
    for coefficient in [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5] {
        p = each!(i < K: _mm256_add_ps(_mm256_mul_ps(p[i], r[i]), all!(coefficient)));
    }
    let p = each!(i < K: _mm256_mul_ps(p[i], _mm256_mul_ps(r[i], r[i])));
    let e_r = each!(i < K: _mm256_add_ps(_mm256_add_ps(p[i], r[i]), all!(1.0)));
    let power = each!(i < K: _mm256_castsi256_ps(_mm256_slli_epi32::<23>(_mm256_castps_si256(shifted[i]))));
    let rest = all!(f32::from_bits(((127 - BY) as u32) << 23));
    each!(i < K: _mm256_mul_ps(_mm256_mul_ps(e_r[i], power[i]), rest))
}

/// Up to here [`exp_low`] is e^x: the larger power of two that it makes there is 2^(62 + 63).
const HIGH: f32 = 43.0;

/// See [`act::exp`]. It expects decays: what is above [`HIGH`] takes long.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn exp<const K: usize>(x: [__m256; K]) -> [__m256; K] {
    // As integers, what is below zero is below what is not, and a NaN above all numbers or below.
    let mut largest = _mm256_castps_si256(x[0]);
    for i in 1..K {
        largest = _mm256_max_epi32(largest, _mm256_castps_si256(x[i]));
    }
    let is_high = _mm256_cmpgt_epi32(largest, _mm256_set1_epi32(HIGH.to_bits() as i32));
    if _mm256_testz_si256(is_high, is_high) == 1 { exp_low(x) } else { exp_of_any(x) }
}

#[cold]
#[inline(never)]
#[target_feature(enable = "avx2")]
fn exp_of_any<const K: usize>(x: [__m256; K]) -> [__m256; K] {
    each!(i < K: {
        let mut lanes = [0.0; LANES];
        store(&mut lanes, x[i]);
        load(&lanes.map(act::exp))
    })
}

/// [`act::exp`] for x up to [`HIGH`]; of more it makes anything.
#[inline]
#[target_feature(enable = "avx2")]
fn exp_low<const K: usize>(x: [__m256; K]) -> [__m256; K] {
    // A NaN is in the second place, and stays. n is -150 or more.
    exp_by::<63, K>(each!(i < K: _mm256_max_ps(all!(-104.0), x[i])))
}

/// 1 + e^x. From -64 on down that is 1.
#[inline]
#[target_feature(enable = "avx2")]
fn one_and_exp<const K: usize>(x: [__m256; K]) -> [__m256; K] {
    // n is from -92 to 128.
    let e = exp_by::<-33, K>(each!(i < K: _mm256_min_ps(all!(89.0), _mm256_max_ps(all!(-64.0), x[i]))));
    each!(i < K: _mm256_add_ps(all!(1.0), e[i]))
}

/// See [`act::log1p`].
#[inline]
#[target_feature(enable = "avx2")]
fn log1p<const K: usize>(u: [__m256; K]) -> [__m256; K] {
    let one = all!(1.0);
    let sqrt_half = _mm256_set1_epi32(0x3f35_04f3);
    let w = each!(i < K: _mm256_add_ps(one, u[i]));
    // What rounding 1 + u lost.
    let lost = each!(i < K: {
        let is_large = _mm256_cmp_ps::<_CMP_GE_OQ>(w[i], all!(2.0));
        let of_small = _mm256_sub_ps(u[i], _mm256_sub_ps(w[i], one));
        _mm256_blendv_ps(of_small, _mm256_sub_ps(one, _mm256_sub_ps(w[i], u[i])), is_large)
    });
    let share = each!(i < K: _mm256_div_ps(lost[i], w[i]));
    let bits = each!(i < K: _mm256_castsi256_ps(_mm256_sub_epi32(_mm256_castps_si256(w[i]), sqrt_half)));
    let k = each!(i < K: _mm256_cvtepi32_ps(_mm256_srai_epi32::<23>(_mm256_castps_si256(bits[i]))));
    let f = each!(i < K: {
        let m = _mm256_and_si256(_mm256_castps_si256(bits[i]), _mm256_set1_epi32(0x007f_ffff));
        _mm256_sub_ps(_mm256_castsi256_ps(_mm256_add_epi32(m, sqrt_half)), one)
    });
    let s = each!(i < K: _mm256_div_ps(f[i], _mm256_add_ps(all!(2.0), f[i])));
    let r = each!(i < K: {
        let z = _mm256_mul_ps(s[i], s[i]);
        let z2 = _mm256_mul_ps(z, z);
        let even = _mm256_mul_ps(z2, _mm256_add_ps(all!(0.400_009_7), _mm256_mul_ps(z2, all!(0.242_790_8))));
        let odd = _mm256_mul_ps(z, _mm256_add_ps(all!(0.666_666_6), _mm256_mul_ps(z2, all!(0.284_987_87))));
        _mm256_add_ps(even, odd)
    });
    each!(i < K: {
        let half_f2 = _mm256_mul_ps(_mm256_mul_ps(all!(0.5), f[i]), f[i]);
        let low = _mm256_add_ps(_mm256_mul_ps(k[i], all!(9.058_001e-6)), share[i]);
        let sum = _mm256_add_ps(_mm256_mul_ps(s[i], _mm256_add_ps(half_f2, r[i])), low);
        let sum = _mm256_add_ps(_mm256_sub_ps(sum, half_f2), f[i]);
        _mm256_add_ps(sum, _mm256_mul_ps(k[i], all!(6.931_381e-1)))
    })
}

/// See [`act::softplus`].
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn softplus<const K: usize>(x: [__m256; K]) -> [__m256; K] {
    let y = log1p(exp_low(x));
    each!(i < K: _mm256_blendv_ps(y[i], x[i], _mm256_cmp_ps::<_CMP_GT_OQ>(x[i], all!(20.0))))
}

/// See [`act::sigmoid`].
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn sigmoid<const K: usize>(x: [__m256; K]) -> [__m256; K] {
    let divisor = one_and_exp(each!(i < K: _mm256_xor_ps(x[i], all!(-0.0))));
    each!(i < K: _mm256_div_ps(all!(1.0), divisor[i]))
}

/// See [`act::silu`].
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn silu<const K: usize>(x: [__m256; K]) -> [__m256; K] {
    let divisor = one_and_exp(each!(i < K: _mm256_xor_ps(x[i], all!(-0.0))));
    each!(i < K: _mm256_div_ps(x[i], divisor[i]))
}

/// See [`act::tanh`].
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn tanh<const K: usize>(x: [__m256; K]) -> [__m256; K] {
    let sign = all!(-0.0);
    let a = each!(i < K: _mm256_andnot_ps(sign, x[i]));
    let z = each!(i < K: _mm256_mul_ps(x[i], x[i]));
    let mut p = [all!(-5.704_988_7e-3); K];
    for coefficient in [2.063_909e-2, -5.373_971_6e-2, 1.333_144_2e-1, -3.333_328e-1] {
        p = each!(i < K: _mm256_add_ps(_mm256_mul_ps(p[i], z[i]), all!(coefficient)));
    }
    let near = each!(i < K: _mm256_add_ps(x[i], _mm256_mul_ps(x[i], _mm256_mul_ps(z[i], p[i]))));
    let divisor = one_and_exp(each!(i < K: _mm256_mul_ps(all!(2.0), a[i])));
    each!(i < K: {
        let far = _mm256_sub_ps(all!(1.0), _mm256_div_ps(all!(2.0), divisor[i]));
        let far = _mm256_or_ps(_mm256_andnot_ps(sign, far), _mm256_and_ps(sign, x[i]));
        _mm256_blendv_ps(far, near[i], _mm256_cmp_ps::<_CMP_LT_OQ>(a[i], all!(0.625)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    type Function = (&'static str, fn(f32) -> f32, fn([f32; LANES]) -> [f32; LANES]);

    /// A function of registers as one of arrays.
    macro_rules! of_arrays {
        ($portable:expr, $name:ident) => {{
            #[target_feature(enable = "avx2")]
            fn of_array(x: [f32; LANES]) -> [f32; LANES] {
                let mut y = [0.0; LANES];
                let [of_one] = $name([load(&x)]);
                store(&mut y, of_one);
                y
            }
            // SAFETY: the test has asked for the feature.
            (stringify!($name), $portable as fn(f32) -> f32, (|x| unsafe { of_array(x) }) as fn([f32; LANES]) -> [f32; LANES])
        }};
    }

    #[test]
    fn functions_are_the_portable_ones_to_the_bit() {
        if !std::is_x86_feature_detected!("avx2") {
            return;
        }
        let functions: [Function; 6] = [
            of_arrays!(act::exp, exp),
            of_arrays!(|x| 1.0 + act::exp(x), one_and_exp),
            of_arrays!(act::softplus, softplus),
            of_arrays!(act::sigmoid, sigmoid),
            of_arrays!(act::silu, silu),
            of_arrays!(act::tanh, tanh),
        ];
        for (name, portable, lanes) in functions {
            // Every 1,021st float, infinities and both signs among them.
            for first in (0..=u32::MAX).step_by(1_021 * LANES) {
                let x: [f32; LANES] = core::array::from_fn(|i| f32::from_bits(first.wrapping_add(1_021 * i as u32)));
                for (x, y) in x.into_iter().zip(lanes(x)) {
                    let want = portable(x);
                    assert!(y.to_bits() == want.to_bits() || (y.is_nan() && want.is_nan()), "{name}({x:e}) = {y:e}, portable {want:e}");
                }
            }
        }
    }
}
