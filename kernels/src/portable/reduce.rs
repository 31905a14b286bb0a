//! Sums over a vector, in the one order every back-end follows.
//!
//! Element `i` goes to partial sum `i mod 16`, in ascending order; then the tree `(i, i+8)`, `(i, i+4)`, `(i, i+2)`,
//! `(i, i+1)`. Sixteen lanes are one AVX-512 register, two of AVX2, four of NEON: none has to wait for another's order.

/// Number of partial sums.
pub const LANES: usize = 16;

/// Adds sixteen partial sums by the fixed tree.
#[inline(always)]
pub fn tree(lanes: [f32; LANES]) -> f32 {
    let eight: [f32; 8] = add_halves(bytemuck::cast(lanes));
    let four: [f32; 4] = add_halves(bytemuck::cast(eight));
    let [even, odd]: [f32; 2] = add_halves(bytemuck::cast(four));
    even + odd
}

/// Adds the upper half of a vector to the lower.
#[inline(always)]
fn add_halves<const N: usize>([low, high]: [[f32; N]; 2]) -> [f32; N] {
    let mut sum = low;
    for (sum, high) in sum.iter_mut().zip(&high) {
        *sum += high;
    }
    sum
}

/// Sum of `term(x)` over `x`.
#[inline(always)]
pub fn sum_of(x: &[f32], term: impl Fn(f32) -> f32) -> f32 {
    let mut lanes = [0.0; LANES];
    let (chunks, rest) = x.as_chunks::<LANES>();
    for chunk in chunks {
        for (lane, &v) in lanes.iter_mut().zip(chunk) {
            *lane += term(v);
        }
    }
    for (lane, &v) in lanes.iter_mut().zip(rest) {
        *lane += term(v);
    }
    tree(lanes)
}

/// Sum of `a[i] * term(b[i])` over the shorter of the two.
#[inline(always)]
pub fn dot<B: Copy>(a: &[f32], b: &[B], term: impl Fn(B) -> f32) -> f32 {
    let mut lanes = [0.0; LANES];
    let (a_chunks, a_rest) = a.as_chunks::<LANES>();
    let (b_chunks, b_rest) = b.as_chunks::<LANES>();
    for (a, b) in a_chunks.iter().zip(b_chunks) {
        for i in 0..LANES {
            lanes[i] += a[i] * term(b[i]);
        }
    }
    for ((lane, &a), &b) in lanes.iter_mut().zip(a_rest).zip(b_rest) {
        *lane += a * term(b);
    }
    tree(lanes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_follow_the_sixteen_lane_order() {
        // 2^24 + 1 is not an f32: the order of additions shows in the result.
        let mut x = [0.0f32; 18];
        x[0] = 16_777_216.0;
        x[16] = 1.0; // same lane as x[0]: lost
        x[8] = 1.0; // joined to lane 0 by the first level of the tree: lost too
        x[1] = 3.0; // joined last
        assert_eq!(sum_of(&x, |v| v), 16_777_220.0);
    }
}
