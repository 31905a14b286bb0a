//! Every back-end rounds activations and multiplies matrices to the portable kernels' bits: all formats, odd shapes, 1 to 40 vectors.

use brooklet_kernels::quant::{
    Format, GROUP, Matrix, NONLINEAR_SHIFT, NONLINEAR_TABLE, default_table, pack_f16, pack_f32, pack_planes, pack_q4, pack_q8,
};
use brooklet_kernels::{Activations, KernelTable, RowsMut, available};
use proptest::prelude::*;

/// Reproducible numbers.
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 20) as u32
    }

    /// From -1 to 1, with many different exponents.
    fn float(&mut self) -> f32 {
        let scale = f32::from_bits((127 - self.next() % 24) << 23);
        (self.next() as i32 as f32) / 2_147_483_648.0 * scale
    }
}

/// A matrix's bytes, on a 64-byte boundary as in a file.
fn matrix_lines(format: Format, rows: usize, cols: usize, noise: &mut Noise) -> (Vec<[u64; 8]>, usize) {
    let groups = cols.div_ceil(GROUP);
    let len = format.matrix_bytes(rows, cols).unwrap();
    let mut lines = vec![[0u64; 8]; len.div_ceil(64)];
    let bytes = &mut bytemuck::cast_slice_mut(&mut lines)[..len];
    let floats: Vec<f32> = (0..rows * cols).map(|_| noise.float()).collect();
    let row_scales: Vec<f32> = (0..rows).map(|_| noise.float()).collect();
    // The largest codes and scales are the rule, not the exception: sums must not wrap anywhere.
    let mut byte = |largest: bool| match noise.next() % 4 {
        0 if largest => -128,
        1 if largest => 127,
        _ => noise.next() as u8 as i8,
    };
    let extreme = rows.is_multiple_of(3);
    let codes: Vec<i8> = (0..rows * cols).map(|_| byte(extreme)).collect();
    let sub_scales: Vec<i8> = (0..rows * groups).map(|_| byte(extreme)).collect();
    match format {
        Format::F32 => pack_f32(rows, cols, |r, c| floats[r * cols + c], bytes),
        Format::F16 => pack_f16(rows, cols, |r, c| floats[r * cols + c], bytes),
        Format::Q8 => pack_q8(rows, cols, |r| row_scales[r], |r, g| sub_scales[r * groups + g], |r, c| codes[r * cols + c], bytes),
        Format::Q4 => {
            let code = |r: usize, c: usize| codes[r * cols + c] as u8 & 15;
            pack_q4(rows, cols, &NONLINEAR_TABLE, NONLINEAR_SHIFT, |r| row_scales[r], |r, g| sub_scales[r * groups + g], code, bytes);
        }
        Format::Q3 | Format::Q5 | Format::Q6 | Format::T2 => {
            let (levels, shift) = default_table(format).unwrap();
            let code = |r: usize, c: usize| codes[r * cols + c] as u8 % levels.len() as u8;
            pack_planes(format, rows, cols, (levels, shift), |r| row_scales[r], |r, g| sub_scales[r * groups + g], code, bytes);
        }
    }
    (lines, len)
}

/// Activations in both kinds: padded floats, and (codes, scales, sums).
struct Vectors {
    floats: Vec<f32>,
    stride: usize,
    codes: Vec<i8>,
    scales: Vec<f32>,
    sums: Vec<i32>,
}

impl Vectors {
    fn new(table: &KernelTable, x: &[Vec<f32>]) -> Self {
        let stride = x[0].len().next_multiple_of(GROUP);
        let (groups, count) = (stride / GROUP, x.len());
        let mut all = Vectors {
            floats: vec![0.0; count * stride],
            stride,
            codes: vec![1; count * stride],
            scales: vec![1.0; count * groups],
            sums: vec![1; count * groups],
        };
        for (t, x) in x.iter().enumerate() {
            all.floats[t * stride..][..x.len()].copy_from_slice(x);
            let (numbers, groups) = (t * stride..(t + 1) * stride, t * groups..(t + 1) * groups);
            table.quantize_activations(x, &mut all.codes[numbers], &mut all.scales[groups.clone()], &mut all.sums[groups]);
        }
        all
    }

    fn of(&self, format: Format) -> Activations<'_> {
        match format.is_quantized() {
            true => Activations::Int8 { codes: &self.codes, scales: &self.scales, sums: &self.sums },
            false => Activations::Float { x: &self.floats, stride: self.stride },
        }
    }
}

fn bits(x: &[f32]) -> Vec<u32> {
    x.iter().map(|x| x.to_bits()).collect()
}

fn products(table: &KernelTable, matrix: &Matrix<'_>, x: Activations<'_>, count: usize, gap: usize) -> Vec<u32> {
    let stride = matrix.rows + gap;
    // What lies between the vectors must stay as it is.
    let mut out = vec![7.5; count * stride];
    table.matmul(matrix, x, RowsMut::new(&mut out, count, matrix.rows, stride).unwrap());
    bits(&out)
}

fn check(rows: usize, cols: usize, count: usize, seed: u64) -> Result<(), TestCaseError> {
    let mut noise = Noise(seed | 1);
    let x: Vec<Vec<f32>> = (0..count)
        .map(|_| {
            let silent = noise.next() % 8;
            (0..cols).map(|c| if c as u32 / 32 == silent { 1.0e-31 } else { noise.float() }).collect()
        })
        .collect();
    let mut tables = available();
    let portable = tables.next().unwrap();
    let inputs = Vectors::new(portable, &x);
    let tables: Vec<_> = tables.collect();
    for table in &tables {
        let got = Vectors::new(table, &x);
        prop_assert_eq!(&got.codes, &inputs.codes, "{}: codes", table.name());
        prop_assert_eq!(&got.sums, &inputs.sums, "{}: sums", table.name());
        prop_assert_eq!(bits(&got.scales), bits(&inputs.scales), "{}: scales", table.name());
    }
    for format in Format::ALL {
        let (lines, len) = matrix_lines(format, rows, cols, &mut noise);
        let matrix = Matrix::from_bytes(format, rows, cols, &bytemuck::cast_slice(&lines)[..len]).unwrap();
        let want = products(portable, &matrix, inputs.of(format), count, 3);
        for table in &tables {
            let got = products(table, &matrix, inputs.of(format), count, 3);
            prop_assert!(got == want, "{} {} ({rows}, {cols}) by {count}, seed {seed}", table.name(), format.name());
        }
    }
    Ok(())
}

#[test]
fn one_to_forty_vectors_give_the_portable_bits() {
    for count in 1..=40 {
        check(17 + count % 3, 97, count, 77 + count as u64).unwrap();
    }
    // More than any back-end takes in one batch.
    check(48, 256, 131, 5).unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn odd_shapes_give_the_portable_bits(rows in 1usize..70, cols in 1usize..170, count in 1usize..12, seed in any::<u64>()) {
        check(rows, cols, count, seed)?;
    }
}
