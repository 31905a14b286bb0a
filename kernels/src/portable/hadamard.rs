//! The Walsh-Hadamard transform: spreads what is in one number over a whole block.

/// Replaces each block of `x` by `scale * H * block`, with H(i, j) = -1 where `i & j` has an odd number of ones, else 1.
///
/// `block` is a power of two. Butterflies of width 1 come first, then 2, 4, ..; a last, partial block stays as it is.
#[inline(always)]
pub(crate) fn hadamard(x: &mut [f32], block: usize, scale: f32) {
    for x in x.chunks_exact_mut(block.max(1)) {
        let mut half = 1;
        while half < x.len() {
            for pair in x.chunks_exact_mut(2 * half) {
                let Some((a, b)) = pair.split_at_mut_checked(half) else { return };
                for (a, b) in a.iter_mut().zip(b) {
                    (*a, *b) = (*a + *b, *a - *b);
                }
            }
            half *= 2;
        }
        for v in x.iter_mut() {
            *v *= scale;
        }
    }
}
