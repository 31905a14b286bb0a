//! Recurrences with the CPU's bits: frames and states after a kernel are those after the portable kernels, whatever the shape.

use crate::rig::{Bench, Random, gpu};
use brooklet::kernels::{Conv1d, GatedDelta, KernelTable, RgLru, Rows, RowsMut, Scan, Ssd, StateMut, available};
use brooklet_cuda::Device;
use brooklet_cuda::arena::Address;
use brooklet_cuda::batch::Batch;
use brooklet_cuda::launch::{ConvShape, DeltaShape, ScanShape, SsdShape, Walk};
use half::f16;

/// Where a slot begins in a state.
const SLOT: usize = 128;

/// Frames and states of several streams, and what runs over them on both sides.
struct Scene {
    tokens: usize,
    streams: usize,
    stride: usize,
    /// (streams, tokens, stride)
    frames: Vec<f32>,
    /// (streams, tokens), if there are times between tokens.
    gaps: Option<Vec<f32>>,
    is_half: bool,
    cells: usize,
    /// (streams, slot's bytes and more)
    states: Vec<u8>,
    state_stride: usize,
}

/// One stream's state on the CPU.
enum Cells {
    F32(Vec<f32>),
    F16(Vec<u16>),
}

impl Cells {
    /// As `rows` rows.
    fn rows(&mut self, rows: usize) -> StateMut<'_> {
        match self {
            Cells::F32(cells) => {
                let width = cells.len() / rows.max(1);
                StateMut::F32(RowsMut::new(cells, rows, width, width).unwrap())
            }
            Cells::F16(cells) => {
                let width = cells.len() / rows.max(1);
                StateMut::F16(RowsMut::new(cells, rows, width, width).unwrap())
            }
        }
    }

    fn numbers(&mut self) -> &mut [f32] {
        match self {
            Cells::F32(cells) => cells,
            Cells::F16(_) => panic!("the state is in half precision"),
        }
    }
}

/// A token's frame on the CPU.
struct Token<'t> {
    frame: &'t mut [f32],
    gap: f32,
    is_first: bool,
    kernels: &'static KernelTable,
}

impl Token<'_> {
    fn numbers(&self, at: u32, len: usize) -> Vec<f32> {
        self.frame[at as usize..][..len].to_vec()
    }

    fn write(&mut self, at: u32, numbers: &[f32]) {
        self.frame[at as usize..][..numbers.len()].copy_from_slice(numbers);
    }
}

fn row(numbers: &[f32]) -> Rows<'_> {
    Rows::new(numbers, 1, numbers.len(), numbers.len()).unwrap()
}

fn row_mut(numbers: &mut [f32]) -> RowsMut<'_> {
    let width = numbers.len();
    RowsMut::new(numbers, 1, width, width).unwrap()
}

impl Scene {
    /// Operands of these widths one behind the other, each a multiple of `align` from the frame's start: the scene, and where each begins.
    fn new(
        random: &mut Random,
        [tokens, streams]: [usize; 2],
        widths: &[usize],
        align: usize,
        cells: usize,
        is_half: bool,
    ) -> (Self, Vec<u32>) {
        let mut at = vec![align * random.below(3) as usize];
        for width in widths {
            at.push((at[at.len() - 1] + width).next_multiple_of(align));
        }
        let stride = at.pop().unwrap() + align * random.below(3) as usize;
        let rows = tokens * streams;
        let state_stride = (SLOT + cells * 4).next_multiple_of(256);
        let mut states = vec![0x55u8; streams * state_stride];
        for state in states.chunks_exact_mut(state_stride) {
            for i in 0..cells {
                // A state that was never written is +0; one that a step made may be -0.
                let x = if random.below(20) == 0 { -0.0 } else { random.normal() };
                if is_half {
                    state[SLOT + 2 * i..][..2].copy_from_slice(&f16::from_f32(x).to_le_bytes());
                } else {
                    state[SLOT + 4 * i..][..4].copy_from_slice(&x.to_le_bytes());
                }
            }
        }
        let gaps = (random.below(2) == 0).then(|| (0..rows).map(|_| random.uniform(0.3, 2.5)).collect());
        let scene = Scene { tokens, streams, stride, frames: random.normals(rows * stride), gaps, is_half, cells, states, state_stride };
        (scene, at.into_iter().map(|at| at as u32).collect())
    }

    /// Runs both sides and compares every number of the frames and every byte of the states.
    fn check(
        self,
        device: &Device,
        what: &str,
        arrays: &[&[f32]],
        on_gpu: impl Fn(&Batch, &[Address]),
        on_cpu: impl Fn(&mut Token<'_>, &mut Cells),
    ) {
        let Scene { tokens, streams, stride, is_half, cells, state_stride, .. } = self;
        // A block that a token enters by its score: of several tokens none does, and of one it does.
        let gate = [u32::from(tokens == 1)];
        let is_gated = streams == 1 && what.len().is_multiple_of(3);
        let is_shut = is_gated && tokens > 1;
        let mut bench = Bench::new(device);
        let (frames, states, gate) = (bench.put(&self.frames), bench.put(&self.states), bench.put(&gate));
        let gaps = self.gaps.as_ref().map(|gaps| bench.put(gaps));
        let positions = bench.put(&vec![0u64; streams]);
        let places: Vec<_> = arrays.iter().map(|array| bench.put(array)).collect();
        let arena = bench.arena();
        let batch = Batch {
            frames: arena.address(frames),
            state: arena.address(states),
            positions: arena.address(positions),
            gaps: gaps.map_or(Address::NULL, |gaps| arena.address(gaps)),
            gate: if is_gated { arena.address(gate) } else { Address::NULL },
            state_stride: state_stride as u64,
            stride: stride as u32,
            tokens: tokens as u32,
            streams: streams as u32,
            period: 1,
            ..Default::default()
        };
        on_gpu(&batch, &places.iter().map(|&place| arena.address(place)).collect::<Vec<_>>());
        let (mut got_frames, mut got_states) = (vec![0.0f32; self.frames.len()], vec![0u8; self.states.len()]);
        arena.download(frames, &mut got_frames).unwrap();
        arena.download(states, &mut got_states).unwrap();

        let (mut want_frames, mut want_states) = (self.frames, self.states);
        let kernels = available().next().unwrap();
        for stream in 0..if is_shut { 0 } else { streams } {
            let bytes = &mut want_states[stream * state_stride + SLOT..][..cells * if is_half { 2 } else { 4 }];
            let mut state = if is_half {
                Cells::F16(bytes.chunks_exact(2).map(|b| u16::from_le_bytes([b[0], b[1]])).collect())
            } else {
                Cells::F32(bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect())
            };
            for t in 0..tokens {
                let row = stream * tokens + t;
                let gap = self.gaps.as_ref().map_or(1.0, |gaps| gaps[row]);
                let frame = &mut want_frames[row * stride..][..stride];
                on_cpu(&mut Token { frame, gap, is_first: t == 0, kernels }, &mut state);
            }
            match state {
                Cells::F16(cells) => bytes.copy_from_slice(&cells.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<_>>()),
                Cells::F32(cells) => bytes.copy_from_slice(&cells.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<_>>()),
            }
        }
        let what = format!("{what}, {tokens} tokens, {streams} streams, f16 {is_half}, gated {is_gated}");
        let differs = got_frames.iter().zip(&want_frames).position(|(got, want)| got.to_bits() != want.to_bits());
        if let Some(i) = differs {
            panic!("{what}: row {}, number {}: {} and not {}", i / stride, i % stride, got_frames[i], want_frames[i]);
        }
        assert!(got_states == want_states, "{what}: the states differ");
    }
}

/// Numbers of tokens: steps, short prefills and long ones.
fn tokens_of(random: &mut Random, case: usize) -> usize {
    [1, 1, 2, 1 + random.below(40) as usize, 33, 1 + random.below(400) as usize][case % 6]
}

#[test]
fn convolutions_have_the_bits_of_the_cpu() {
    let Some(device) = gpu("exact convolutions") else { return };
    let walk = Walk::load(&device).unwrap();
    let mut random = Random::fresh("exact convolutions");
    for case in 0..48 {
        let (tokens, streams) = (tokens_of(&mut random, case), 1 + random.below(3) as usize);
        let align = if case % 4 == 3 { 1 } else { 4 };
        let channels = align * (1 + random.below(90) as usize);
        let taps = if case % 2 == 0 { 4 } else { 1 + random.below(9) as usize };
        let (weight, bias) = (random.normals(taps * channels), random.normals(channels));
        let (has_bias, silu) = (random.below(2) == 0, random.below(2) == 0);
        let (scene, at) = Scene::new(&mut random, [tokens, streams], &[channels], align, (taps - 1) * channels, false);
        let x = at[0];
        let on_gpu = |batch: &Batch, arrays: &[Address]| {
            let bias = if has_bias { arrays[1] } else { Address::NULL };
            let (channels, taps) = (channels as u32, taps as u32);
            walk.conv1d(&device, batch, &ConvShape { x, channels, taps, silu, weight: arrays[0], bias, slot: SLOT as u64 }).unwrap();
        };
        let what = format!("case {case}: {channels} channels, {taps} taps");
        scene.check(&device, &what, &[&weight, &bias], on_gpu, |token, state| {
            let mut inputs = token.numbers(x, channels);
            let weight = Rows::new(&weight, taps, channels, channels).unwrap();
            let conv = Conv1d { weight, bias: has_bias.then_some(&bias), taps, silu };
            let state = RowsMut::new(state.numbers(), taps - 1, channels, channels).unwrap();
            token.kernels.conv1d(&conv, state, row_mut(&mut inputs));
            token.write(x, &inputs);
        });
    }
}

#[test]
fn scans_have_the_bits_of_the_cpu() {
    let Some(device) = gpu("exact scans") else { return };
    let walk = Walk::load(&device).unwrap();
    let mut random = Random::fresh("exact scans");
    for case in 0..60 {
        let (tokens, streams) = (tokens_of(&mut random, case), 1 + random.below(3) as usize);
        let heads = if case % 5 == 1 { 1 + random.below(3) as usize } else { 1 };
        let channels = heads * (1 + random.below(150) as usize);
        let d_state = [16, 16, 16, 1 + random.below(16) as usize, 1 + random.below(80) as usize][case % 5];
        let is_half = random.below(2) == 0;
        // So steep that some exponentials vanish or are subnormal, and some that rise.
        let steep = [3.0, 12.0, 120.0][case % 3];
        let a: Vec<f32> = (0..d_state * channels).map(|_| random.uniform(-steep, if case % 7 == 0 { 0.02 } else { -0.001 })).collect();
        let (d, dt_bias) = (random.normals(channels), random.normals(channels));
        let has_z = random.below(2) == 0;
        let bc = heads * d_state;
        let widths = [channels, channels, bc, bc, channels, channels];
        let (scene, at) = Scene::new(&mut random, [tokens, streams], &widths, 1, d_state * channels, is_half);
        let shape = |arrays: &[Address]| ScanShape {
            x: at[0],
            dt: at[1],
            b: at[2],
            c: at[3],
            z: at[4],
            out: at[5],
            has_z: has_z.into(),
            channels: channels as u32,
            d_state: d_state as u32,
            heads: heads as u32,
            is_half: is_half.into(),
            a: arrays[0],
            d: arrays[1],
            dt_bias: arrays[2],
            slot: SLOT as u64,
        };
        let what = format!("case {case}: {channels} channels, {heads} heads, {d_state} states, down to {steep}");
        let on_gpu = |batch: &Batch, arrays: &[Address]| walk.scan(&device, batch, &shape(arrays)).unwrap();
        scene.check(&device, &what, &[&a, &d, &dt_bias], on_gpu, |token, state| {
            let [x, dt, z] = [0, 1, 4].map(|i| token.numbers(at[i], channels));
            let [b, c] = [2, 3].map(|i| token.numbers(at[i], bc));
            let mut y = vec![0.0; channels];
            let scan = Scan {
                x: row(&x),
                dt: row(&dt),
                dt_bias: &dt_bias,
                a: Rows::new(&a, d_state, channels, channels).unwrap(),
                b: row(&b),
                c: row(&c),
                d: &d,
                z: has_z.then(|| row(&z)),
                heads,
                gap: token.gap,
                behind_bytes: 0,
            };
            token.kernels.scan(&scan, state.rows(d_state), row_mut(&mut y));
            token.write(at[5], &y);
        });
    }
}

#[test]
fn dual_recurrences_have_the_bits_of_the_cpu() {
    let Some(device) = gpu("exact dual recurrences") else { return };
    let walk = Walk::load(&device).unwrap();
    let mut random = Random::fresh("exact dual recurrences");
    for case in 0..60 {
        let (tokens, streams) = (tokens_of(&mut random, case), 1 + random.below(3) as usize);
        let align = if case % 8 == 5 { 1 } else { 4 };
        let groups = 1 + random.below(2) as usize;
        let heads = groups * (1 + random.below(4) as usize);
        let head_dim = [64, 32, 4 * (1 + random.below(24)) as usize, 1 + random.below(70) as usize][case % 4];
        let d_state = [128, 64, 16, 4 * (1 + random.below(64)) as usize, 256, 1 + random.below(300) as usize, 96][case % 7];
        let is_half = random.below(2) == 0;
        let a: Vec<f32> = (0..heads).map(|_| -random.uniform(-4.0, 4.0).exp()).collect();
        let (d, dt_bias) = (random.normals(heads), random.normals(heads));
        let (dt_lo, dt_hi) = if random.below(2) == 0 { (0.05, 0.7) } else { (0.0, f32::INFINITY) };
        let (wide, bc) = (heads * head_dim, groups * d_state);
        let (scene, at) = Scene::new(&mut random, [tokens, streams], &[wide, heads, bc, bc, wide], align, wide * d_state, is_half);
        let shape = |arrays: &[Address]| SsdShape {
            x: at[0],
            dt: at[1],
            b: at[2],
            c: at[3],
            out: at[4],
            heads: heads as u32,
            head_dim: head_dim as u32,
            groups: groups as u32,
            d_state: d_state as u32,
            is_half: is_half.into(),
            z: 0,
            has_gate: 0,
            dt_lo,
            dt_hi,
            a: arrays[0],
            d: arrays[1],
            dt_bias: arrays[2],
            slot: SLOT as u64,
        };
        let what = format!("case {case}: {heads} heads of {head_dim}, {groups} groups, {d_state} states");
        let on_gpu = |batch: &Batch, arrays: &[Address]| walk.ssd(&device, batch, &shape(arrays)).unwrap();
        scene.check(&device, &what, &[&a, &d, &dt_bias], on_gpu, |token, state| {
            let (x, dt) = (token.numbers(at[0], wide), token.numbers(at[1], heads));
            let [b, c] = [2, 3].map(|i| token.numbers(at[i], bc));
            let mut y = vec![0.0; wide];
            let ssd = Ssd {
                x: row(&x),
                dt: row(&dt),
                dt_bias: &dt_bias,
                a: &a,
                b: row(&b),
                c: row(&c),
                d: &d,
                groups,
                heads_per_group: heads / groups,
                first_head: 0,
                dt_lo,
                dt_hi,
                gap: token.gap,
            };
            token.kernels.ssd(&ssd, &mut [state.rows(heads)], row_mut(&mut y));
            token.write(at[4], &y);
        });
    }
}

#[test]
fn gated_delta_rules_have_the_bits_of_the_cpu() {
    let Some(device) = gpu("exact gated delta rules") else { return };
    let walk = Walk::load(&device).unwrap();
    let mut random = Random::fresh("exact gated delta rules");
    for case in 0..48 {
        let (tokens, streams) = (tokens_of(&mut random, case), 1 + random.below(3) as usize);
        let align = if case % 8 == 5 { 1 } else { 4 };
        let key_heads = 1 + random.below(2) as usize;
        let heads = key_heads * (1 + random.below(3) as usize);
        let key_dim = [128, 64, 4 * (1 + random.below(32)) as usize, 1 + random.below(140) as usize][case % 4];
        let value_dim = [128, 4 * (1 + random.below(40)) as usize, 64, 1 + random.below(80) as usize][(case / 2) % 4];
        let is_half = random.below(2) == 0;
        let decay: Vec<f32> = (0..heads).map(|_| -random.uniform(-4.0, 2.0).exp()).collect();
        let dt_bias = random.normals(heads);
        let (scale, beta_scale, eps) = (0.25, 1.0 + random.below(2) as f32, 1e-6);
        let (keys, values) = (key_heads * key_dim, heads * value_dim);
        let widths = [keys, keys, values, heads, heads, values];
        let (scene, at) = Scene::new(&mut random, [tokens, streams], &widths, align, heads * key_dim * value_dim, is_half);
        let shape = |arrays: &[Address]| DeltaShape {
            q: at[0],
            k: at[1],
            v: at[2],
            a: at[3],
            b: at[4],
            out: at[5],
            heads: heads as u32,
            key_heads: key_heads as u32,
            key_dim: key_dim as u32,
            value_dim: value_dim as u32,
            is_half: is_half.into(),
            scale,
            beta_scale,
            eps,
            decay: arrays[0],
            dt_bias: arrays[1],
            slot: SLOT as u64,
        };
        let what = format!("case {case}: {key_heads} x {key_dim} keys, {heads} x {value_dim} values");
        let on_gpu = |batch: &Batch, arrays: &[Address]| walk.gated_delta(&device, batch, &shape(arrays)).unwrap();
        scene.check(&device, &what, &[&decay, &dt_bias], on_gpu, |token, state| {
            let [q, k] = [0, 1].map(|i| token.numbers(at[i], keys));
            let v = token.numbers(at[2], values);
            let [a, b] = [3, 4].map(|i| token.numbers(at[i], heads));
            let mut y = vec![0.0; values];
            let delta =
                GatedDelta { q: &q, k: &k, v: &v, a: &a, b: &b, decay: &decay, dt_bias: &dt_bias, key_heads, scale, beta_scale, eps };
            token.kernels.gated_delta_step(&delta, state.rows(heads), &mut y);
            token.write(at[5], &y);
        });
    }
}

#[test]
fn linear_recurrent_units_have_the_bits_of_the_cpu() {
    let Some(device) = gpu("exact linear recurrent units") else { return };
    let walk = Walk::load(&device).unwrap();
    let mut random = Random::fresh("exact linear recurrent units");
    for case in 0..24 {
        let (tokens, streams) = (tokens_of(&mut random, case), 1 + random.below(3) as usize);
        let width = 1 + random.below(400) as usize;
        let decay: Vec<f32> = (0..width).map(|_| -random.uniform(-6.0, 3.0).exp()).collect();
        let (scene, at) = Scene::new(&mut random, [tokens, streams], &[width; 3], 1, width, false);
        let on_gpu = |batch: &Batch, arrays: &[Address]| {
            walk.rg_lru(&device, batch, [at[0], at[1], at[2]], width as u32, arrays[0], SLOT as u64).unwrap();
        };
        scene.check(&device, &format!("case {case}: {width} wide"), &[&decay], on_gpu, |token, state| {
            let [mut x, input_gate, recurrence_gate] = [0, 1, 2].map(|i| token.numbers(at[i], width));
            let unit = RgLru { input_gate: &input_gate, recurrence_gate: &recurrence_gate, decay: &decay, is_first: token.is_first };
            token.kernels.rg_lru_step(&unit, state.numbers(), &mut x);
            token.write(at[0], &x);
        });
    }
}
