use super::*;
use proptest::prelude::*;
use std::vec;
use std::vec::Vec;

/// A few odd shapes and the even ones around them.
fn shapes() -> impl Strategy<Value = (usize, usize)> {
    (1usize..40, 1usize..100)
}

fn planes() -> impl Strategy<Value = Format> {
    prop_oneof![Just(Format::Q3), Just(Format::Q5), Just(Format::Q6), Just(Format::T2)]
}

fn quantized() -> impl Strategy<Value = Format> {
    prop_oneof![Just(Format::Q8), Just(Format::Q4), planes()]
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

    #[test]
    fn codes_in_planes_land_where_they_are_read((rows, cols) in shapes(), format in planes(), seed in 0usize..1000) {
        let table: [i8; 64] = core::array::from_fn(|i| (noise(seed + 2, i) % 240) as u8 as i8 / 2);
        let (levels, shift) = match format {
            Format::T2 => (&[-1, 0, 1, 2][..], 0),
            Format::Q3 => (&table[..8], 3),
            Format::Q5 => (&table[..32], -2),
            _ => (&table[..64], 1),
        };
        let code = |r: usize, c: usize| (noise(seed, r * cols + c) >> 8) as u8 % levels.len() as u8;
        let sub = |r: usize, g: usize| (noise(seed + 1, r * 64 + g) >> 24) as u8 as i8;
        let scale = |r: usize| 1.0 / (r + 1) as f32;
        let len = format.matrix_bytes(rows, cols).unwrap();
        let mut lines = aligned(len);
        let bytes = &mut bytemuck::cast_slice_mut(&mut lines)[..len];
        pack_planes(format, rows, cols, (levels, shift), scale, sub, code, bytes);
        let got = unpack_all(&Matrix::from_bytes(format, rows, cols, bytes).unwrap());
        for (i, got) in got.iter().enumerate() {
            let (r, c) = (i / cols, i % cols);
            let sub = sub(r, c / GROUP);
            let level = i32::from(levels[usize::from(code(r, c))]) + i32::from(sub & 1) * i32::from(shift);
            prop_assert_eq!(*got, (level * i32::from(sub >> 1)) as f32 * scale(r));
        }
    }

    /// Any bytes, as a file may hold them: each back-end gives the portable kernel's bits, and those are the sums of the oracle.
    #[test]
    fn products_are_the_same_on_every_back_end((rows, cols) in shapes(), vectors in 1usize..20, format in quantized(), seed in 0usize..1000) {
        let len = format.matrix_bytes(rows, cols).unwrap();
        let mut lines = aligned(len);
        let bytes: &mut [u8] = &mut bytemuck::cast_slice_mut(&mut lines)[..len];
        for (i, byte) in bytes.iter_mut().enumerate() {
            *byte = (noise(seed, i) >> 24) as u8;
        }
        let levels = match format { Format::Q4 => 16, Format::Q3 => 8, Format::Q5 => 32, Format::Q6 => 64, _ => 0 };
        let planes = if levels == 0 { 0 } else { (levels + 1usize).next_multiple_of(64) };
        bytes[..levels].iter_mut().for_each(|level| *level = (*level as i8 / 2) as u8);
        bytes[levels..planes].iter_mut().for_each(|shift| *shift = (*shift as i8 / 2) as u8);
        let tile_rows = rows.div_ceil(TILE_ROWS);
        for (row, scale) in bytes[planes..][..4 * TILE_ROWS * tile_rows].as_chunks_mut::<4>().0.iter_mut().enumerate() {
            *scale = (1.0 / (row + 1) as f32).to_le_bytes();
        }
        let matrix = Matrix::from_bytes(format, rows, cols, bytes).unwrap();

        let groups = matrix.groups();
        let (mut codes, mut scales, mut sums) = (vec![0; vectors * groups * GROUP], vec![0.0; vectors * groups], vec![0; vectors * groups]);
        let mut products = Vec::new();
        for table in crate::available() {
            for t in 0..vectors {
                let x: Vec<f32> = (0..cols).map(|i| noise(seed + 3, t * cols + i) as i32 as f32 / 1.0e9).collect();
                let of = t * groups..(t + 1) * groups;
                table.quantize_activations(&x, &mut codes[t * groups * GROUP..][..groups * GROUP], &mut scales[of.clone()], &mut sums[of]);
            }
            let mut out = vec![f32::NAN; vectors * rows];
            let x = crate::Activations::Int8 { codes: &codes, scales: &scales, sums: &sums };
            table.matmul(&matrix, x, crate::rows::RowsMut::new(&mut out, vectors, rows, rows).unwrap());
            products.push((table.name(), out));
        }
        let portable = &products[0].1;
        for (name, product) in &products {
            let bits = |x: &[f32]| x.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
            prop_assert_eq!(bits(product), bits(portable), "{}", name);
        }
        let weights = unpack_all(&matrix);
        let second = matrix.part(tile_rows / 2..tile_rows).unwrap();
        prop_assert!(unpack_all(&second) == weights[tile_rows / 2 * TILE_ROWS * cols..]);
        for (i, &got) in portable.iter().enumerate() {
            let (t, row) = (i / rows, i % rows);
            let term = |c: usize| {
                let x = f64::from(codes[t * groups * GROUP + c]) * f64::from(scales[t * groups + c / GROUP]);
                f64::from(weights[row * cols + c]) * x
            };
            let (want, size) = (0..cols).map(term).fold((0.0, 0.0), |(sum, size), x| (sum + x, size + x.abs()));
            prop_assert!((f64::from(got) - want).abs() <= 1e-5 * size + 1e-30, "{} {}", got, want);
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
    fn error(format: Format, rows: usize, cols: usize, bytes: &[u8]) -> Option<MatrixError> {
        Matrix::from_bytes(format, rows, cols, bytes).err()
    }
    assert_eq!(error(Format::Q8, 16, 32, &bytes[..100]), Some(MatrixError::Length));
    assert_eq!(error(Format::F32, usize::MAX, 32, bytes), Some(MatrixError::Length));
    let len = Format::F32.matrix_bytes(16, 32).unwrap();
    assert_eq!(error(Format::F32, 16, 32, &bytes[1..len + 1]), Some(MatrixError::Alignment));
    for (format, shift_at) in [(Format::Q4, 16), (Format::Q3, 8), (Format::Q5, 32), (Format::Q6, 64)] {
        let len = format.matrix_bytes(16, 32).unwrap();
        let mut lines = aligned(len);
        let bytes: &mut [u8] = bytemuck::cast_slice_mut(&mut lines);
        (bytes[3], bytes[shift_at]) = (127, 4);
        assert_eq!(error(format, 16, 32, &bytes[..len]), Some(MatrixError::Table));
        bytes[3] = 123;
        assert_eq!(error(format, 16, 32, &bytes[..len]), None);
    }
}
