//! Rotary position embedding, pairs `(i, i + dims/2)` of each head.

use super::act::sin_cos_turns;
use crate::table::Rotary;

/// Rotates the first `2 * turns_per_step.len()` dimensions of every head of `x` by the angle of `position`.
#[inline(always)]
pub(crate) fn rotate(rotary: &Rotary<'_>, x: &mut [f32]) {
    let half = rotary.turns_per_step.len();
    for (i, &turns) in rotary.turns_per_step.iter().enumerate() {
        let (sin, cos) = sin_cos_turns((rotary.position.wrapping_mul(turns) >> 32) as u32);
        for head in x.chunks_exact_mut(rotary.head_dim.max(1)) {
            if let (Some(&a), Some(&b)) = (head.get(i), head.get(i + half)) {
                head[i] = a * cos - b * sin;
                head[i + half] = b * cos + a * sin;
            }
        }
    }
}
