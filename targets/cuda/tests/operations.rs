//! The general kernels against oracles in f64: products of every format, attention over every kind of cache, recurrences.

use crate::rig::{Bench, Random, gpu, off};
use brooklet::kernels::quant::{Format, Matrix, default_table, pack_f16, pack_f32, pack_planes, pack_q4, pack_q8};
use brooklet::kernels::quant::{NONLINEAR_SHIFT, NONLINEAR_TABLE};
use brooklet_cuda::arena::{Address, Place};
use brooklet_cuda::batch::Batch;
use brooklet_cuda::launch::{
    Attention, AttentionShape, ConvShape, DeltaShape, Multiply, Outcome, Rounded, ScanShape, SsdShape, Vectors, Walk, Which,
};
use brooklet_cuda::{Device, Matrix as OnGpu, format_number};

fn silu(x: f64) -> f64 {
    x / (1.0 + (-x).exp())
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

fn softplus(x: f64) -> f64 {
    if x > 20.0 { x } else { x.exp().ln_1p() }
}

/// A random matrix in a format, on a 64-byte boundary as in a file.
fn random_matrix(random: &mut Random, format: Format, rows: usize, cols: usize) -> Vec<brooklet::Line> {
    let bytes = format.matrix_bytes(rows, cols).unwrap();
    let mut lines = vec![brooklet::Line::ZERO; bytes.div_ceil(64)];
    let out = &mut brooklet::Line::bytes_mut(&mut lines)[..bytes];
    let weights: Vec<f32> = random.normals(rows * cols);
    let bits: Vec<u64> = (0..rows * cols).map(|_| random.bits()).collect();
    let row_scale: Vec<f32> = (0..rows).map(|_| random.uniform(0.5e-5, 2e-5)).collect();
    let subs: Vec<i8> = (0..rows * cols.div_ceil(32)).map(|_| random.bits() as i8).collect();
    let (row_scale, sub) = (|row: usize| row_scale[row], |row: usize, group: usize| subs[row * cols.div_ceil(32) + group]);
    let code = |row: usize, col: usize| bits[row * cols + col];
    match format {
        Format::F32 => pack_f32(rows, cols, |row, col| weights[row * cols + col], out),
        Format::F16 => pack_f16(rows, cols, |row, col| weights[row * cols + col], out),
        Format::Q8 => pack_q8(rows, cols, row_scale, |r, g| sub(r, g).max(-127), |r, c| (code(r, c) as i8).max(-127), out),
        Format::Q4 => pack_q4(rows, cols, &NONLINEAR_TABLE, NONLINEAR_SHIFT, row_scale, sub, |r, c| code(r, c) as u8, out),
        planes => {
            pack_planes(planes, rows, cols, default_table(planes).unwrap(), row_scale, sub, |r, c| code(r, c) as u8, out);
        }
    }
    lines
}

fn address(arena: &brooklet_cuda::arena::Arena, place: Place) -> Address {
    arena.address(place)
}

#[test]
fn products_are_those_of_the_oracle() {
    let Some(device) = gpu("products") else { return };
    let kernels = Multiply::load(&device).unwrap();
    let mut random = Random::fresh("products");
    for case in 0..48 {
        let format = Format::ALL[case % Format::ALL.len()];
        let (rows, cols) = (1 + random.below(200) as usize, 1 + random.below(if case < 8 { 9000 } else { 500 }) as usize);
        let (vectors, stride) = (1 + random.below(5) as usize, cols + 7);
        let matrix = random_matrix(&mut random, format, rows, cols);
        let bytes = &brooklet::Line::bytes(&matrix)[..format.matrix_bytes(rows, cols).unwrap()];
        let mut x = vec![f32::NAN; vectors * stride];
        for x in x.chunks_exact_mut(stride) {
            x[..cols].fill_with(|| random.normal());
        }
        let bias = random.normals(rows);
        let (scale, cap) = (random.uniform(0.5, 2.0), if random.below(2) == 0 { 0.0 } else { 3.0 });
        let groups = cols.div_ceil(32);

        let mut bench = Bench::new(&device);
        let weights_at = bench.put(bytes);
        let x_at = bench.put(&x);
        let bias_at = bench.put(&bias);
        let codes = bench.put(&vec![0x55u8; vectors * groups * 32]);
        let (scales, sums) = (bench.poisoned(vectors * groups), bench.poisoned(vectors * groups));
        let out = bench.poisoned(vectors * rows);
        let table = bench.put(&[[0u64; 3]]);
        let mut arena = bench.arena();
        let on_gpu = OnGpu {
            bytes: address(&arena, weights_at),
            rows: rows as u32,
            cols: cols as u32,
            format: format_number(format),
            groups: groups as u32,
        };
        arena.upload(table, &[on_gpu]).unwrap();
        let rounded = Rounded { codes: address(&arena, codes), scales: address(&arena, scales), sums: address(&arena, sums) };
        let vectors_at = Vectors { at: address(&arena, x_at), row_stride: stride as u64, pick_stride: 0, picks: 1 };
        let outcome =
            Outcome { out: address(&arena, out), bias: address(&arena, bias_at), row_stride: rows as u64, pick_stride: 0, scale, cap };
        let which = Which { matrices: address(&arena, table), id: 0, chosen: Address::NULL, rows: rows as u32 };
        let batch = Batch::default();
        kernels.round(&device, &batch, vectors as u32, &vectors_at, cols as u32, rounded).unwrap();
        kernels.run(&device, &batch, vectors as u32, &which, &vectors_at, rounded, &outcome).unwrap();
        let mut got = vec![0.0f32; vectors * rows];
        arena.download(out, &mut got).unwrap();

        let matrix = Matrix::from_bytes(format, rows, cols, bytes).unwrap();
        let mut want = Vec::new();
        for x in x.chunks_exact(stride) {
            // Activations are rounded to int8 by groups before they meet quantized weights: part of what is computed.
            let x: Vec<f64> = x[..cols]
                .chunks(32)
                .flat_map(|group| {
                    let largest = group.iter().fold(0.0f32, |m, x| m.max(x.abs()));
                    let (inverse, scale) = (127.0 / largest, largest / 127.0);
                    group.iter().map(move |&x| {
                        if format.is_quantized() { f64::from((x * inverse).round_ties_even()) * f64::from(scale) } else { f64::from(x) }
                    })
                })
                .collect();
            let mut row_weights = vec![0.0f32; cols];
            for row in 0..rows {
                matrix.unpack_row(row, &mut row_weights);
                let y: f64 = row_weights.iter().zip(&x).map(|(&w, x)| f64::from(w) * x).sum();
                let y = (y + f64::from(bias[row])) * f64::from(scale);
                want.push(if cap > 0.0 { f64::from(cap) * (y / f64::from(cap)).tanh() } else { y });
            }
        }
        let distance = off(&got, &want);
        assert!(distance < 2e-5, "case {case}: {} {rows}x{cols}, {vectors} vectors: {distance:e}", format.name());
    }
}

/// One stream's frames with a state, on the GPU, before and after a kernel.
struct Stage {
    frames: Vec<f32>,
    stride: usize,
    tokens: usize,
    state: Vec<u8>,
}

impl Stage {
    fn new(random: &mut Random, tokens: usize, width: usize, state: Vec<u8>) -> Self {
        let stride = width + 3;
        Stage { frames: random.normals(tokens * stride), stride, tokens, state }
    }

    fn at(&self, token: usize, at: u32) -> &[f32] {
        &self.frames[token * self.stride + at as usize..]
    }

    /// Runs a kernel; `extra` are arrays that it gets the addresses of.
    fn run(
        &mut self,
        device: &Device,
        position: u64,
        room_bytes: u64,
        extra: &[&[f32]],
        turns: &[u64],
        kernel: impl FnOnce(&Batch, &[Address], Address, Address),
    ) {
        let mut bench = Bench::new(device);
        let (frames, state, positions) = (bench.put(&self.frames), bench.put(&self.state), bench.put(&[position]));
        let arrays: Vec<Place> = extra.iter().map(|array| bench.put(array)).collect();
        let turns = bench.put(turns);
        let room = bench.poisoned(room_bytes as usize / 4 + 1);
        let arena = bench.arena();
        let batch = Batch {
            frames: arena.address(frames),
            state: arena.address(state),
            positions: arena.address(positions),
            state_stride: self.state.len() as u64,
            stride: self.stride as u32,
            tokens: self.tokens as u32,
            streams: 1,
            period: 1,
            ..Default::default()
        };
        let arrays: Vec<Address> = arrays.into_iter().map(|place| arena.address(place)).collect();
        kernel(&batch, &arrays, arena.address(turns), arena.address(room));
        arena.download(frames, &mut self.frames).unwrap();
        arena.download(state, &mut self.state).unwrap();
    }
}

fn bytes_of(x: &[f32]) -> Vec<u8> {
    x.iter().flat_map(|x| x.to_le_bytes()).collect()
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
}

#[test]
fn recurrences_are_those_of_the_oracle() {
    let Some(device) = gpu("recurrences") else { return };
    let walk = Walk::load(&device).unwrap();
    let mut random = Random::fresh("recurrences");
    for case in 0..24 {
        let tokens = 1 + random.below(20) as usize;
        let channels = 1 + random.below(150) as usize;
        // Causal convolution.
        let taps = 1 + random.below(7) as usize;
        let window = random.normals((taps - 1).max(1) * channels);
        let mut stage = Stage::new(&mut random, tokens, channels, bytes_of(&window));
        let (weight, bias) = (random.normals(taps * channels), random.normals(channels));
        let before = stage.frames.clone();
        let shape = |arrays: &[Address]| ConvShape {
            x: 1,
            channels: channels as u32,
            taps: taps as u32,
            silu: true,
            weight: arrays[0],
            bias: arrays[1],
            slot: 0,
        };
        stage.run(&device, 0, 0, &[&weight, &bias], &[0], |batch, arrays, _, _| walk.conv1d(&device, batch, &shape(arrays)).unwrap());
        let input = |t: isize, c: usize| match usize::try_from(t) {
            Ok(t) => f64::from(before[t * stage.stride + 1 + c]),
            Err(_) => f64::from(window[(taps as isize - 1 + t) as usize * channels + c]),
        };
        for t in 0..tokens {
            let conv = |c: usize| {
                let tap = |j: usize| f64::from(weight[j * channels + c]) * input(t as isize + j as isize + 1 - taps as isize, c);
                silu(f64::from(bias[c]) + (0..taps).map(tap).sum::<f64>())
            };
            let distance = off(&stage.at(t, 1)[..channels], &(0..channels).map(conv).collect::<Vec<_>>());
            assert!(distance < 1e-5, "case {case}: convolution {channels} {taps}: {distance:e}");
        }

        // Selective scan.
        let (heads, d_state) = (1 + random.below(3) as usize, 1 + random.below(40) as usize);
        let channels = heads * (1 + random.below(50) as usize);
        let mut h: Vec<f64> = (0..d_state * channels).map(|_| f64::from(random.normal())).collect();
        let state = bytes_of(&h.iter().map(|&h| h as f32).collect::<Vec<_>>());
        h = floats(&state).into_iter().map(f64::from).collect();
        let spans: Vec<u32> = [0, channels, channels, heads * d_state, heads * d_state, channels]
            .iter()
            .scan(0, |at, &len| {
                *at += len as u32;
                Some(*at)
            })
            .collect();
        let mut stage = Stage::new(&mut random, tokens, spans[5] as usize + channels, state);
        let a: Vec<f32> = (0..d_state * channels).map(|_| random.uniform(-4.0, -0.01)).collect();
        let (d, dt_bias) = (random.normals(channels), random.normals(channels));
        let before = stage.frames.clone();
        stage.run(&device, 0, 0, &[&a, &d, &dt_bias], &[0], |batch, arrays, _, _| {
            let shape = ScanShape {
                x: spans[0],
                dt: spans[1],
                b: spans[2],
                c: spans[3],
                z: spans[4],
                out: spans[5],
                has_z: 1,
                channels: channels as u32,
                d_state: d_state as u32,
                heads: heads as u32,
                is_half: 0,
                a: arrays[0],
                d: arrays[1],
                dt_bias: arrays[2],
                slot: 0,
            };
            walk.scan(&device, batch, &shape).unwrap();
        });
        for t in 0..tokens {
            let number = |span: usize, i: usize| f64::from(before[t * stage.stride + spans[span] as usize + i]);
            let mut want = Vec::new();
            for c in 0..channels {
                let head = c / (channels / heads);
                let dt = softplus(number(1, c) + f64::from(dt_bias[c]));
                let mut y = f64::from(d[c]) * number(0, c);
                for n in 0..d_state {
                    let at = n * channels + c;
                    h[at] = (dt * f64::from(a[at])).exp() * h[at] + dt * number(0, c) * number(2, head * d_state + n);
                    y += number(3, head * d_state + n) * h[at];
                }
                want.push(y * silu(number(4, c)));
            }
            let distance = off(&stage.at(t, spans[5])[..channels], &want);
            assert!(distance < 1e-5, "case {case}: scan {channels} {d_state} {heads}, token {t}: {distance:e}");
        }
        assert!(off(&floats(&stage.state), &h) < 1e-5, "case {case}: state of a scan");

        // State-space dual recurrence.
        let (groups, head_dim) = (1 + random.below(3) as usize, 1 + random.below(70) as usize);
        let heads = groups * (1 + random.below(3) as usize);
        let x_len = heads * head_dim;
        let state = bytes_of(&random.normals(heads * d_state * head_dim));
        let mut s: Vec<f64> = floats(&state).into_iter().map(f64::from).collect();
        let spans: Vec<u32> = [0, x_len, heads, groups * d_state, groups * d_state]
            .iter()
            .scan(0, |at, &len| {
                *at += len as u32;
                Some(*at)
            })
            .collect();
        let mut stage = Stage::new(&mut random, tokens, spans[4] as usize + x_len, state);
        let a: Vec<f32> = (0..heads).map(|_| random.uniform(-4.0, -0.01)).collect();
        let (d, dt_bias) = (random.normals(heads), random.normals(heads));
        let before = stage.frames.clone();
        stage.run(&device, 0, 0, &[&a, &d, &dt_bias], &[0], |batch, arrays, _, _| {
            let shape = SsdShape {
                x: spans[0],
                dt: spans[1],
                b: spans[2],
                c: spans[3],
                out: spans[4],
                heads: heads as u32,
                head_dim: head_dim as u32,
                groups: groups as u32,
                d_state: d_state as u32,
                is_half: 0,
                z: 0,
                has_gate: 0,
                dt_lo: 0.1,
                dt_hi: 1.5,
                a: arrays[0],
                d: arrays[1],
                dt_bias: arrays[2],
                slot: 0,
            };
            walk.ssd(&device, batch, &shape).unwrap();
        });
        for t in 0..tokens {
            let number = |span: usize, i: usize| f64::from(before[t * stage.stride + spans[span] as usize + i]);
            let mut want = Vec::new();
            for head in 0..heads {
                let dt = softplus(number(1, head) + f64::from(dt_bias[head])).clamp(f64::from(0.1f32), 1.5);
                let group = head / (heads / groups);
                for p in 0..head_dim {
                    let x = number(0, head * head_dim + p);
                    let mut y = f64::from(d[head]) * x;
                    for n in 0..d_state {
                        let at = (head * d_state + n) * head_dim + p;
                        s[at] = (dt * f64::from(a[head])).exp() * s[at] + dt * x * number(2, group * d_state + n);
                        y += number(3, group * d_state + n) * s[at];
                    }
                    want.push(y);
                }
            }
            let distance = off(&stage.at(t, spans[4])[..x_len], &want);
            assert!(distance < 1e-5, "case {case}: ssd {heads} {head_dim} {d_state}, token {t}: {distance:e}");
        }
        assert!(off(&floats(&stage.state), &s) < 1e-5, "case {case}: state of an ssd");

        // Gated delta rule.
        let key_heads = 1 + random.below(3) as usize;
        let (heads, key_dim, value_dim) =
            (key_heads * (1 + random.below(3) as usize), 1 + random.below(40) as usize, 1 + random.below(70) as usize);
        let (keys, values) = (key_heads * key_dim, heads * value_dim);
        let state = bytes_of(&random.normals(heads * key_dim * value_dim));
        let mut s: Vec<f64> = floats(&state).into_iter().map(f64::from).collect();
        let spans: Vec<u32> = [0, keys, keys, values, heads, heads]
            .iter()
            .scan(0, |at, &len| {
                *at += len as u32;
                Some(*at)
            })
            .collect();
        let mut stage = Stage::new(&mut random, tokens, spans[5] as usize + values, state);
        let decay: Vec<f32> = (0..heads).map(|_| random.uniform(-3.0, -0.01)).collect();
        let dt_bias = random.normals(heads);
        let before = stage.frames.clone();
        let (scale, beta_scale, eps) = (0.7f32, 2.0f32, 1e-6f32);
        stage.run(&device, 0, 0, &[&decay, &dt_bias], &[0], |batch, arrays, _, _| {
            let shape = DeltaShape {
                q: spans[0],
                k: spans[1],
                v: spans[2],
                a: spans[3],
                b: spans[4],
                out: spans[5],
                heads: heads as u32,
                key_heads: key_heads as u32,
                key_dim: key_dim as u32,
                value_dim: value_dim as u32,
                is_half: 0,
                scale,
                beta_scale,
                eps,
                decay: arrays[0],
                dt_bias: arrays[1],
                slot: 0,
            };
            walk.gated_delta(&device, batch, &shape).unwrap();
        });
        for t in 0..tokens {
            let number = |span: usize, i: usize| f64::from(before[t * stage.stride + spans[span] as usize + i]);
            let mut want = Vec::new();
            for head in 0..heads {
                let key = head / (heads / key_heads) * key_dim;
                let unit = |span: usize| {
                    let square: f64 = (0..key_dim).map(|n| number(span, key + n).powi(2)).sum();
                    let inverse = 1.0 / (square + f64::from(eps)).sqrt();
                    (0..key_dim).map(|n| number(span, key + n) * inverse).collect::<Vec<_>>()
                };
                let (q, k) = (unit(0), unit(1));
                let fade = (f64::from(decay[head]) * softplus(number(3, head) + f64::from(dt_bias[head]))).exp();
                let beta = f64::from(beta_scale) * sigmoid(number(4, head));
                for p in 0..value_dim {
                    let at = |n: usize| (head * key_dim + n) * value_dim + p;
                    let held: f64 = (0..key_dim).map(|n| k[n] * s[at(n)] * fade).sum();
                    let change = beta * (number(2, head * value_dim + p) - held);
                    let mut y = 0.0;
                    for n in 0..key_dim {
                        s[at(n)] = s[at(n)] * fade + k[n] * change;
                        y += q[n] * f64::from(scale) * s[at(n)];
                    }
                    want.push(y);
                }
            }
            let distance = off(&stage.at(t, spans[5])[..values], &want);
            assert!(distance < 2e-5, "case {case}: gated delta {heads} {key_dim} {value_dim}, token {t}: {distance:e}");
        }
    }
}

#[test]
fn attention_is_that_of_the_oracle() {
    let Some(device) = gpu("attention") else { return };
    let kernels = Attention::load(&device).unwrap();
    let mut random = Random::fresh("attention");
    for case in 0..30u32 {
        let kind = case % 3;
        let kv_heads = 1 + random.below(3) as usize;
        let (heads, head_dim) = (kv_heads * (1 + random.below(4) as usize), 2 + random.below(if case < 6 { 400 } else { 90 }) as usize);
        let capacity = 1 + random.below(if case < 15 { 40 } else { 700 }) as usize;
        let tokens = 1 + random.below(capacity.min(9) as u32) as usize;
        let half = random.below(head_dim as u32 / 2 + 1) as usize;
        let turns: Vec<u64> = (0..half.max(1)).map(|_| random.bits() >> 3).collect();
        let scale = 1.0 / (head_dim as f32).sqrt();
        let (q_len, k_len) = (heads * head_dim, kv_heads * head_dim);
        let (positions, groups) = (kv_heads * capacity, kv_heads * capacity * head_dim.div_ceil(32));
        let round = |bytes: usize| bytes.next_multiple_of(16);
        let state_bytes = match kind {
            0 => 2 * round(4 * positions * head_dim),
            1 => 2 * (round(4 * positions) + round(positions * head_dim)),
            _ => 2 * (round(2 * groups) + 16 * groups),
        };
        // Filled by steps before, as many as leave room for these.
        let mut stage = Stage::new(&mut random, capacity, 2 * q_len + 2 * k_len, vec![0; state_bytes]);
        let shape = |turns: Address| AttentionShape {
            q: 0,
            k: q_len as u32,
            v: (q_len + k_len) as u32,
            out: (q_len + 2 * k_len) as u32,
            heads: heads as u32,
            kv_heads: kv_heads as u32,
            head_dim: head_dim as u32,
            half: half as u32,
            kind,
            capacity: capacity as u32,
            sink: 0,
            slides: 0,
            turns,
            slot: 0,
            scale,
        };
        let room = Attention::room_bytes(capacity as u32, &shape(Address::NULL));
        let all = stage.frames.clone();
        let mut steps = vec![(0, capacity - tokens), (capacity - tokens, tokens)];
        steps.retain(|&(_, count)| count > 0);
        let mut out = Vec::new();
        for (first, count) in steps {
            stage.tokens = count;
            stage.frames = all[first * stage.stride..(first + count) * stage.stride].to_vec();
            stage.run(&device, first as u64, room, &[], &turns, |batch, _, turns, room| {
                kernels.run(&device, batch, &shape(turns), room).unwrap();
            });
            for t in 0..count {
                out.extend_from_slice(&stage.at(t, (q_len + 2 * k_len) as u32)[..q_len]);
            }
        }
        let rotated = |t: usize, at: usize| {
            let x: Vec<f64> = (0..head_dim).map(|i| f64::from(all[t * stage.stride + at + i])).collect();
            let mut y = x.clone();
            for i in 0..half {
                let turn = (t as u64).wrapping_mul(turns[i]) as f64 / 2f64.powi(64) * std::f64::consts::TAU;
                y[i] = x[i] * turn.cos() - x[i + half] * turn.sin();
                y[i + half] = x[i + half] * turn.cos() + x[i] * turn.sin();
            }
            y
        };
        // What a cache of few bits keeps is part of what is computed: the bound allows for its rounding.
        let bound = [2e-5, 3e-2, 3e-1][kind as usize];
        let mut want = Vec::new();
        for t in 0..capacity {
            for head in 0..heads {
                let q = rotated(t, head * head_dim);
                let kv = head / (heads / kv_heads);
                let scores: Vec<f64> = (0..=t)
                    .map(|j| rotated(j, q_len + kv * head_dim).iter().zip(&q).map(|(k, q)| k * q).sum::<f64>() * f64::from(scale))
                    .collect();
                let most = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let weights: Vec<f64> = scores.iter().map(|s| (s - most).exp()).collect();
                let total: f64 = weights.iter().sum();
                for i in 0..head_dim {
                    let v = |j: usize| f64::from(all[j * stage.stride + q_len + k_len + kv * head_dim + i]);
                    want.push((0..=t).map(|j| weights[j] * v(j)).sum::<f64>() / total);
                }
            }
        }
        let distance = off(&out, &want);
        assert!(distance < bound, "case {case}: kind {kind}, {heads}/{kv_heads} heads of {head_dim}, {capacity} positions: {distance:e}");
    }
}

#[test]
fn attention_of_many_tokens_has_the_bits_of_steps() {
    let Some(device) = gpu("attention of many tokens") else { return };
    let kernels = Attention::load(&device).unwrap();
    let mut random = Random::fresh("attention of many tokens");
    for case in 0..28u32 {
        let head_dim = [32, 64, 96, 128][case as usize % 4];
        let kv_heads = 1 + random.below(3) as usize;
        let heads = kv_heads * (1 + random.below(4) as usize);
        let capacity = 16 + random.below(if case < 16 { 150 } else { 700 }) as usize;
        let tokens = 16 + random.below(capacity as u32 - 15) as usize;
        let before = random.below((capacity - tokens) as u32 + 1) as usize;
        let (q_len, k_len) = (heads * head_dim, kv_heads * head_dim);
        let state_bytes = 2 * ((4 * kv_heads * capacity).next_multiple_of(16) + kv_heads * capacity * head_dim);
        let shape = AttentionShape {
            q: 0,
            k: q_len as u32,
            v: (q_len + k_len) as u32,
            out: (q_len + 2 * k_len) as u32,
            heads: heads as u32,
            kv_heads: kv_heads as u32,
            head_dim: head_dim as u32,
            half: 0,
            kind: 1,
            capacity: capacity as u32,
            sink: 0,
            slides: 0,
            turns: Address::NULL,
            slot: 0,
            scale: random.uniform(0.5, 4.0) / (head_dim as f32).sqrt(),
        };
        let stride = 2 * q_len + 2 * k_len + 4;
        let mut all = random.normals((before + tokens) * stride);
        // Queries, keys and values of nothing; a token among the others that is far larger.
        for token in all.chunks_exact_mut(stride) {
            match random.below(12) {
                0 => token.fill(0.0),
                1 => token.iter_mut().for_each(|x| *x *= 30.0),
                _ => {}
            }
        }
        let room = Attention::room_bytes(tokens as u32, &shape);
        // The same state, then all tokens at once, or few enough at a time that the general kernels take them.
        let run = |parts: &[usize]| {
            let mut stage = Stage { frames: Vec::new(), stride, tokens: 0, state: vec![0; state_bytes] };
            let (mut out, mut at) = (Vec::new(), 0);
            for &count in parts {
                stage.tokens = count;
                stage.frames = all[at * stride..(at + count) * stride].to_vec();
                stage.run(&device, at as u64, room, &[], &[0], |batch, _, _, room| kernels.run(&device, batch, &shape, room).unwrap());
                for t in 0..count {
                    out.extend(stage.at(t, shape.out)[..q_len].iter().map(|y| y.to_bits()));
                }
                at += count;
            }
            (out, stage.state)
        };
        let few: Vec<usize> = (0..before + tokens).step_by(15).map(|at| (before + tokens - at).min(15)).collect();
        let mut parts = vec![before; usize::from(before > 0)];
        parts.push(tokens);
        let (want, got) = (run(&few), run(&parts));
        let differ = got.0.iter().zip(&want.0).filter(|(a, b)| a != b).count();
        assert!(
            differ == 0 && got.1 == want.1,
            "case {case}: {heads}/{kv_heads} heads of {head_dim}, {before} + {tokens} of {capacity}: {differ} differ"
        );
    }
}
