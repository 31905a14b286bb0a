//! One step of diagonal state-space models (S4D, S5, Hyena's poles): complex modes that do not see each other.

use super::act::{expm1, sin_cos_turn};
use super::reduce::LANES;
use super::scan::{load, store};
use crate::table::{DiagSsm, Stepping};

/// `s[n][h] <- s + e (s + x[h])`, or `s + e s + x[h]`, see [`Stepping`]; `y[h] = Re(sum_n c[n][h] s[n][h]) + d[h] x[h]`, or
/// the states themselves without `c`.
///
/// The factor of a step is `1 + e`: a slow mode's is so near to 1 that an `f32` of it would lose what makes it slow.
#[inline(always)]
pub(crate) fn diag_step(ssm: &DiagSsm<'_>, state: &mut [f32], y: &mut [f32]) {
    match ssm.stepping {
        Stepping::Fixed => step::<false>(ssm, state, y, |re, im| (re, im)),
        Stepping::Hold => step::<true>(ssm, state, y, |re, im| exp_minus_one(re * ssm.gap, im * ssm.gap)),
        Stepping::Bilinear => step::<true>(ssm, state, y, |re, im| bilinear_minus_one(re * ssm.gap, im * ssm.gap)),
        Stepping::Impulse => step::<false>(ssm, state, y, |re, im| exp_minus_one(re * ssm.gap, im * ssm.gap)),
    }
}

/// Channels lie in lanes, modes run in ascending order. `HELD`: the input is what the state decays to.
#[inline(always)]
fn step<const HELD: bool>(ssm: &DiagSsm<'_>, state: &mut [f32], y: &mut [f32], factor: impl Fn(f32, f32) -> (f32, f32)) {
    let channels = ssm.channels;
    let modes = ssm.a.len() / (2 * channels).max(1);
    let mut at = 0;
    while at < channels {
        let x_re = load(ssm.x, at, channels);
        let x_im = if ssm.x.len() > channels { load(ssm.x, channels + at, 2 * channels) } else { [0.0; LANES] };
        let mut sum = [0.0; LANES];
        for mode in 0..modes {
            let (re, im) = (2 * mode * channels, (2 * mode + 1) * channels);
            let (a_re, a_im) = (load(ssm.a, re + at, re + channels), load(ssm.a, im + at, im + channels));
            let (mut s_re, mut s_im) = (load(state, re + at, re + channels), load(state, im + at, im + channels));
            for i in 0..LANES {
                let (e_re, e_im) = factor(a_re[i], a_im[i]);
                let (t_re, t_im) = if HELD { (s_re[i] + x_re[i], s_im[i] + x_im[i]) } else { (s_re[i], s_im[i]) };
                s_re[i] += e_re * t_re - e_im * t_im;
                s_im[i] += e_re * t_im + e_im * t_re;
                if !HELD {
                    s_re[i] += x_re[i];
                    s_im[i] += x_im[i];
                }
            }
            store(state, re + at, re + channels, s_re);
            store(state, im + at, im + channels, s_im);
            match ssm.c {
                Some(c) => {
                    let (c_re, c_im) = (load(c, re + at, re + channels), load(c, im + at, im + channels));
                    for i in 0..LANES {
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
                for i in 0..LANES {
                    sum[i] += d[i] * x_re[i];
                }
            }
            store(y, at, channels, sum);
        }
        at += LANES;
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
