//! Elementary functions from multiplications, additions, one division and integer steps.
//!
//! The platform's own `expf` differs from machine to machine in its last bits; these do not. Each is written without
//! branches, so the compiler can keep sixteen lanes together. Errors against f64 are stated in `docs/numerics.md` and held by
//! the tests below.

/// 1.5 * 2^23: adding it leaves the nearest integer (ties to even) in the low mantissa bits.
pub(crate) const ROUND: f32 = 12_582_912.0;

#[inline(always)]
fn from_exponent(n: i32) -> f32 {
    f32::from_bits((n.wrapping_add(127) as u32) << 23)
}

/// Nearest integer, ties to even, as `i8`. For |x| <= 127; other numbers give some value, the same one everywhere, and a NaN one that depends
/// on the back-end.
#[inline(always)]
pub fn round_to_i8(x: f32) -> i8 {
    (x + ROUND).to_bits() as i8
}

/// The same as `i16`, for |x| <= 32767.
#[inline(always)]
pub(crate) fn round_to_i16(x: f32) -> i16 {
    (x + ROUND).to_bits() as i16
}

/// e^x. At most 1 ULP from the true value over the whole range, subnormal results included.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    const LOG2_E: f32 = core::f32::consts::LOG2_E;
    // ln 2 in two parts: the high one has so few bits that n * LN2_HI is exact.
    const LN2_HI: f32 = 0.693_359_4;
    const LN2_LO: f32 = -2.121_944_4e-4;
    let x = if x < -104.0 { -104.0 } else { x };
    let x = if x > 89.0 { 89.0 } else { x };
    let shifted = x * LOG2_E + ROUND;
    let n = shifted.to_bits().wrapping_sub(ROUND.to_bits()) as i32;
    let n_f = shifted - ROUND;
    let r = (x - n_f * LN2_HI) - n_f * LN2_LO;
    // Minimax polynomial of (e^r - 1 - r) / r^2 on [-ln2/2, ln2/2] (Cephes, expf).
    let mut p = 1.987_569_1e-4;
    p = p * r + 1.398_199_9e-3;
    p = p * r + 8.333_452e-3;
    p = p * r + 4.166_579_6e-2;
    p = p * r + 1.666_666_5e-1;
    p = p * r + 0.5;
    let e_r = (p * (r * r) + r) + 1.0;
    // 2^n in two factors, so that neither overflows where the product does not.
    let half = n >> 1;
    e_r * from_exponent(half) * from_exponent(n.wrapping_sub(half))
}

/// e^x - 1.
#[inline(always)]
pub fn expm1(x: f32) -> f32 {
    // Where e^x needs no power of two, the same polynomial gives the difference at once.
    let mut p = 1.987_569_1e-4;
    p = p * x + 1.398_199_9e-3;
    p = p * x + 8.333_452e-3;
    p = p * x + 4.166_579_6e-2;
    p = p * x + 1.666_666_5e-1;
    p = p * x + 0.5;
    let near = p * (x * x) + x;
    let far = exp(x) - 1.0;
    if x.abs() < 0.346_573_6 { near } else { far }
}

/// ln(1 + u) for u >= 0.
#[inline(always)]
pub fn log1p(u: f32) -> f32 {
    const SQRT_HALF: u32 = 0x3f35_04f3;
    const LN2_HI: f32 = 6.931_381e-1;
    const LN2_LO: f32 = 9.058_001e-6;
    let w = 1.0 + u;
    // What rounding 1 + u lost.
    let lost = if w >= 2.0 { 1.0 - (w - u) } else { u - (w - 1.0) };
    let bits = w.to_bits().wrapping_sub(SQRT_HALF);
    let k = (bits as i32) >> 23;
    let m = f32::from_bits((bits & 0x007f_ffff).wrapping_add(SQRT_HALF));
    // w = 2^k * (1 + f); ln(1 + f) by the odd series in s = f / (2 + f) (FreeBSD msun, logf).
    let f = m - 1.0;
    let s = f / (2.0 + f);
    let z = s * s;
    let z2 = z * z;
    let r = z2 * (0.400_009_7 + z2 * 0.242_790_8) + z * (0.666_666_6 + z2 * 0.284_987_87);
    let half_f2 = 0.5 * f * f;
    let k_f = f32::from_bits((k as u32).wrapping_add(ROUND.to_bits())) - ROUND;
    s * (half_f2 + r) + (k_f * LN2_LO + lost / w) - half_f2 + f + k_f * LN2_HI
}

/// ln(1 + e^x), with the cut at 20 that the reference implementations have.
#[inline(always)]
pub fn softplus(x: f32) -> f32 {
    let y = log1p(exp(x));
    if x > 20.0 { x } else { y }
}

/// 1 / (1 + e^-x).
#[inline(always)]
pub fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// x * sigmoid(x).
#[inline(always)]
pub fn silu(x: f32) -> f32 {
    x / (1.0 + exp(-x))
}

/// Hyperbolic tangent.
#[inline(always)]
pub fn tanh(x: f32) -> f32 {
    let a = x.abs();
    // Near zero 1 - 2/(e^2a + 1) cancels: odd minimax polynomial (Cephes, tanhf).
    let z = x * x;
    let mut p = -5.704_988_7e-3;
    p = p * z + 2.063_909e-2;
    p = p * z - 5.373_971_6e-2;
    p = p * z + 1.333_144_2e-1;
    p = p * z - 3.333_328e-1;
    let near = x + x * (z * p);
    let far = (1.0 - 2.0 / (exp(2.0 * a) + 1.0)).copysign(x);
    if a < 0.625 { near } else { far }
}

/// Square root, of zero where x is negative. Correctly rounded everywhere.
#[inline(always)]
pub fn sqrt(x: f32) -> f32 {
    crate::sqrt::sqrt(if x > 0.0 { x } else { 0.0 })
}

/// The error function.
#[inline(always)]
pub fn erf(x: f32) -> f32 {
    let (t, s) = (x.abs(), x * x);
    // Beyond 0.93: 1 - e^p(|x|), p a minimax polynomial.
    let high = -1.728_534_7e-5 * t + 3.831_971_3e-4;
    let low = -3.883_964_4e-3 * t + 2.425_462_2e-2;
    let mut p = high * s + low;
    p = p * t - 1.067_778_8e-1;
    p = p * t - 6.348_468_7e-1;
    p = p * t - 1.287_175_1e-1;
    let far = (1.0 - exp(p * t - t)).copysign(x);
    // Nearer: x + x * q(x^2).
    let mut q = -5.967_617e-4;
    q = q * s + 4.991_194_2e-3;
    q = q * s - 2.676_813_5e-2;
    q = q * s + 1.128_199_25e-1;
    q = q * s - 3.761_253_3e-1;
    q = q * s + 1.283_791_7e-1;
    if t > 0.927_734_4 { far } else { q * x + x }
}

/// `x * Phi(x)` by the error function.
#[inline(always)]
pub fn gelu(x: f32) -> f32 {
    0.5 * x * (1.0 + erf(x * core::f32::consts::FRAC_1_SQRT_2))
}

/// GELU by its tanh formula.
#[inline(always)]
pub fn gelu_tanh(x: f32) -> f32 {
    const SQRT_2_OVER_PI: f32 = 0.797_884_6;
    0.5 * x * (1.0 + tanh(SQRT_2_OVER_PI * (x + 0.044_715 * (x * x * x))))
}

/// sin and cos of `turns / 2^32` of a full turn.
///
/// Angles as fixed-point turns stay exact however long a stream runs; an `f32` angle at position 100,000 would not.
#[inline(always)]
pub fn sin_cos_turns(turns: u32) -> (f32, f32) {
    const RADIANS: f32 = core::f32::consts::TAU / 4_294_967_296.0;
    let quadrant = turns.wrapping_add(1 << 29) >> 30;
    let rest = turns.wrapping_sub(quadrant << 30) as i32;
    let (s, c) = sin_cos_near(rest as f32 * RADIANS); // in [-pi/4, pi/4]
    match quadrant & 3 {
        0 => (s, c),
        1 => (c, -s),
        2 => (-s, -c),
        _ => (-c, s),
    }
}

/// sin and cos of `turns` full turns. The reduction is exact; from 2^20 turns on, where an `f32` has few fractions left, the answer is
/// that of whole turns.
#[inline(always)]
pub fn sin_cos_turn(turns: f32) -> (f32, f32) {
    let turns = if turns.abs() < 1_048_576.0 { turns } else { 0.0 };
    let shifted = turns * 4.0 + ROUND;
    let quadrant = shifted.to_bits();
    let rest = turns - 0.25 * (shifted - ROUND); // in [-1/8, 1/8]
    let x = rest * core::f32::consts::TAU;
    let (s, c) = sin_cos_near(x);
    let (s, c) = if quadrant & 1 == 0 { (s, c) } else { (c, -s) };
    if quadrant & 2 == 0 { (s, c) } else { (-s, -c) }
}

/// sin and cos on [-pi/4, pi/4] (Cephes, sinf and cosf).
#[inline(always)]
fn sin_cos_near(x: f32) -> (f32, f32) {
    let z = x * x;
    let s = ((-1.951_529_6e-4 * z + 8.332_161e-3) * z - 1.666_665_5e-1) * z * x + x;
    let c = ((2.443_315_7e-5 * z - 1.388_731_6e-3) * z + 4.166_664_6e-2) * (z * z) - 0.5 * z + 1.0;
    (s, c)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Distance in units of the last place of the true value.
    fn ulp(got: f32, want: f64) -> f64 {
        let want_f = want as f32;
        let next = f32::from_bits(want_f.abs().to_bits() + 1);
        let unit = (f64::from(next) - f64::from(want_f.abs())).max(1.4e-45);
        ((f64::from(got) - want) / unit).abs()
    }

    /// Worst error over a dense sweep of `[lo, hi]`.
    fn worst(lo: f64, hi: f64, f: impl Fn(f32) -> f32, truth: impl Fn(f64) -> f64) -> f64 {
        let steps = 400_000;
        (0..=steps)
            .map(|i| (lo + (hi - lo) * f64::from(i) / f64::from(steps)) as f32)
            .map(|x| ulp(f(x), truth(f64::from(x))))
            .fold(0.0, f64::max)
    }

    #[test]
    fn errors_stay_within_what_the_docs_state() {
        let e = |x: f64| libm::exp(x);
        // By the nearest half turn, so that it is 0 where it should be.
        let sine = |t: f64| {
            let half_turns = libm::rint(2.0 * t);
            let sign = if half_turns % 2.0 == 0.0 { 1.0 } else { -1.0 };
            sign * libm::sin((t - 0.5 * half_turns) * core::f64::consts::TAU)
        };
        let cases = [
            ("exp", worst(-103.0, 88.7, exp, e), 1.0),
            ("expm1", worst(-20.0, 20.0, expm1, libm::expm1), 4.0),
            ("expm1 near 0", worst(-1.0e-3, 1.0e-3, expm1, libm::expm1), 2.0),
            ("sine of turns", worst(-2.249, 2.249, |t| sin_cos_turn(t).0, sine), 2.0),
            ("cosine of turns", worst(-1000.1, 1000.1, |t| sin_cos_turn(t).1, |t| sine(t + 0.25)), 2.0),
            ("log1p small", worst(0.0, 4.0, log1p, libm::log1p), 1.0),
            ("log1p large", worst(4.0, 4.8e8, log1p, libm::log1p), 1.0),
            ("softplus", worst(-80.0, 40.0, softplus, |x| libm::log1p(e(x))), 2.0),
            ("sigmoid", worst(-80.0, 80.0, sigmoid, |x| 1.0 / (1.0 + e(-x))), 3.0),
            ("silu", worst(-80.0, 80.0, silu, |x| x / (1.0 + e(-x))), 3.0),
            ("tanh", worst(-10.0, 10.0, tanh, libm::tanh), 2.0),
            ("erf", worst(-6.0, 6.0, erf, libm::erf), 2.0),
        ];
        for (name, got, bound) in cases {
            std::println!("{name}: {got:.3} ULP (bound {bound})");
            assert!(got <= bound, "{name}: {got} ULP, bound {bound}");
        }
    }

    #[test]
    fn ends_of_the_range() {
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp(-200.0), 0.0);
        assert_eq!(exp(100.0), f32::INFINITY);
        assert_eq!(exp(0.0), 1.0);
        assert!(exp(f32::NAN).is_nan());
        assert_eq!(softplus(-200.0), 0.0);
        assert_eq!(softplus(50.0), 50.0);
        assert_eq!(log1p(0.0), 0.0);
        assert_eq!(sigmoid(-200.0), 0.0);
        assert_eq!(silu(-200.0), -0.0);
        assert_eq!(tanh(40.0), 1.0);
        assert_eq!(expm1(f32::NEG_INFINITY), -1.0);
        assert_eq!(expm1(1.0e-30), 1.0e-30);
        assert_eq!(sin_cos_turn(f32::INFINITY), (0.0, 1.0));
        assert_eq!(sin_cos_turn(1.25), (1.0, 0.0));
    }

    #[test]
    fn rounding_is_half_to_even() {
        let cases = [(0.5, 0), (1.5, 2), (2.5, 2), (-0.5, 0), (-1.5, -2), (126.5, 126), (-127.0, -127), (0.499_999_97, 0)];
        for (x, want) in cases {
            assert_eq!(round_to_i8(x), want, "{x}");
        }
    }

    #[test]
    fn turns_agree_with_radians() {
        for i in 0..100_000u32 {
            let turns = i.wrapping_mul(42_949_673);
            let (s, c) = sin_cos_turns(turns);
            let angle = f64::from(turns) / 4_294_967_296.0 * core::f64::consts::TAU;
            assert!((f64::from(s) - libm::sin(angle)).abs() < 1.0e-7);
            assert!((f64::from(c) - libm::cos(angle)).abs() < 1.0e-7);
        }
    }
}
