//! What the rounding of activations costs by itself: half-float matrices that multiply what quantized ones would. No format of weights
//! changes it but those that take floats.

use brooklet::kernels::quant::{GROUP, Matrix, Weights};
use brooklet::kernels::{self, Activations, KernelTable, RowsMut};
use std::sync::LazyLock;

/// The best kernels there are, with a product that rounds what half-float matrices multiply to 8 bits.
pub(crate) fn rounding() -> &'static KernelTable {
    static TABLE: LazyLock<KernelTable> = LazyLock::new(|| kernels::detect().with_matmul(matmul));
    &TABLE
}

fn matmul(matrix: &Matrix<'_>, x: Activations<'_>, out: RowsMut<'_>) {
    let (Weights::F16(_), Activations::Float { x, stride }) = (&matrix.weights, x) else { return kernels::detect().matmul(matrix, x, out) };
    let rounded: Vec<f32> = x.chunks_exact(stride.max(1)).flat_map(rounded).collect();
    kernels::detect().matmul(matrix, Activations::Float { x: &rounded, stride }, out);
}

/// A vector as a quantized matrix would see it; its length is a multiple of a group's.
fn rounded(x: &[f32]) -> Vec<f32> {
    let groups = x.len().div_ceil(GROUP);
    let (mut codes, mut scales, mut sums) = (vec![0; groups * GROUP], vec![0.0; groups], vec![0; groups]);
    kernels::detect().quantize_activations(x, &mut codes, &mut scales, &mut sums);
    codes.iter().zip(0..x.len()).map(|(&code, i)| f32::from(code) * scales[i / GROUP]).collect()
}

#[cfg(test)]
mod tests {
    use super::rounded;

    #[test]
    fn every_group_is_rounded_to_its_largest() {
        let x: Vec<f32> = (0..64).map(|i| if i < 32 { i as f32 / 31.0 } else { 1000.0 * (i - 40) as f32 }).collect();
        let rounded = rounded(&x);
        assert_eq!(rounded.len(), 64);
        for (group, largest) in [(0..32, 1.0f32), (32..64, 23_000.0)] {
            assert!(group.clone().all(|i| (rounded[i] - x[i]).abs() <= 0.501 * largest / 127.0));
            assert!(group.into_iter().any(|i| rounded[i] != x[i]));
        }
    }
}
