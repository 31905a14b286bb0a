//! One step of the real-gated linear recurrent unit (Griffin, equations 1 to 4).

use super::act::{exp, sigmoid, tanh};
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
        // libm's square root is correctly rounded everywhere.
        let share = if unit.is_first { 1.0 } else { libm::sqrtf(2.0 * t / (1.0 + t)) };
        *h = exp(log_a) * *h + share * (sigmoid(input) * *x);
        *x = *h;
    }
}
