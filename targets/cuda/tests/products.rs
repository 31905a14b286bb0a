//! Products of quantized matrices against an oracle in f64, and what enters them against the CPU's rounding.

mod rig;

use brooklet::kernels::quant::{Format, GROUP, Matrix};
use brooklet::kernels::{Activations, RowsMut};
use brooklet_cuda::arena::Address;
use brooklet_cuda::launch::{Entering, EnteringKind, Matmul, Matvec, Product, Round, Rounded};
use rig::{Bench, Random, gpu};

const FORMATS: [Format; 6] = [Format::T2, Format::Q3, Format::Q4, Format::Q5, Format::Q6, Format::Q8];

/// No working space.
const NO_ROOM: (Address, u64) = (Address::NULL, 0);

/// Rows and columns, most of them odd.
const SHAPES: [(usize, usize); 24] = [
    (1, 1),
    (3, 5),
    (16, 32),
    (17, 33),
    (7, 64),
    (33, 95),
    (48, 768),
    (80, 1536),
    (100, 100),
    (255, 129),
    (256, 320),
    (300, 1000),
    (513, 97),
    (1000, 48),
    (2049, 160),
    (80, 31),
    (1537, 65),
    (64, 5120),
    (560, 255),
    (5000, 33),
    (40, 8200),
    (2200, 96),
    (129, 2560),
    (31, 4),
];

/// A section of random codes and scales; every table is one that a file may hold.
fn matrix(random: &mut Random, format: Format, rows: usize, cols: usize) -> Vec<u8> {
    let mut bytes: Vec<u8> = (0..format.matrix_bytes(rows, cols).unwrap()).map(|_| random.bits() as u8).collect();
    let codes = match format {
        Format::Q3 => 8,
        Format::Q4 => 16,
        Format::Q5 => 32,
        Format::Q6 => 64,
        _ => 0,
    };
    // Some tables ascend through zero in the middle, as the quantizer's do; some are anything.
    let ascends = random.below(2) == 0;
    for code in 0..codes {
        let step = 240 / codes as i32;
        let level = if ascends { code as i32 * step - 120 } else { random.below(241) as i32 - 120 };
        bytes[code] = level as u8;
    }
    let table = if codes == 0 { 0 } else { (codes + 1).next_multiple_of(64) };
    if codes > 0 {
        bytes[codes] = (random.below(13) as i32 - 6) as u8;
    }
    for row in 0..rows.next_multiple_of(16) {
        let scale = if row < rows { random.uniform(0.0005, 0.0015) } else { 0.0 };
        bytes[table + 4 * row..][..4].copy_from_slice(&scale.to_le_bytes());
    }
    bytes
}

/// Rounded vectors, (vectors, groups * 32) codes, (vectors, groups) scales and sums.
struct Codes {
    codes: Vec<i8>,
    scales: Vec<f32>,
    sums: Vec<i32>,
}

/// What the CPU makes of vectors of `cols` numbers.
fn rounded(x: &[f32], cols: usize) -> Codes {
    let (vectors, groups) = (x.len() / cols, cols.div_ceil(GROUP));
    let mut to = Codes { codes: vec![0; vectors * groups * GROUP], scales: vec![0.0; vectors * groups], sums: vec![0; vectors * groups] };
    let parts = to.codes.chunks_exact_mut(groups * GROUP).zip(to.scales.chunks_exact_mut(groups)).zip(to.sums.chunks_exact_mut(groups));
    for (x, ((codes, scales), sums)) in x.chunks_exact(cols).zip(parts) {
        brooklet::kernels::detect().quantize_activations(x, codes, scales, sums);
    }
    to
}

/// Largest error of `got` (vectors, stride) over the sum of what was added up; what lies behind the rows must be as poisoned as before.
#[allow(clippy::too_many_arguments)]
fn error_of(
    format: Format,
    bytes: &[u8],
    (rows, cols): (usize, usize),
    from: &Codes,
    bias: Option<&[f32]>,
    residual: Option<&[f32]>,
    scale: f32,
    got: &[f32],
) -> f64 {
    let aligned = aligned(bytes);
    let matrix = Matrix::from_bytes(format, rows, cols, &aligned).unwrap();
    let groups = cols.div_ceil(GROUP);
    let vectors = from.scales.len() / groups;
    let stride = got.len() / vectors;
    let mut weights = vec![0.0f32; cols];
    let mut worst = 0.0f64;
    for row in 0..rows {
        matrix.unpack_row(row, &mut weights);
        for v in 0..vectors {
            let term = |c: usize| {
                let at = v * groups + c / GROUP;
                f64::from(weights[c]) * f64::from(from.codes[v * groups * GROUP + c]) * f64::from(from.scales[at])
            };
            let (mut sum, mut size) = (0.0, 1e-20);
            for c in 0..cols {
                sum += term(c);
                size += term(c).abs();
            }
            let bias = bias.map_or(0.0, |bias| f64::from(bias[row]));
            let residual = residual.map_or(0.0, |residual| f64::from(residual[v * rows + row]));
            let want = residual + f64::from(scale) * (sum + bias);
            let error = (f64::from(got[v * stride + row]) - want).abs() / (size + bias.abs() + residual.abs());
            worst = if error <= worst { worst } else { error };
        }
    }
    for vector in got.chunks_exact(stride) {
        assert!(vector[rows..].iter().all(|x| x.is_nan()), "written behind the rows");
    }
    worst
}

/// One product on the GPU against the oracle, and where the kernel promises that, against the CPU bit for bit.
fn check(
    random: &mut Random,
    device: &brooklet_cuda::Device,
    run: impl Fn(&Entering, &Product),
    format: Format,
    shape: (usize, usize),
    vectors: usize,
    has_cpus_bits: bool,
) {
    let (rows, cols) = shape;
    let bytes = matrix(random, format, rows, cols);
    let from = rounded(&random.normals(vectors * cols), cols);
    let (bias, residual) = (random.normals(rows), random.normals(vectors * rows));
    let (has_bias, has_residual) = (random.below(2) == 0, random.below(2) == 0);
    let (scale, stride) = (if random.below(2) == 0 { 1.0 } else { 0.7 }, rows + random.below(3) as usize);
    let mut bench = Bench::new(device);
    let places =
        [bench.put(&bytes), bench.put(&from.codes), bench.put(&from.scales), bench.put(&from.sums), bench.put(&bias), bench.put(&residual)];
    let out = bench.poisoned(vectors * stride);
    let arena = bench.arena();
    let [matrix, codes, scales, sums, bias_at, residual_at] = places.map(|place| arena.address(place));
    let at = |address, is_there: bool| if is_there { address } else { Address::NULL };
    let product = Product {
        matrix,
        bias: at(bias_at, has_bias),
        residual: at(residual_at, has_residual),
        out: arena.address(out),
        gate: Address::NULL,
        rows: rows as u32,
        cols: cols as u32,
        out_stride: stride as u32,
        residual_stride: rows as u32,
        scale,
    };
    run(&Entering { codes, scales, sums, ..Entering::default() }, &product);
    let mut got = vec![0.0f32; vectors * stride];
    arena.download(out, &mut got).unwrap();
    let (bias, residual) = (has_bias.then_some(&bias[..]), has_residual.then_some(&residual[..]));
    let error = error_of(format, &bytes, shape, &from, bias, residual, scale, &got);
    assert!(error < 1e-6, "{format:?} {rows} x {cols}, {vectors} vectors: {error:e}");
    if !has_cpus_bits {
        return;
    }
    let aligned = aligned(&bytes);
    let matrix = Matrix::from_bytes(format, rows, cols, &aligned).unwrap();
    let mut want = vec![0.0f32; vectors * rows];
    let x = Activations::Int8 { codes: &from.codes, scales: &from.scales, sums: &from.sums };
    brooklet::kernels::detect().matmul(&matrix, x, RowsMut::new(&mut want, vectors, rows, rows).unwrap());
    for (v, want) in want.chunks_exact_mut(rows).enumerate() {
        for (row, y) in want.iter_mut().enumerate() {
            *y = bias.map_or(*y, |bias| *y + bias[row]) * scale;
            *y = residual.map_or(*y, |residual| residual[v * rows + row] + *y);
            let got = got[v * stride + row];
            assert!(
                y.to_bits() == got.to_bits(),
                "{format:?} {rows} x {cols}, vector {v} of {vectors}, row {row}: {got} instead of the CPU's {y}"
            );
        }
    }
}

/// The bytes where words may begin, as in a file.
fn aligned(bytes: &[u8]) -> Vec<u8> {
    // What the allocator gives a vector of so many bytes is aligned to more than a word.
    let copy = bytes.to_vec();
    assert!(copy.as_ptr().addr().is_multiple_of(8));
    copy
}

#[test]
fn steps_are_those_of_the_oracle() {
    let Some(device) = gpu("products of few vectors") else { return };
    let kernels = Matvec::load(&device).unwrap();
    let mut random = Random::fresh("products of few vectors");
    for format in FORMATS {
        for shape in SHAPES {
            for vectors in [1, 2, 4, 8] {
                let run = |from: &Entering, product: &Product| kernels.run_rounded(&device, format, vectors, from, product).unwrap();
                check(&mut random, &device, run, format, shape, vectors as usize, false);
            }
        }
    }
}

#[test]
fn prefills_are_those_of_the_oracle() {
    let Some(device) = gpu("products of many vectors") else { return };
    let kernels = Matmul::load(&device).unwrap();
    let mut random = Random::fresh("products of many vectors");
    for format in FORMATS {
        for (rows, cols) in SHAPES {
            // Fewer vectors of the larger ones: the oracle is slow.
            let most = (3_000_000 / (rows * cols)).clamp(20, 300) as u32;
            let vectors = 1 + random.below(most);
            let run = |from: &Entering, product: &Product| kernels.run(&device, format, vectors, from, product, NO_ROOM).unwrap();
            check(&mut random, &device, run, format, (rows, cols), vectors as usize, true);
        }
    }
    // So many that the larger tiles are taken.
    for (shape, vectors) in [((4100, 40), 530), ((2500, 33), 1000), ((700, 64), 1500)] {
        let run = |from: &Entering, product: &Product| kernels.run(&device, Format::Q4, vectors, from, product, NO_ROOM).unwrap();
        check(&mut random, &device, run, Format::Q4, shape, vectors as usize, true);
    }
}

#[test]
fn prefills_by_way_of_levels_have_the_cpus_bits() {
    let Some(device) = gpu("products of many vectors, levels first") else { return };
    let kernels = Matmul::load(&device).unwrap();
    let mut random = Random::fresh("products of many vectors, levels first");
    for format in FORMATS {
        for (rows, cols) in [
            (1, 1),
            (17, 33),
            (16, 32),
            (100, 100),
            (129, 65),
            (300, 320),
            (128, 256),
            (255, 31),
            (513, 97),
            (64, 1000),
            (2049, 40),
            (40, 160),
        ] {
            let vectors = 384 + random.below(200);
            let bytes = Matmul::spread_bytes(vectors, rows as u32, cols as u32);
            let mut bench = Bench::new(&device);
            // What was there before must not matter.
            let room = bench.poisoned(bytes as usize / 4);
            let arena = bench.arena();
            let run = |from: &Entering, product: &Product| {
                kernels.run(&device, format, vectors, from, product, (arena.address(room), bytes)).unwrap();
            };
            check(&mut random, &device, run, format, (rows, cols), vectors as usize, true);
        }
    }
}

/// What enters, in f64.
fn entering(kind: EnteringKind, x: &[f32], z: &[f32], weight: &[f32], norms: usize, eps: f64) -> Vec<f32> {
    let silu = |x: f64| x / (1.0 + (-x).exp());
    let z: Vec<f64> = z.iter().map(|&z| f64::from(z)).collect();
    let mut v: Vec<f64> = x.iter().map(|&x| f64::from(x)).collect();
    for (v, &z) in v.iter_mut().zip(&z) {
        match kind {
            EnteringKind::GatedRms => *v *= silu(z),
            EnteringKind::SiluMultiply => *v = silu(*v) * z,
            _ => {}
        }
    }
    if matches!(kind, EnteringKind::Rms | EnteringKind::GatedRms | EnteringKind::RmsGated) {
        let width = v.len() / norms;
        for group in v.chunks_exact_mut(width) {
            let inverse = 1.0 / (group.iter().map(|v| v * v).sum::<f64>() / width as f64 + eps).sqrt();
            group.iter_mut().for_each(|v| *v *= inverse);
        }
        for (v, &w) in v.iter_mut().zip(weight) {
            *v *= f64::from(w);
        }
    }
    if kind == EnteringKind::RmsGated {
        v.iter_mut().zip(&z).for_each(|(v, &z)| *v *= silu(z));
    }
    v.iter().map(|&v| v as f32).collect()
}

#[test]
fn what_enters_is_rounded_as_on_the_cpu() {
    let Some(device) = gpu("rounding") else { return };
    let (round, matvec) = (Round::load(&device).unwrap(), Matvec::load(&device).unwrap());
    let mut random = Random::fresh("rounding");
    for cols in [1usize, 5, 32, 33, 64, 96, 100, 129, 320, 768, 1000, 1536, 2560, 4096, 5120, 7168, 8200] {
        for kind in EnteringKind::ALL {
            let (vectors, rows) = (1 + random.below(4) as usize, 100);
            let is_normed = !matches!(kind, EnteringKind::Plain | EnteringKind::SiluMultiply);
            let norms = if is_normed && cols % 128 == 0 && random.below(2) == 0 { 4 } else { 1 };
            let stride = cols.next_multiple_of(4) + 4 * random.below(3) as usize;
            let (x, z, weight) = (random.normals(vectors * stride), random.normals(vectors * stride), random.normals(cols));
            let made: Vec<f32> = (0..vectors)
                .flat_map(|v| entering(kind, &x[v * stride..][..cols], &z[v * stride..][..cols], &weight, norms, 1e-5))
                .collect();
            let want = rounded(&made, cols);
            let bytes = matrix(&mut random, Format::Q4, rows, cols);
            let mut bench = Bench::new(&device);
            let [x_at, z_at, weight_at] = [bench.put(&x), bench.put(&z), bench.put(&weight)];
            let to =
                [bench.put(&vec![85i8; want.codes.len()]), bench.poisoned(want.scales.len()), bench.put(&vec![-1i32; want.sums.len()])];
            let (matrix_at, out) = (bench.put(&bytes), bench.poisoned(rows));
            let arena = bench.arena();
            let [codes, scales, sums] = to.map(|place| arena.address(place));
            let from = Entering {
                x: arena.address(x_at),
                z: arena.address(z_at),
                weight: arena.address(weight_at),
                stride: stride as u32,
                z_stride: stride as u32,
                norm_groups: norms as u32,
                eps: 1e-5,
                ..Entering::default()
            };
            round.run(&device, vectors as u32, kind, &from, cols as u32, Rounded { codes, scales, sums }, Address::NULL).unwrap();
            let mut got = Codes { codes: vec![0; want.codes.len()], scales: vec![0.0; want.scales.len()], sums: vec![0; want.sums.len()] };
            arena.download(to[0], &mut got.codes).unwrap();
            arena.download(to[1], &mut got.scales).unwrap();
            arena.download(to[2], &mut got.sums).unwrap();
            // A number that hardly differs may round to the neighbour where it lies halfway between two.
            let others = got.codes.iter().zip(&want.codes).filter(|(a, b)| a != b).count();
            assert!(got.codes.iter().zip(&want.codes).all(|(a, b)| a.abs_diff(*b) <= 1), "{kind:?} {cols}");
            assert!(others <= 3 + want.codes.len() / 500, "{kind:?} {cols}: {others} codes differ");
            assert!(kind != EnteringKind::Plain || (others == 0 && got.scales == want.scales && got.sums == want.sums), "{cols}");
            for (group, (scale, want)) in got.scales.iter().zip(&want.scales).enumerate() {
                assert!((scale - want).abs() <= 1e-5 * want, "{kind:?} {cols}: scale {scale} for {want}");
                let sum: i32 = got.codes[group * GROUP..][..GROUP].iter().map(|&c| i32::from(c)).sum();
                assert_eq!(sum, got.sums[group]);
            }
            if !Matvec::makes(kind, &from, cols as u32) {
                continue;
            }
            let product = Product {
                matrix: arena.address(matrix_at),
                bias: Address::NULL,
                residual: Address::NULL,
                out: arena.address(out),
                gate: Address::NULL,
                rows: rows as u32,
                cols: cols as u32,
                out_stride: rows as u32,
                residual_stride: 0,
                scale: 1.0,
            };
            matvec.run(&device, Format::Q4, kind, &from, &product).unwrap();
            let mut y = vec![0.0f32; rows];
            arena.download(out, &mut y).unwrap();
            // The codes of the first vector, as the other kernel made them from the same sums.
            let groups = cols.div_ceil(GROUP);
            let first = Codes { codes: got.codes[..groups * GROUP].to_vec(), scales: got.scales[..groups].to_vec(), sums: vec![] };
            let error = error_of(Format::Q4, &bytes, (rows, cols), &first, None, None, 1.0, &y);
            assert!(
                error < 1e-5 + 3e-3 * f64::from(u8::from(is_normed || kind == EnteringKind::SiluMultiply)),
                "{kind:?} {cols}: {error:e}"
            );
        }
    }
}
