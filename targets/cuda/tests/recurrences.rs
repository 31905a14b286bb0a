//! Selective scans and state-space dual recurrences of many tokens in orders of their own against an oracle in f64.

use crate::rig::{Bench, Random, gpu, off};
use brooklet_cuda::batch::Batch;
use brooklet_cuda::launch::{ScanShape, SelectiveScan, SsdShape, StateSpaceDual};
use half::f16;

fn silu(x: f64) -> f64 {
    x / (1.0 + (-x).exp())
}

fn softplus(x: f64) -> f64 {
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}

/// A state as it is stored, f32 or f16, and what was rounded.
fn stored(random: &mut Random, count: usize, is_half: bool) -> (Vec<u8>, Vec<f64>) {
    let numbers = random.normals(count);
    if is_half {
        let halves: Vec<f16> = numbers.iter().map(|&x| f16::from_f32(x)).collect();
        (halves.iter().flat_map(|x| x.to_le_bytes()).collect(), halves.iter().map(|x| x.to_f64()).collect())
    } else {
        (numbers.iter().flat_map(|x| x.to_le_bytes()).collect(), numbers.iter().map(|&x| f64::from(x)).collect())
    }
}

fn restored(bytes: &[u8], is_half: bool) -> Vec<f32> {
    if is_half {
        bytes.chunks_exact(2).map(|x| f16::from_le_bytes([x[0], x[1]]).to_f32()).collect()
    } else {
        bytes.chunks_exact(4).map(|x| f32::from_le_bytes([x[0], x[1], x[2], x[3]])).collect()
    }
}

/// Random states of several streams, a slot of `cells` numbers at `slot` in each: their bytes, the bytes from one to the next, (streams, cells).
fn states(random: &mut Random, streams: usize, slot: usize, cells: usize, is_half: bool) -> (Vec<u8>, usize, Vec<f64>) {
    let stride = (slot + cells * if is_half { 2 } else { 4 }).next_multiple_of(64);
    let mut all = vec![0u8; streams * stride];
    let mut numbers = Vec::new();
    for state in all.chunks_exact_mut(stride) {
        let (bytes, stored) = stored(random, cells, is_half);
        state[slot..][..bytes.len()].copy_from_slice(&bytes);
        numbers.extend(stored);
    }
    (all, stride, numbers)
}

/// Frames of random operands, `widths` one behind the other from `before` on, then `wide` poisoned numbers; and where each starts.
fn frames(random: &mut Random, rows: usize, before: usize, widths: &[usize], wide: usize, behind: usize) -> (Vec<f32>, Vec<usize>, usize) {
    let mut at = vec![before];
    for width in widths {
        at.push(at[at.len() - 1] + width);
    }
    let stride = at[widths.len()] + wide + behind;
    let mut all = vec![f32::NAN; rows * stride];
    for frame in all.chunks_exact_mut(stride) {
        frame[before..at[widths.len()]].fill_with(|| random.normal());
    }
    (all, at, stride)
}

/// What must hold of a run: every output near the truth, everything else in the frames untouched.
fn check_frames(before: &[f32], after: &[f32], stride: usize, out: usize, want: &[f64], bound: f64, what: &str) {
    let wide = want.len() / (before.len() / stride);
    let mut got = Vec::new();
    for (old, new) in before.chunks_exact(stride).zip(after.chunks_exact(stride)) {
        got.extend_from_slice(&new[out..out + wide]);
        let same = |range: std::ops::Range<usize>| old[range.clone()].iter().zip(&new[range]).all(|(a, b)| a.to_bits() == b.to_bits());
        assert!(same(0..out) && same(out + wide..stride), "{what}: wrote outside its output");
    }
    let distance = off(&got, want);
    assert!(distance < bound, "{what}: off by {distance:e}");
}

#[test]
fn scans_are_those_of_the_oracle() {
    let Some(device) = gpu("selective scan") else { return };
    let kernels = SelectiveScan::load(&device).unwrap();
    let mut random = Random::fresh("selective scan");
    for case in 0..38 {
        let d_state = [16, 16, 16, 1 + random.below(15), 17 + random.below(47), 65 + random.below(192)][case % 6];
        let heads = if case % 5 == 0 { 2 } else { 1 };
        let channels = heads * (1 + random.below(if case % 3 == 0 { 400 } else { 70 }));
        let tokens = [1, 2 + random.below(30), 33 + random.below(200)][(case / 2) % 3];
        let (d_state, heads, channels, tokens) = match case {
            36 => (40, 1, 9, 92),     // several tiles of the second kernel
            37 => (16, 1, 4001, 100), // blocks of many warps
            _ => (d_state, heads, channels, tokens),
        };
        let streams = 1 + random.below(3);
        let (has_z, is_half, has_gaps) = (random.below(2) == 0, random.below(2) == 0, random.below(2) == 0);
        let (e_count, n_count, rows) = (channels as usize, d_state as usize, (streams * tokens) as usize);
        let per_head = e_count / heads as usize;
        let bc = heads as usize * n_count;
        let (before, behind) = (random.below(4) as usize, random.below(4) as usize);
        let (all, at, stride) = frames(&mut random, rows, before, &[e_count, e_count, bc, bc, e_count], e_count, behind);
        let a: Vec<f32> = (0..n_count * e_count).map(|i| -((i / e_count + 1) as f32) * random.uniform(0.2, 1.5)).collect();
        let (d, dt_bias) = (random.normals(e_count), random.normals(e_count));
        let gaps: Vec<f32> = (0..rows).map(|_| random.uniform(0.5, 2.0)).collect();
        let slot = 256;
        let cells = n_count * e_count;
        let cell_bytes = if is_half { 2 } else { 4 };
        let (state_bytes, state_stride, mut h) = states(&mut random, streams as usize, slot, cells, is_half);

        let mut bench = Bench::new(&device);
        let places = [bench.put(&all), bench.put(&a), bench.put(&d), bench.put(&dt_bias), bench.put(&gaps)];
        let state = bench.put(&state_bytes);
        let arena = bench.arena();
        let address = |i: usize| arena.address(places[i]);
        let batch = Batch {
            frames: address(0),
            state: arena.address(state),
            gaps: if has_gaps { address(4) } else { Default::default() },
            state_stride: state_stride as u64,
            stride: stride as u32,
            tokens,
            streams,
            period: 1,
            ..Default::default()
        };
        let shape = ScanShape {
            x: at[0] as u32,
            dt: at[1] as u32,
            b: at[2] as u32,
            c: at[3] as u32,
            z: at[4] as u32,
            out: at[5] as u32,
            has_z: has_z.into(),
            channels,
            d_state,
            heads,
            is_half: is_half.into(),
            a: address(1),
            d: address(2),
            dt_bias: address(3),
            slot: slot as u64,
        };
        assert!(kernels.run(&device, &batch, &shape).unwrap());
        let mut after = vec![0.0f32; all.len()];
        arena.download(places[0], &mut after).unwrap();
        let mut state_after = vec![0u8; state_bytes.len()];
        arena.download(state, &mut state_after).unwrap();

        let mut want = Vec::new();
        for row in 0..rows {
            let frame = &all[row * stride..][..stride];
            let number = |operand: usize, i: usize| f64::from(frame[at[operand] + i]);
            let h = &mut h[row / tokens as usize * cells..][..cells];
            for e in 0..e_count {
                let gap = if has_gaps { f64::from(gaps[row]) } else { 1.0 };
                let step = softplus(number(1, e) + f64::from(dt_bias[e])) * gap;
                let mut y = f64::from(d[e]) * number(0, e);
                for n in 0..n_count {
                    let h = &mut h[n * e_count + e];
                    let shared = e / per_head * n_count + n;
                    *h = (step * f64::from(a[n * e_count + e])).exp() * *h + step * number(0, e) * number(2, shared);
                    y += number(3, shared) * *h;
                }
                want.push(if has_z { y * silu(number(4, e)) } else { y });
            }
        }
        let what = format!("case {case}: {shape:?}, {tokens} tokens, {streams} streams");
        check_frames(&all, &after, stride, at[5], &want, 1e-5, &what);
        for stream in 0..streams as usize {
            let got = restored(&state_after[stream * state_stride + slot..][..cells * cell_bytes], is_half);
            let distance = off(&got, &h[stream * cells..][..cells]);
            assert!(distance < if is_half { 1e-3 } else { 1e-5 }, "{what}: state off by {distance:e}");
        }
    }
}

#[test]
fn dual_recurrences_are_those_of_the_oracle() {
    let Some(device) = gpu("state-space dual") else { return };
    let kernels = StateSpaceDual::load(&device).unwrap();
    let mut random = Random::fresh("state-space dual");
    for case in 0..40 {
        let head_dim = [64, 32, 80, 96, 128, 1 + random.below(40)][case % 6];
        let d_state = [128, 16, 64, 256, 17 + random.below(100), 1 + random.below(15)][(case / 2) % 6];
        let groups = 1 + random.below(2);
        // The last have more heads than a GPU walks at once, so that sequences are not cut; else a cluster of blocks may have each head.
        let heads = if case < 36 { groups * (1 + random.below(4)) } else { groups * (70 + random.below(10)) };
        let tokens = StateSpaceDual::SHORTEST
            + [random.below(30), 57 + random.below(3), 60 + random.below(300)][if case < 36 { (case / 3) % 3 } else { 2 }];
        let streams = 1 + random.below(2);
        let (is_half, has_gaps, has_bounds) = (random.below(2) == 0, random.below(2) == 0, random.below(2) == 0);
        let (dt_lo, dt_hi) = if has_bounds { (0.05, 0.6) } else { (0.0, f32::INFINITY) };
        let [p_count, n_count, h_count] = [head_dim, d_state, heads].map(|n| n as usize);
        let rows = (streams * tokens) as usize;
        let (wide, bc) = (h_count * p_count, groups as usize * n_count);
        let (before, behind) = if case % 2 == 0 { (0, 0) } else { (random.below(4) as usize, random.below(4) as usize) };
        let (all, at, stride) = frames(&mut random, rows, before, &[wide, bc, bc, h_count], wide, behind);
        let a: Vec<f32> = (0..h_count).map(|_| -random.uniform(-3.0, 2.0).exp()).collect();
        let (d, dt_bias) = (random.normals(h_count), random.normals(h_count));
        let gaps: Vec<f32> = (0..rows).map(|_| random.uniform(0.5, 2.0)).collect();
        let slot = 64;
        let cells = wide * n_count;
        let cell_bytes = if is_half { 2 } else { 4 };
        let (state_bytes, state_stride, first) = states(&mut random, streams as usize, slot, cells, is_half);

        let mut want = Vec::new();
        let mut last = first.clone();
        for row in 0..rows {
            let frame = &all[row * stride..][..stride];
            let number = |operand: usize, i: usize| f64::from(frame[at[operand] + i]);
            let state = &mut last[row / tokens as usize * cells..][..cells];
            for head in 0..h_count {
                let gap = if has_gaps { f64::from(gaps[row]) } else { 1.0 };
                let step = softplus(number(3, head) + f64::from(dt_bias[head])).max(f64::from(dt_lo)).min(f64::from(dt_hi)) * gap;
                let decay = (step * f64::from(a[head])).exp();
                let group = head / (h_count / groups as usize) * n_count;
                for p in 0..p_count {
                    let x = number(0, head * p_count + p);
                    let mut y = f64::from(d[head]) * x;
                    for n in 0..n_count {
                        let s = &mut state[(head * n_count + n) * p_count + p];
                        *s = decay * *s + step * x * number(1, group + n);
                        y += number(2, group + n) * *s;
                    }
                    want.push(y);
                }
            }
        }

        let mut outcomes: Vec<Vec<u8>> = Vec::new();
        for _ in 0..2 {
            let mut bench = Bench::new(&device);
            let places = [bench.put(&all), bench.put(&a), bench.put(&d), bench.put(&dt_bias), bench.put(&gaps)];
            let state = bench.put(&state_bytes);
            let mut shape = SsdShape {
                x: at[0] as u32,
                b: at[1] as u32,
                c: at[2] as u32,
                dt: at[3] as u32,
                out: at[4] as u32,
                heads,
                head_dim,
                groups,
                d_state,
                is_half: is_half.into(),
                z: 0,
                has_gate: 0,
                dt_lo,
                dt_hi,
                a: Default::default(),
                d: Default::default(),
                dt_bias: Default::default(),
                slot: slot as u64,
            };
            let arena = bench.arena();
            let address = |i: usize| arena.address(places[i]);
            (shape.a, shape.d, shape.dt_bias) = (address(1), address(2), address(3));
            let batch = Batch {
                frames: address(0),
                state: arena.address(state),
                gaps: if has_gaps { address(4) } else { Default::default() },
                state_stride: state_stride as u64,
                stride: stride as u32,
                tokens,
                streams,
                period: 1,
                ..Default::default()
            };
            assert!(kernels.run(&device, &batch, &shape).unwrap());
            let mut after = vec![0.0f32; all.len()];
            arena.download(places[0], &mut after).unwrap();
            let mut state_after = vec![0u8; state_bytes.len()];
            arena.download(state, &mut state_after).unwrap();
            let what = format!("case {case}: {shape:?}, {tokens} tokens, {streams} streams");
            check_frames(&all, &after, stride, at[4], &want, 5e-5, &what);
            for stream in 0..streams as usize {
                let got = restored(&state_after[stream * state_stride + slot..][..cells * cell_bytes], is_half);
                let distance = off(&got, &last[stream * cells..][..cells]);
                assert!(distance < if is_half { 1e-3 } else { 5e-5 }, "{what}: state off by {distance:e}");
            }
            let bits: Vec<u8> = after.iter().flat_map(|x| x.to_bits().to_le_bytes()).chain(state_after).collect();
            outcomes.push(bits);
        }
        assert!(outcomes[0] == outcomes[1], "case {case}: two runs differ");
    }
}
