//! Products of quantized matrices against an oracle in f64, and with what comes before and behind them against the CPU, bit for bit.

use crate::rig::{Bench, Random, gpu};
use brooklet::kernels::quant::{Format, GROUP, Matrix};
use brooklet::kernels::{Activations, Conv1d, Norm, NormKind, Rows, RowsMut, portable::act::tanh};
use brooklet_cuda::arena::Address;
use brooklet_cuda::launch::{After, Entering, EnteringKind, Matmul, Matvec, Product};

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

/// One product on the GPU, unless `run` says that it takes none, against the oracle, and against the CPU bit for bit.
fn check(
    random: &mut Random,
    device: &brooklet_cuda::Device,
    run: impl Fn(&Entering, &Product) -> bool,
    format: Format,
    shape: (usize, usize),
    vectors: usize,
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
    if !run(&Entering { codes, scales, sums, kind: EnteringKind::Rounded, ..Entering::default() }, &product) {
        return;
    }
    let mut got = vec![0.0f32; vectors * stride];
    arena.download(out, &mut got).unwrap();
    let (bias, residual) = (has_bias.then_some(&bias[..]), has_residual.then_some(&residual[..]));
    let error = error_of(format, &bytes, shape, &from, bias, residual, scale, &got);
    assert!(error < 1e-6, "{format:?} {rows} x {cols}, {vectors} vectors: {error:e}");
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
            for vectors in [1, 2, 3, 8] {
                // So wide, there is no room for the terms of many.
                let takes = shape.1 * vectors <= 20_000;
                let run = |from: &Entering, product: &Product| {
                    let queued = kernels.run(&device, format, vectors as u32, from, product, &After::default());
                    assert!(queued.is_ok() == takes || !takes, "{format:?} {shape:?} {vectors}: {queued:?}");
                    queued.is_ok()
                };
                check(&mut random, &device, run, format, shape, vectors);
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
            let run = |from: &Entering, product: &Product| kernels.run(&device, format, vectors, from, product, NO_ROOM).is_ok();
            check(&mut random, &device, run, format, (rows, cols), vectors as usize);
        }
    }
    // So many that the larger tiles are taken.
    for (shape, vectors) in [((4100, 40), 530), ((2500, 33), 1000), ((700, 64), 1500)] {
        let run = |from: &Entering, product: &Product| kernels.run(&device, Format::Q4, vectors, from, product, NO_ROOM).is_ok();
        check(&mut random, &device, run, Format::Q4, shape, vectors as usize);
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
                kernels.run(&device, format, vectors, from, product, (arena.address(room), bytes)).is_ok()
            };
            check(&mut random, &device, run, format, (rows, cols), vectors as usize);
        }
    }
}

/// Everything that a step does around a product, by the CPU.
#[derive(Debug)]
struct Step {
    format: Format,
    rows: usize,
    cols: usize,
    kind: EnteringKind,
    norm_groups: usize,
    eps_outside: bool,
    scale: f32,
    cap: f32,
    behind: Behind,
}

/// What happens to a product's rows.
#[derive(Debug)]
enum Behind {
    Nothing,
    Added,
    /// Taps, first row, channels, whether SiLU follows.
    Convolved(usize, usize, usize, bool),
}

impl Step {
    fn fresh(random: &mut Random, format: Format, (rows, cols): (usize, usize)) -> Self {
        let kinds = [EnteringKind::Plain, EnteringKind::Rms, EnteringKind::GatedRms, EnteringKind::SiluMultiply];
        let first = random.below(rows as u32) as usize;
        let behind = match random.below(4) {
            0 => Behind::Nothing,
            1 => Behind::Added,
            _ => {
                let channels = 1 + random.below((rows - first) as u32) as usize;
                Behind::Convolved(1 + random.below(4) as usize, first, channels, random.below(2) == 0)
            }
        };
        let caps = matches!(behind, Behind::Nothing) && random.below(2) == 0;
        Step {
            format,
            rows,
            cols,
            kind: kinds[random.below(4) as usize],
            norm_groups: if cols.is_multiple_of(256) && random.below(2) == 0 { 4 } else { 1 },
            eps_outside: random.below(2) == 0,
            scale: if matches!(behind, Behind::Convolved(..)) { 1.0 } else { 0.7 },
            cap: if caps { 3.0 } else { 0.0 },
            behind,
        }
    }

    /// The vector that enters, on the CPU.
    fn made(&self, x: &[f32], z: &[f32], weight: Option<&[f32]>) -> Vec<f32> {
        let (cpu, mut x) = (brooklet::kernels::detect(), x.to_vec());
        let kind = if self.eps_outside { NormKind::RmsEpsOutside } else { NormKind::Rms };
        let gate = (self.kind == EnteringKind::GatedRms).then_some(z);
        let norm = Norm { kind, weight, bias: None, groups: self.norm_groups, eps: 1e-5, gate, gate_first: true };
        match self.kind {
            EnteringKind::Rms | EnteringKind::GatedRms => cpu.norm(&norm, &mut x),
            EnteringKind::SiluMultiply => cpu.silu_multiply(&mut x, z),
            EnteringKind::Plain | EnteringKind::Rounded => {}
        }
        x
    }
}

#[test]
fn what_comes_before_and_behind_a_product_has_the_cpus_bits() {
    let Some(device) = gpu("steps around products") else { return };
    let matvec = Matvec::load(&device).unwrap();
    let cpu = brooklet::kernels::detect();
    let mut random = Random::fresh("steps around products");
    for (case, shape) in SHAPES.into_iter().chain([(3352, 768), (900, 2000), (2560, 512)]).enumerate() {
        for vectors in [1usize, 1, 2, 7] {
            let step = Step::fresh(&mut random, FORMATS[case % FORMATS.len()], shape);
            let Step { rows, cols, .. } = step;
            let bytes = matrix(&mut random, step.format, rows, cols);
            // Frames: x, the gate, the product's rows; after each some numbers that nothing touches.
            let (z_at, out_at) = (cols + 3, 2 * cols + 5);
            let stride = out_at + rows + 2;
            let frames = random.normals(vectors * stride);
            let (weight, bias) = (random.normals(cols), random.normals(rows));
            let (has_weight, has_bias) = (random.below(2) == 0, random.below(2) == 0);
            let (taps, first, channels, silu) = if let Behind::Convolved(taps, first, channels, silu) = step.behind {
                (taps, first, channels, silu)
            } else {
                (1, 0, 0, false)
            };
            let (conv_weight, conv_bias) = (random.normals(taps * channels), random.normals(channels));
            let state_numbers = (taps - 1) * channels + 4;
            let states = random.normals(vectors * state_numbers);
            let mut bench = Bench::new(&device);
            let places = [&frames, &weight, &bias, &conv_weight, &conv_bias, &states].map(|numbers| bench.put(numbers));
            let matrix_at = bench.put(&bytes);
            let arena = bench.arena();
            let [frames_at, weight_at, bias_at, conv_weight_at, conv_bias_at, states_at] = places.map(|place| arena.address(place));
            let at = |address, is_there: bool| if is_there { address } else { Address::NULL };
            let from = Entering {
                x: frames_at,
                z: frames_at.plus(4 * z_at as u64),
                weight: at(weight_at, has_weight),
                stride: stride as u32,
                z_stride: stride as u32,
                kind: step.kind,
                norm_groups: step.norm_groups as u32,
                eps_outside: u32::from(step.eps_outside),
                eps: 1e-5,
                ..Entering::default()
            };
            let out = frames_at.plus(4 * out_at as u64);
            let product = Product {
                matrix: arena.address(matrix_at),
                bias: at(bias_at, has_bias),
                residual: at(out, matches!(step.behind, Behind::Added)),
                out,
                gate: Address::NULL,
                rows: rows as u32,
                cols: cols as u32,
                out_stride: stride as u32,
                residual_stride: stride as u32,
                scale: step.scale,
            };
            let after = After {
                conv_weight: conv_weight_at,
                conv_bias: conv_bias_at,
                conv_state: states_at,
                conv_state_stride: 4 * state_numbers as u64,
                conv_first: first as u32,
                conv_channels: channels as u32,
                taps: taps as u32,
                has_silu: u32::from(silu),
                cap: step.cap,
            };
            if matvec.run(&device, step.format, vectors as u32, &from, &product, &after).is_err() {
                assert!(vectors * cols > 20_000, "{step:?}");
                continue;
            }
            let (mut got, mut got_states) = (vec![0.0f32; frames.len()], vec![0.0f32; states.len()]);
            arena.download(places[0], &mut got).unwrap();
            arena.download(places[5], &mut got_states).unwrap();

            let (mut want, mut want_states) = (frames.clone(), states.clone());
            let copy = aligned(&bytes);
            let matrix = Matrix::from_bytes(step.format, rows, cols, &copy).unwrap();
            for (frame, state) in want.chunks_exact_mut(stride).zip(want_states.chunks_exact_mut(state_numbers)) {
                let from = rounded(&step.made(&frame[..cols], &frame[z_at..][..cols], has_weight.then_some(&weight)), cols);
                let mut y = vec![0.0f32; rows];
                let x = Activations::Int8 { codes: &from.codes, scales: &from.scales, sums: &from.sums };
                cpu.matmul(&matrix, x, RowsMut::new(&mut y, 1, rows, rows).unwrap());
                for (row, y) in y.iter_mut().enumerate() {
                    *y = if has_bias { *y + bias[row] } else { *y } * step.scale;
                }
                match step.behind {
                    Behind::Nothing if step.cap > 0.0 => y.iter_mut().for_each(|y| *y = step.cap * tanh(*y / step.cap)),
                    Behind::Nothing => {}
                    Behind::Added => y.iter_mut().zip(&frame[out_at..]).for_each(|(y, x)| *y += x),
                    Behind::Convolved(..) => {
                        let weight = Rows::new(&conv_weight, taps, channels, channels).unwrap();
                        let conv = Conv1d { weight, bias: Some(&conv_bias), taps, silu };
                        let window = RowsMut::new(&mut state[..(taps - 1) * channels], taps - 1, channels, channels).unwrap();
                        cpu.conv1d(&conv, window, RowsMut::new(&mut y[first..first + channels], 1, channels, channels).unwrap());
                    }
                }
                frame[out_at..out_at + rows].copy_from_slice(&y);
            }
            let same = |got: &[f32], want: &[f32]| got.iter().zip(want).all(|(got, want)| got.to_bits() == want.to_bits());
            assert!(same(&got, &want), "{step:?}, {vectors} vectors");
            assert!(same(&got_states, &want_states), "{step:?}, {vectors} vectors: the window");
        }
    }
}
