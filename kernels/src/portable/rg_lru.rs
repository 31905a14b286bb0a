//! One step of the real-gated linear recurrent unit (Griffin, equations 1 to 4).

use super::act::{exp, sigmoid, tanh};
use crate::sqrt::sqrt;
use crate::table::RgLru;

/// `a = exp(decay * sigmoid(recurrence_gate))`, `h <- a * h + sqrt(1 - a^2) * sigmoid(input_gate) * x`, `x <- h`.
///
/// The first step of a stream takes its input whole: without the root.
#[inline(always)]
pub(crate) fn rg_lru_step(unit: &RgLru<'_>, h: &mut [f32], x: &mut [f32]) {
    let gates = unit.input_gate.iter().zip(unit.recurrence_gate).zip(unit.decay);
    for ((h, x), ((&input, &recurrence), &decay)) in h.iter_mut().zip(x).zip(gates) {
        let log_a = decay * sigmoid(recurrence);
        // 1 - a^2 = 2t / (1 + t) with t = tanh(-ln a): nothing cancels where a is close to 1.
        let t = tanh(-log_a);
        let share = if unit.is_first { 1.0 } else { sqrt(2.0 * t / (1.0 + t)) };
        *h = exp(log_a) * *h + share * (sigmoid(input) * *x);
        *x = *h;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_stream_stays_close_to_f64() {
        // From a state that fades at once to one that hardly fades at all.
        let decay = [-20.0, -5.0, -0.5, -1e-2, -1e-4, -1e-6, 0.0f32];
        let (mut h, mut truth) = ([0.0; 7], [0.0f64; 7]);
        for step in 0..2000u32 {
            let gate = |salt: u32| [(step.wrapping_mul(2_654_435_761).wrapping_add(salt) >> 20) as f32 / 512.0 - 4.0; 7];
            let (input_gate, recurrence_gate, mut x) = (gate(1 << 30), gate(3 << 28), gate(0));
            for i in 0..7 {
                let sigmoid = |x: f32| 1.0 / (1.0 + libm::exp(-f64::from(x)));
                let log_a = f64::from(decay[i]) * sigmoid(recurrence_gate[i]);
                let share = if step == 0 { 1.0 } else { libm::sqrt(-libm::expm1(2.0 * log_a)) };
                truth[i] = libm::exp(log_a) * truth[i] + share * sigmoid(input_gate[i]) * f64::from(x[i]);
            }
            let unit = RgLru { input_gate: &input_gate, recurrence_gate: &recurrence_gate, decay: &decay, is_first: step == 0 };
            rg_lru_step(&unit, &mut h, &mut x);
            assert_eq!(x, h);
            for (h, truth) in h.iter().zip(truth) {
                assert!((f64::from(*h) - truth).abs() < 2e-5, "step {step}: {h}, in f64 {truth}");
            }
        }
    }
}
