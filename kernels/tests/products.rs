//! Every back-end's products and activation rounding have the portable bits: odd shapes, extreme codes, any number of vectors.

use brooklet_kernels::quant::{
    Format, GROUP, LINEAR_TABLE, Matrix, NONLINEAR_SHIFT, NONLINEAR_TABLE, pack_f16, pack_f32, pack_q4, pack_q8,
};
use brooklet_kernels::{Activations, KernelTable, RowsMut, available};
use proptest::prelude::*;

/// Reproducible numbers: a multiplicative hash of the position.
fn noise(seed: u32, i: usize) -> u32 {
    seed.wrapping_add(i as u32).wrapping_mul(2_654_435_761).rotate_left(13).wrapping_mul(0x85eb_ca6b)
}

/// A code in -127..=127; for one seed in three only the ends.
fn code(seed: u32, i: usize) -> i8 {
    let bits = noise(seed, i);
    if seed.is_multiple_of(3) {
        return if bits & 0x1000 == 0 { -127 } else { 127 };
    }
    ((bits % 255) as i32 - 127) as i8
}

/// A number of any usual size, now and then zero.
fn number(seed: u32, i: usize) -> f32 {
    let bits = noise(seed, i);
    if bits.is_multiple_of(17) {
        return 0.0;
    }
    (bits as i32 as f32) / [1.0e9, 1.0e14, 1.0e3][(bits % 3) as usize]
}

/// 64-byte aligned bytes, as in a mapped file.
struct Bytes(Vec<[u64; 8]>);

impl Bytes {
    fn matrix(format: Format, rows: usize, cols: usize, seed: u32) -> (Self, usize) {
        let len = format.matrix_bytes(rows, cols).unwrap();
        let mut bytes = Bytes(vec![[0; 8]; len.div_ceil(64)]);
        let out = &mut bytemuck::cast_slice_mut(&mut bytes.0)[..len];
        let row_scale = |row: usize| number(seed, row) * 1.0e-3;
        let sub_scale = |row: usize, group: usize| code(seed.wrapping_add(1), row * 64 + group);
        let at = |row: usize, col: usize| row * cols + col;
        match format {
            Format::F32 => pack_f32(rows, cols, |row, col| number(seed, at(row, col)), out),
            // The smallest halves too, which have fewer bits.
            Format::F16 => pack_f16(rows, cols, |row, col| number(seed, at(row, col)) * 1.0e-2, out),
            // Files may hold -128 as well.
            Format::Q8 => pack_q8(rows, cols, row_scale, sub_scale, |row, col| code(seed, at(row, col)).saturating_sub(1), out),
            Format::Q4 => {
                let (mut table, mut shift) = if seed.is_multiple_of(2) { (NONLINEAR_TABLE, NONLINEAR_SHIFT) } else { (LINEAR_TABLE, -90) };
                if seed.is_multiple_of(5) {
                    // The one level without a negative.
                    (table[0], shift) = (-128, 14);
                }
                // All eight bits: seven of the factor, one that picks the table.
                let sub_scale = |row: usize, group: usize| (noise(seed, row * 64 + group) >> 24) as u8 as i8;
                pack_q4(rows, cols, &table, shift, row_scale, sub_scale, |row, col| (noise(seed, at(row, col)) >> 28) as u8, out);
            }
            #[cfg(feature = "planes")]
            _ => {
                let bits = (format.name().as_bytes()[1] - b'0') as usize;
                let mut levels: Vec<i8> =
                    (0..1 << bits).map(|i| code(seed.wrapping_add(2), i)).map(|level| level.clamp(-110, 110)).collect();
                let sub_scale = |row: usize, group: usize| (noise(seed, row * 64 + group) >> 24) as u8 as i8;
                if seed.is_multiple_of(5) {
                    levels[0] = -128;
                }
                let (row_code, shift) = (|row, col| (noise(seed, at(row, col)) >> 8) as u8 % (1 << bits), 17);
                brooklet_kernels::quant::pack_planes(format, rows, cols, (&levels, shift), row_scale, sub_scale, row_code, out);
            }
            #[cfg(not(feature = "planes"))]
            _ => {}
        }
        (bytes, len)
    }
}

/// What entered a matrix, in both kinds.
struct Vectors {
    floats: Vec<f32>,
    codes: Vec<i8>,
    scales: Vec<f32>,
    sums: Vec<i32>,
}

fn vectors(cols: usize, count: usize, seed: u32) -> Vectors {
    let padded = cols.next_multiple_of(GROUP);
    let is_padding = |i: usize| i % padded >= cols;
    let codes: Vec<i8> = (0..count * padded).map(|i| if is_padding(i) { 0 } else { code(seed, i) }).collect();
    Vectors {
        floats: (0..count * padded).map(|i| if is_padding(i) { 0.0 } else { number(seed, i) }).collect(),
        scales: (0..count * padded / GROUP).map(|i| number(seed, i).abs()).collect(),
        sums: codes.chunks(GROUP).map(|group| group.iter().map(|&c| i32::from(c)).sum()).collect(),
        codes,
    }
}

/// The products as bits, `(vectors, stride)`, with some columns of the rows left alone.
fn products(table: &KernelTable, matrix: &Matrix<'_>, is_quantized: bool, x: &Vectors, count: usize) -> Vec<u32> {
    let stride = matrix.rows + 3;
    let mut out = vec![7.0; count * stride];
    let activations = if is_quantized {
        Activations::Int8 { codes: &x.codes, scales: &x.scales, sums: &x.sums }
    } else {
        Activations::Float { x: &x.floats, stride: matrix.cols.next_multiple_of(GROUP) }
    };
    table.matmul(matrix, activations, RowsMut::new(&mut out, count, matrix.rows, stride).unwrap());
    out.iter().map(|x| x.to_bits()).collect()
}

/// Those that this build has.
fn formats() -> impl Iterator<Item = Format> {
    let always = [Format::F32, Format::F16, Format::Q8, Format::Q4];
    Format::ALL.into_iter().filter(move |format| cfg!(feature = "planes") || always.contains(format))
}

fn check(rows: usize, cols: usize, count: usize, seed: u32) {
    let x = vectors(cols, count, seed.wrapping_add(5));
    for format in formats() {
        let (bytes, len) = Bytes::matrix(format, rows, cols, seed);
        let matrix = Matrix::from_bytes(format, rows, cols, &bytemuck::cast_slice(&bytes.0)[..len]).unwrap();
        let mut tables = available();
        let want = products(tables.next().unwrap(), &matrix, format.is_quantized(), &x, count);
        for table in tables {
            let got = products(table, &matrix, format.is_quantized(), &x, count);
            let differs = got.iter().zip(&want).position(|(got, want)| got != want);
            assert_eq!(differs, None, "{} {} {rows} x {cols}, {count} vectors, seed {seed}", table.name(), format.name());
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn small_products_have_the_portable_bits(rows in 1usize..80, cols in 1usize..200, count in 1usize..41, seed in 0u32..1000) {
        check(rows, cols, count, seed);
    }

    #[test]
    fn rounding_has_the_portable_bits(len in 1usize..200, seed in 0u32..1000) {
        let special = [f32::NAN, f32::INFINITY, -0.0, 1.0e-30, 9.9e-31, 1.0e-44, f32::MAX, 1.0];
        let x: Vec<f32> = (0..len).map(|i| {
            let bits = noise(seed, i);
            // Groups of usual numbers, of halves, and with special ones.
            match seed % 3 {
                0 => number(seed, i),
                1 => (bits % 255) as f32 - 127.0 + if bits & 0x1000 == 0 { 0.5 } else { 0.0 },
                _ if bits.is_multiple_of(9) => special[(bits >> 8) as usize % special.len()],
                _ => number(seed, i) * 1.0e-30,
            }
        }).collect();
        let groups = len.div_ceil(GROUP);
        let round = |table: &KernelTable| {
            let (mut codes, mut scales, mut sums) = (vec![9; groups * GROUP], vec![9.0; groups], vec![9; groups]);
            table.quantize_activations(&x, &mut codes, &mut scales, &mut sums);
            (codes, scales.into_iter().map(f32::to_bits).collect::<Vec<_>>(), sums)
        };
        let mut tables = available();
        let want = round(tables.next().unwrap());
        for table in tables {
            prop_assert_eq!(&round(table), &want, "{}", table.name());
        }
    }
}

#[test]
fn one_to_forty_vectors_have_the_portable_bits() {
    for count in 1..=40 {
        check(17 + count % 3, 97, count, count as u32);
    }
}

#[test]
fn long_rows_and_many_vectors_have_the_portable_bits() {
    for (i, (rows, cols, count)) in
        [(33, 1100, 50), (80, 256, 48), (16, 2080, 49), (47, 330, 67), (5, 1030, 131), (20, 4170, 1)].into_iter().enumerate()
    {
        check(rows, cols, count, i as u32);
    }
}
