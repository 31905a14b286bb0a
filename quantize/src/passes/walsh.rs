//! The rotation that passes use: random signs, then the Walsh-Hadamard transform of each block. In `f64`, off line.

/// Narrower blocks spread nothing.
const LEAST_BLOCK: usize = 4;

/// The widest block that divides `len`; none if that is narrow.
pub(super) fn block_of(len: usize) -> Option<usize> {
    let block = 1 << len.checked_ilog2().map_or(0, |_| len.trailing_zeros());
    (block >= LEAST_BLOCK).then_some(block)
}

/// Factor that makes the transform of a block its own inverse.
pub(super) fn scale_of(block: usize) -> f32 {
    (block as f64).sqrt().recip() as f32
}

/// An orthogonal matrix of the width `len`.
#[derive(Clone)]
pub(super) struct Rotation {
    /// Signs before the transform, (len).
    signs: Vec<f64>,
    block: usize,
}

impl Rotation {
    /// The transform alone, which the runtime has as an operation.
    pub(super) fn plain(len: usize) -> Option<Self> {
        Some(Rotation { signs: vec![1.0; len], block: block_of(len)? })
    }

    /// With reproducible random signs, so that numbers that are alike in a whole block do not end up in one.
    pub(super) fn random(len: usize) -> Option<Self> {
        let mut x = 0x2545_f491_4f6c_dd1d_u64 ^ len as u64;
        let mut sign = || {
            // xorshift64
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            if x >> 63 == 0 { 1.0 } else { -1.0 }
        };
        Some(Rotation { block: block_of(len)?, signs: (0..len).map(|_| sign()).collect() })
    }

    /// Rotates vectors that lie one behind the other.
    pub(super) fn rows(&self, vectors: &mut [f32]) {
        let scale = (self.block as f64).sqrt().recip();
        let mut wide = vec![0.0; self.signs.len()];
        for vector in vectors.chunks_exact_mut(self.signs.len()) {
            wide.iter_mut().zip(&*vector).zip(&self.signs).for_each(|((wide, &x), sign)| *wide = f64::from(x) * sign * scale);
            wide.chunks_exact_mut(self.block).for_each(|block| butterflies(block, 1));
            vector.iter_mut().zip(&wide).for_each(|(x, &wide)| *x = wide as f32);
        }
    }

    /// Rotates the columns of a matrix (len, cols).
    pub(super) fn columns(&self, matrix: &mut [f32], cols: usize) {
        let scale = (self.block as f64).sqrt().recip();
        let mut signs = self.signs.iter();
        let mut wide = vec![0.0; self.block * cols];
        for block in matrix.chunks_exact_mut(self.block * cols) {
            let signs = signs.by_ref().take(self.block).flat_map(|&sign| std::iter::repeat_n(sign, cols));
            wide.iter_mut().zip(&*block).zip(signs).for_each(|((wide, &x), sign)| *wide = f64::from(x) * sign * scale);
            butterflies(&mut wide, cols);
            block.iter_mut().zip(&wide).for_each(|(x, &wide)| *x = wide as f32);
        }
    }
}

/// The transform of a block of a power of two many entries, each `width` numbers side by side.
fn butterflies(block: &mut [f64], width: usize) {
    let mut half = width;
    while half < block.len() {
        for pair in block.chunks_exact_mut(2 * half) {
            let (a, b) = pair.split_at_mut(half);
            for (a, b) in a.iter_mut().zip(b) {
                (*a, *b) = (*a + *b, *a - *b);
            }
        }
        half *= 2;
    }
}

#[cfg(test)]
mod tests {
    use super::{Rotation, block_of};

    #[test]
    fn blocks_are_the_widest_powers_of_two() {
        assert_eq!([512, 768, 96, 40, 7, 0].map(block_of), [Some(512), Some(256), Some(32), Some(8), None, None]);
    }

    #[test]
    fn lengths_and_angles_stay() {
        let rotation = Rotation::random(96).unwrap();
        let [mut a, mut b] = [3, 7].map(|step| (0..96).map(|i| ((i * step) as f32).sin()).collect::<Vec<f32>>());
        let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
        let before = [dot(&a, &a), dot(&a, &b)];
        rotation.rows(&mut a);
        rotation.rows(&mut b);
        let after = [dot(&a, &a), dot(&a, &b)];
        assert!(before.iter().zip(after).all(|(before, after)| (before - after).abs() < 1e-3), "{before:?} {after:?}");
    }

    #[test]
    fn columns_turn_as_rows_do() {
        let rotation = Rotation::random(32).unwrap();
        let matrix: Vec<f32> = (0..32 * 3).map(|i| (i as f32 * 0.7).cos()).collect();
        let mut turned = matrix.clone();
        rotation.columns(&mut turned, 3);
        for col in 0..3 {
            let mut column: Vec<f32> = (0..32).map(|row| matrix[row * 3 + col]).collect();
            rotation.rows(&mut column);
            assert!((0..32).all(|row| column[row] == turned[row * 3 + col]));
        }
    }
}
