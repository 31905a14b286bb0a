//! One step of diagonal state-space models (S4D, S5, Hyena's poles): complex modes that do not see each other.

use super::act::{expm1, sin_cos_turn};
use super::scan::{WIDTH, load, store};
use crate::table::{DiagSsm, Stepping};

/// `s[n][h] <- s + e (s + x[h])`, or `s + e s + x[h]`, see [`Stepping`]; `y[h] = Re(sum_n c[n][h] s[n][h]) + d[h] x[h]`, or
/// the states themselves without `c`.
///
/// The factor of a step is `1 + e`: a slow mode's is so near to 1 that an `f32` of it would lose what makes it slow.
#[inline(always)]
pub(crate) fn diag_step(ssm: &DiagSsm<'_>, state: &mut [f32], y: &mut [f32]) {
    match ssm.stepping {
        Stepping::Fixed => step(ssm, state, y, false, |re, im| (re, im)),
        Stepping::Bilinear => step(ssm, state, y, true, |re, im| bilinear_minus_one(re * ssm.gap, im * ssm.gap)),
        // One copy of the loop for both: it is long.
        Stepping::Hold | Stepping::Impulse => {
            let is_held = ssm.stepping == Stepping::Hold;
            step(ssm, state, y, is_held, |re, im| exp_minus_one(re * ssm.gap, im * ssm.gap));
        }
    }
}

/// Channels lie in lanes, modes run in ascending order. `is_held`: the input is what the state decays to.
#[inline(always)]
fn step(ssm: &DiagSsm<'_>, state: &mut [f32], y: &mut [f32], is_held: bool, factor: impl Fn(f32, f32) -> (f32, f32)) {
    let channels = ssm.channels;
    let modes = ssm.a.len() / (2 * channels).max(1);
    let mut at = 0;
    while at < channels {
        let x_re = load(ssm.x, at, channels);
        let x_im = if ssm.x.len() > channels { load(ssm.x, channels + at, 2 * channels) } else { [0.0; WIDTH] };
        let mut sum = [0.0; WIDTH];
        for mode in 0..modes {
            let (re, im) = (2 * mode * channels, (2 * mode + 1) * channels);
            let (a_re, a_im) = (load(ssm.a, re + at, re + channels), load(ssm.a, im + at, im + channels));
            let (mut s_re, mut s_im) = (load(state, re + at, re + channels), load(state, im + at, im + channels));
            for i in 0..WIDTH {
                let (e_re, e_im) = factor(a_re[i], a_im[i]);
                let (t_re, t_im) = if is_held { (s_re[i] + x_re[i], s_im[i] + x_im[i]) } else { (s_re[i], s_im[i]) };
                s_re[i] += e_re * t_re - e_im * t_im;
                s_im[i] += e_re * t_im + e_im * t_re;
                if !is_held {
                    s_re[i] += x_re[i];
                    s_im[i] += x_im[i];
                }
            }
            store(state, re + at, re + channels, s_re);
            store(state, im + at, im + channels, s_im);
            match ssm.c {
                Some(c) => {
                    let (c_re, c_im) = (load(c, re + at, re + channels), load(c, im + at, im + channels));
                    for i in 0..WIDTH {
                        sum[i] += c_re[i] * s_re[i] - c_im[i] * s_im[i];
                    }
                }
                None => {
                    store(y, re + at, re + channels, s_re);
                    store(y, im + at, im + channels, s_im);
                }
            }
        }
        if ssm.c.is_some() {
            if let Some(d) = ssm.d {
                let d = load(d, at, channels);
                for i in 0..WIDTH {
                    sum[i] += d[i] * x_re[i];
                }
            }
            store(y, at, channels, sum);
        }
        at += WIDTH;
    }
}

/// `e^(re + 2 pi i turns) - 1`, without the cancellation near zero.
#[inline(always)]
fn exp_minus_one(re: f32, turns: f32) -> (f32, f32) {
    let grown = expm1(re);
    let (sin, cos) = sin_cos_turn(0.5 * turns);
    let fallen = 2.0 * sin * sin; // 1 - cos of the whole angle
    (grown * (1.0 - fallen) - fallen, (grown + 1.0) * (2.0 * sin * cos))
}

/// `(1 + z/2) / (1 - z/2) - 1 = z / (1 - z/2)` of `z = re + 2 pi i turns`.
#[inline(always)]
fn bilinear_minus_one(re: f32, turns: f32) -> (f32, f32) {
    // Beyond these the value is -2 to the last bit, and the squares below would overflow.
    let bound = |z: f32| z.clamp(-1.0e15, 1.0e15);
    let (re, im) = (bound(re), bound(turns * core::f32::consts::TAU));
    let (den_re, den_im) = (1.0 - 0.5 * re, -0.5 * im);
    let inverse = 1.0 / (den_re * den_re + den_im * den_im);
    ((re * den_re + im * den_im) * inverse, (im * den_re - re * den_im) * inverse)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Distance of `got` from `want`, over the length of `want`.
    fn off(got: (f32, f32), want: (f64, f64)) -> f64 {
        libm::hypot(f64::from(got.0) - want.0, f64::from(got.1) - want.1) / libm::hypot(want.0, want.1)
    }

    #[test]
    fn factors_are_right_for_slow_and_for_fast_modes() {
        for exponent in -30..8 {
            for turn in [0.0f32, 1.0e-3, 0.1, 0.5, 1.0, 3.0, 20.0] {
                let re = -libm::exp2f(exponent as f32);
                let turns = re * turn;
                let (x, y) = (f64::from(re), f64::from(turns) * core::f64::consts::TAU);
                let fallen = 2.0 * libm::sin(0.5 * y) * libm::sin(0.5 * y);
                let want = (libm::expm1(x) * (1.0 - fallen) - fallen, libm::exp(x) * libm::sin(y));
                let distance = off(exp_minus_one(re, turns), want);
                assert!(distance < 5.0e-7, "exp({x} + {y} i) - 1: {distance:e}");
                let square = (1.0 - 0.5 * x) * (1.0 - 0.5 * x) + 0.25 * y * y;
                let want = ((x * (1.0 - 0.5 * x) - 0.5 * y * y) / square, y / square);
                let distance = off(bilinear_minus_one(re, turns), want);
                assert!(distance < 5.0e-7, "bilinear of {x} + {y} i: {distance:e}");
            }
        }
    }

    #[test]
    fn endless_gaps_leave_the_limit() {
        assert_eq!(exp_minus_one(f32::NEG_INFINITY, f32::INFINITY), (-1.0, 0.0));
        for (re, turns) in [(f32::MIN, 0.0), (f32::MIN, f32::MAX), (-1.0, f32::MAX)] {
            let (re, im) = bilinear_minus_one(re, turns);
            assert!((re + 2.0).abs() < 1.0e-6 && im.abs() < 1.0e-6, "{re} {im}");
        }
    }
}
