//! Matrix times vector, per format and shape: instructions of each table of kernels, and whether their bits agree.

use crate::memory::{Arena, Noise};
use crate::timer::instructions;
use brooklet::kernels::quant::{self, Format, LINEAR_TABLE, Matrix, NONLINEAR_SHIFT, NONLINEAR_TABLE};
use brooklet::kernels::{Activations, KernelTable, RowsMut, available};
use cortex_m_semihosting::hprintln;

/// Prints one line per shape and format: instructions per multiplication for every table.
pub fn count(arena: &mut Arena) {
    hprintln!("instructions per MAC of one product, one vector, scales and stores included; quantizing its inputs, per input");
    for format in [Format::Q8, Format::Q4] {
        for (rows, cols) in [(64, 48), (96, 48), (216, 48), (48, 96), (7, 48), (64, 64), (256, 256)] {
            let Some(product) = Product::new(arena, format, rows, cols, 1, 0) else { continue };
            let mut product = product;
            for (i, table) in available().enumerate() {
                let (quantizing, multiplying) = product.run(table, i);
                let macs = (rows * cols) as u64;
                let (per_mac, per_input) = (multiplying * 1000 / macs, quantizing * 100 / cols as u64);
                hprintln!(
                    "{:3} {:>3} x {:<3} {:9} {:8} instructions {:2}.{:03} per MAC; inputs {:5} {:2}.{:02} each",
                    format.name(),
                    rows,
                    cols,
                    table.name(),
                    multiplying,
                    per_mac / 1000,
                    per_mac % 1000,
                    quantizing,
                    per_input / 100,
                    per_input % 100
                );
            }
            assert!(product.agrees(), "{} {rows} x {cols}: tables differ", format.name());
        }
    }
}

/// Odd shapes, several vectors, every format and code table: the tables give the same bits.
pub fn compare(arena: &mut Arena) {
    let mut compared = 0;
    for seed in 0..60u32 {
        let (rows, cols, vectors) = (1 + seed as usize * 7 % 61, 1 + seed as usize * 29 % 131, 1 + seed as usize % 9);
        for format in [Format::F32, Format::F16, Format::Q8, Format::Q4] {
            let Some(mut product) = Product::new(arena, format, rows, cols, vectors, seed + 1) else { continue };
            for (i, table) in available().enumerate() {
                product.run(table, i);
            }
            assert!(product.agrees(), "{} {rows} x {cols}, {vectors} vectors: tables differ", format.name());
            compared += 1;
        }
    }
    hprintln!("{} products of odd shapes, 1 to 9 vectors: the tables agree to the bit", compared);
}

struct Product<'a> {
    matrix: Matrix<'a>,
    format: Format,
    vectors: usize,
    /// (vectors, cols)
    x: &'a [f32],
    codes: &'a mut [i8],
    scales: &'a mut [f32],
    sums: &'a mut [i32],
    /// (vectors, padded)
    floats: &'a mut [f32],
    /// (2, vectors, rows): what the first table gives, and the latest.
    out: [&'a mut [f32]; 2],
    /// Of each vector as the first table rounds it.
    inputs: [u32; 9],
    agrees: bool,
}

impl<'a> Product<'a> {
    fn new(arena: &'a mut Arena, format: Format, rows: usize, cols: usize, vectors: usize, seed: u32) -> Option<Self> {
        let mut noise = Noise(seed);
        let mut rest = arena.bytes();
        let padded = cols.next_multiple_of(32);
        let bytes = crate::memory::take::<u8>(&mut rest, format.matrix_bytes(rows, cols)?);
        let floats = crate::memory::take::<f32>(&mut rest, vectors * padded);
        let x = crate::memory::take::<f32>(&mut rest, vectors * cols);
        // Vectors of very different size; one of the seeds has silent groups.
        for (t, x) in x.chunks_exact_mut(cols).enumerate() {
            x.fill_with(|| noise.number() * [1.0, 1.0e-3, 40.0, 0.0, 1.0e-31][(t + seed as usize) % if seed == 0 { 1 } else { 5 }]);
        }
        let mut weights = Noise(seed + 77);
        let mut byte = |_: usize, _: usize| (weights.bits() >> 24) as u8;
        let byte = core::cell::RefCell::new(&mut byte);
        let code = |r, c| (byte.borrow_mut())(r, c);
        let row_scale = |r: usize| (r + 1) as f32 * 1.0e-4;
        match format {
            Format::F32 => quant::pack_f32(rows, cols, |r, c| f32::from(code(r, c) as i8) * 0.01, bytes),
            Format::F16 => quant::pack_f16(rows, cols, |r, c| f32::from(code(r, c) as i8) * 0.01, bytes),
            Format::Q8 => {
                quant::pack_q8(rows, cols, row_scale, |r, c| (code(r, c) as i8).max(-127), |r, c| (code(r, c) as i8).max(-127), bytes)
            }
            Format::Q4 => {
                let odd: [i8; 16] = core::array::from_fn(|i| i as i8 * 7 - 100);
                let (table, shift) =
                    [(&NONLINEAR_TABLE, NONLINEAR_SHIFT), (&LINEAR_TABLE, 0), (&NONLINEAR_TABLE, -1), (&odd, 27)][seed as usize / 4 % 4];
                quant::pack_q4(rows, cols, table, shift, row_scale, |r, c| code(r, c) as i8, |r, c| code(r, c) >> 4, bytes);
            }
            // Firmware has these by a feature, and no kernel of its own for them.
            Format::Q3 | Format::Q5 | Format::Q6 | Format::T2 => return None,
        }
        Some(Product {
            format,
            vectors,
            codes: crate::memory::take(&mut rest, vectors * padded),
            scales: crate::memory::take(&mut rest, vectors * padded / 32),
            sums: crate::memory::take(&mut rest, vectors * padded / 32),
            out: [crate::memory::take(&mut rest, vectors * rows), crate::memory::take(&mut rest, vectors * rows)],
            floats,
            x,
            matrix: Matrix::from_bytes(format, rows, cols, bytes).ok()?,
            inputs: [0; 9],
            agrees: true,
        })
    }

    /// Instructions that quantizing the vectors and multiplying them take with table number `i`; notes whether the outputs are
    /// those of the first table.
    fn run(&mut self, table: &KernelTable, i: usize) -> (u64, u64) {
        let (cols, padded) = (self.matrix.cols, self.codes.len() / self.vectors);
        let mut quantizing = 0;
        for t in 0..self.vectors {
            let x = &self.x[t * cols..(t + 1) * cols];
            self.floats[t * padded..t * padded + cols].copy_from_slice(x);
            let codes = &mut self.codes[t * padded..(t + 1) * padded];
            let groups = t * padded / 32..(t + 1) * padded / 32;
            let (scales, sums) = (&mut self.scales[groups.clone()], &mut self.sums[groups]);
            codes.fill(55);
            quantizing = instructions(|| table.quantize_activations(x, codes, scales, sums)).0;
            self.note_inputs(t, i);
        }
        let activations = if self.format.is_quantized() {
            Activations::Int8 { codes: self.codes, scales: self.scales, sums: self.sums }
        } else {
            Activations::Float { x: self.floats, stride: padded }
        };
        let out = &mut *self.out[i.min(1)];
        out.fill(f32::NAN);
        let matrix = core::hint::black_box(&self.matrix);
        let rows = self.matrix.rows;
        let (multiplying, _) = instructions(|| RowsMut::new(out, self.vectors, rows, rows).map(|out| table.matmul(matrix, activations, out)));
        let [first, latest] = &self.out;
        if i > 0
            && let Some(at) = first.iter().zip(latest.iter()).position(|(a, b)| a.to_bits() != b.to_bits())
        {
            hprintln!("{}: output {} is {:e}, not {:e}", table.name(), at, latest[at], first[at]);
            self.agrees = false;
        }
        (quantizing, multiplying)
    }

    /// The codes of vector `t`, their sums and scales are those of the first table.
    fn note_inputs(&mut self, t: usize, i: usize) {
        let padded = self.codes.len() / self.vectors;
        let groups = t * padded / 32..(t + 1) * padded / 32;
        let mut hash = 0u32;
        let mut mix = |bits: u32| hash = (hash.rotate_left(7) ^ bits).wrapping_mul(0x9e37_79b1);
        self.codes[t * padded..(t + 1) * padded].iter().for_each(|&code| mix(code as u32));
        self.scales[groups.clone()].iter().for_each(|&scale| mix(scale.to_bits()));
        self.sums[groups].iter().for_each(|&sum| mix(sum as u32));
        if i == 0 {
            self.inputs[t] = hash;
        } else if self.inputs[t] != hash {
            hprintln!("table {}: the codes of vector {} differ", i, t);
            self.agrees = false;
        }
    }

    fn agrees(&self) -> bool {
        self.agrees
    }
}

/// Vectors of subnormal numbers stay what they are: some vector units flush them to zero, which no back-end may.
pub fn subnormals() {
    let mut halves: [f32; 64] = core::array::from_fn(|i| f32::from_bits(2 * i as u32 + 2));
    for x in core::hint::black_box(&mut halves).iter_mut() {
        *x *= 0.5;
    }
    assert!(halves.iter().enumerate().all(|(i, x)| x.to_bits() == i as u32 + 1), "subnormal numbers are flushed to zero");
    hprintln!("subnormal numbers are kept");
}
