use super::*;
use proptest::prelude::*;
use std::vec;
use std::vec::Vec;

/// A few odd shapes and the even ones around them.
fn shapes() -> impl Strategy<Value = (usize, usize)> {
    (1usize..40, 1usize..100)
}

/// 64-byte aligned bytes, as in a mapped file.
fn aligned(len: usize) -> Vec<[u64; 8]> {
    vec![[0u64; 8]; len.div_ceil(64)]
}

fn unpack_all(matrix: &Matrix<'_>) -> Vec<f32> {
    let mut all = vec![f32::NAN; matrix.rows * matrix.cols];
    for (row, out) in all.chunks_mut(matrix.cols).enumerate() {
        matrix.unpack_row(row, out);
    }
    all
}

/// Reproducible numbers: a multiplicative hash of the position.
fn noise(seed: usize, i: usize) -> u32 {
    ((seed as u32).wrapping_add(i as u32)).wrapping_mul(2_654_435_761).rotate_left(13).wrapping_mul(0x85eb_ca6b)
}

proptest! {
    #[test]
    fn floats_come_back_as_they_were((rows, cols) in shapes(), seed in 0usize..1000) {
        let weight = |r: usize, c: usize| (noise(seed, r * cols + c) as i32 as f32) / 1.0e9;
        let len = Format::F32.matrix_bytes(rows, cols).unwrap();
        let mut lines = aligned(len);
        let bytes = &mut bytemuck::cast_slice_mut(&mut lines)[..len];
        pack_f32(rows, cols, weight, bytes);
        let got = unpack_all(&Matrix::from_bytes(Format::F32, rows, cols, bytes).unwrap());
        for (i, got) in got.iter().enumerate() {
            prop_assert_eq!(*got, weight(i / cols, i % cols));
        }
        let len = Format::F16.matrix_bytes(rows, cols).unwrap();
        let mut lines = aligned(len);
        let bytes = &mut bytemuck::cast_slice_mut(&mut lines)[..len];
        pack_f16(rows, cols, weight, bytes);
        let got = unpack_all(&Matrix::from_bytes(Format::F16, rows, cols, bytes).unwrap());
        for (i, got) in got.iter().enumerate() {
            prop_assert_eq!(*got, half::f16::from_f32(weight(i / cols, i % cols)).to_f32());
        }
    }

    #[test]
    fn q8_codes_and_scales_land_where_they_are_read((rows, cols) in shapes(), seed in 0usize..1000) {
        let code = |r: usize, c: usize| (noise(seed, r * cols + c) % 255) as i32 as i8;
        let sub = |r: usize, g: usize| (noise(seed + 1, r * 64 + g) % 255) as i32 as i8;
        let scale = |r: usize| 1.0 / (r + 1) as f32;
        let len = Format::Q8.matrix_bytes(rows, cols).unwrap();
        let mut lines = aligned(len);
        let bytes = &mut bytemuck::cast_slice_mut(&mut lines)[..len];
        pack_q8(rows, cols, scale, sub, code, bytes);
        let got = unpack_all(&Matrix::from_bytes(Format::Q8, rows, cols, bytes).unwrap());
        for (i, got) in got.iter().enumerate() {
            let (r, c) = (i / cols, i % cols);
            prop_assert_eq!(*got, (i32::from(code(r, c)) * i32::from(sub(r, c / GROUP))) as f32 * scale(r));
        }
    }

    #[test]
    fn q4_codes_and_scales_land_where_they_are_read((rows, cols) in shapes(), seed in 0usize..1000) {
        let code = |r: usize, c: usize| (noise(seed, r * cols + c) >> 28) as u8;
        let sub = |r: usize, g: usize| (noise(seed + 1, r * 64 + g) >> 24) as u8 as i8;
        let scale = |r: usize| 1.0 / (r + 1) as f32;
        let len = Format::Q4.matrix_bytes(rows, cols).unwrap();
        let mut lines = aligned(len);
        let bytes = &mut bytemuck::cast_slice_mut(&mut lines)[..len];
        pack_q4(rows, cols, &NONLINEAR_TABLE, NONLINEAR_SHIFT, scale, sub, code, bytes);
        let got = unpack_all(&Matrix::from_bytes(Format::Q4, rows, cols, bytes).unwrap());
        for (i, got) in got.iter().enumerate() {
            let (r, c) = (i / cols, i % cols);
            let sub = sub(r, c / GROUP);
            let level = i32::from(NONLINEAR_TABLE[usize::from(code(r, c))]) + i32::from(sub & 1) * i32::from(NONLINEAR_SHIFT);
            prop_assert_eq!(*got, (level * i32::from(sub >> 1)) as f32 * scale(r));
        }
    }
}

#[test]
fn halves_convert_exactly() {
    for bits in 0..=u16::MAX {
        let half = half::f16::from_bits(bits);
        if half.is_finite() {
            assert_eq!(f16_to_f32(bits).to_bits(), half.to_f32().to_bits());
        }
    }
}

#[test]
fn wrong_bytes_are_refused() {
    let lines = aligned(4096);
    let bytes: &[u8] = bytemuck::cast_slice(&lines);
    let error = |format, rows, cols, bytes| Matrix::from_bytes(format, rows, cols, bytes).err();
    assert_eq!(error(Format::Q8, 16, 32, &bytes[..100]), Some(MatrixError::Length));
    assert_eq!(error(Format::F32, usize::MAX, 32, bytes), Some(MatrixError::Length));
    let len = Format::F32.matrix_bytes(16, 32).unwrap();
    assert_eq!(error(Format::F32, 16, 32, &bytes[1..len + 1]), Some(MatrixError::Alignment));
    let mut lines = aligned(Format::Q4.matrix_bytes(16, 32).unwrap());
    let bytes: &mut [u8] = bytemuck::cast_slice_mut(&mut lines);
    (bytes[3], bytes[16]) = (127, 4);
    let len = Format::Q4.matrix_bytes(16, 32).unwrap();
    assert_eq!(error(Format::Q4, 16, 32, &bytes[..len]), Some(MatrixError::Table));
}
