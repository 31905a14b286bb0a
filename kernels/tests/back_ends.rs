//! Every back-end gives the portable kernels' bits, whatever the sizes.

use brooklet_kernels::{
    Attention, Cache, Conv1d, GatedDelta, Gru, KernelTable, Lstm, Norm, NormKind, Rows, RowsMut, Scan, Ssd, StateMut, available,
};
#[cfg(feature = "narrow-states")]
use brooklet_kernels::{Int4, portable::int4};
use proptest::prelude::*;

/// Numbers in `-by .. by`, the same for the same seed.
fn numbers(seed: u64, count: usize, by: f32) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((state >> 40) as f32 / 8_388_608.0 - 1.0) * by
    };
    (0..count).map(|_| next()).collect()
}

/// (positions, head_dim) numbers as codes and scales, (positions, groups).
#[cfg(feature = "narrow-states")]
fn int4(x: &[f32], head_dim: usize) -> (Vec<int4::Codes>, Vec<u16>) {
    let group = |x: &[f32]| {
        let mut codes = Default::default();
        let scale = int4::round_group(x, &mut codes);
        (codes, scale)
    };
    x.chunks(head_dim).flat_map(|x| x.chunks(32)).map(group).unzip()
}

/// `x`; if `is_strange` is set, with numbers among them that no model should make.
fn strange(mut x: Vec<f32>, is_strange: bool) -> Vec<f32> {
    let strange = [f32::NAN, 1e30, -0.0, f32::INFINITY, 1e-40, f32::NEG_INFINITY, 60.0, -f32::NAN];
    if is_strange {
        // Each place has a hash of its own, which goes on where the numbers of a vector end.
        for (i, x) in x.iter_mut().enumerate() {
            let place = (x.to_bits() as usize).wrapping_mul(0x9e37_79b9) >> 8;
            if (place + i).is_multiple_of(41) {
                *x = strange[place % strange.len()];
            }
        }
    }
    x
}

fn negative(seed: u64, count: usize, by: f32) -> Vec<f32> {
    numbers(seed, count, by).into_iter().map(|x| -x.abs()).collect()
}

fn codes(seed: u64, count: usize) -> Vec<i8> {
    numbers(seed, count, 127.0).into_iter().map(|x| x as i8).collect()
}

/// Runs `kernel` with every table; its results must be those of the first. Which NaN it is does not matter.
fn same(kernel: impl Fn(&KernelTable) -> Vec<f32>) -> Result<(), TestCaseError> {
    let bits = |table| kernel(table).into_iter().map(|x| if x.is_nan() { u32::MAX } else { x.to_bits() }).collect::<Vec<_>>();
    let mut tables = available();
    let want = bits(tables.next().unwrap());
    for table in tables {
        let got = bits(table);
        let differs = got.iter().zip(&want).position(|(got, want)| got != want);
        prop_assert!(differs.is_none(), "{}: number {} of {}", table.name(), differs.unwrap_or(0), got.len());
    }
    Ok(())
}

/// Rows of `width` with a few numbers between them.
fn rows(data: &[f32], rows: usize, width: usize) -> Rows<'_> {
    Rows::new(data, rows, width, width + 3).unwrap()
}

fn rows_mut<T>(data: &mut [T], rows: usize, width: usize) -> RowsMut<'_, T> {
    RowsMut::new(data, rows, width, width + 3).unwrap()
}

/// A recurrent state of (rows, width), in half precision or not, with a few numbers between the rows.
struct Kept {
    f32: Vec<f32>,
    f16: Option<Vec<u16>>,
    shape: (usize, usize),
}

impl Kept {
    fn new(seed: u64, rows: usize, width: usize, is_half: bool) -> Self {
        let f32 = numbers(seed, rows * (width + 3), 1.0);
        let f16 = (is_half && cfg!(feature = "narrow-states")).then(|| f32.iter().map(|&x| half::f16::from_f32(x).to_bits()).collect());
        Kept { f32, f16, shape: (rows, width) }
    }

    fn rows(&mut self) -> StateMut<'_> {
        let (rows, width) = self.shape;
        match &mut self.f16 {
            #[cfg(feature = "narrow-states")]
            Some(f16) => StateMut::F16(rows_mut(f16, rows, width)),
            _ => StateMut::F32(rows_mut(&mut self.f32, rows, width)),
        }
    }

    /// As numbers; halves as their bits.
    fn into_numbers(self) -> Vec<f32> {
        self.f16.map_or(self.f32, |f16| f16.into_iter().map(f32::from).collect())
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn hadamard_transforms(seed in 0..u64::MAX / 2, log_block in 0u32..11, blocks in 1usize..4, rest in 0usize..3, scale in 0.01f32..2.0) {
        let block = 1usize << log_block;
        let x = numbers(seed, blocks * block + rest.min(block - 1), 3.0);
        same(|kernels| {
            let mut x = x.clone();
            kernels.hadamard(&mut x, block, scale);
            x
        })?;
    }

    #[test]
    fn scans(
        seed in 0..u64::MAX / 2, per_head in prop_oneof![1usize..80, 480usize..600], heads in 1usize..3, d_state in prop_oneof![1usize..40, 60usize..70],
        tokens in prop_oneof![1usize..40, Just(1)], dt_by in prop::sample::select(vec![12.0, 12.0, 1e5]), gate: bool, gap in 0.5f32..2.0, half: bool,
        is_strange in prop::bool::weighted(0.2),
    ) {
        let width = heads * per_head;
        let wide = |i, by| strange(numbers(seed + i, tokens * (width + 3), by), is_strange);
        // Large step sizes take decays beyond what they are expected to be.
        let (x, dt, z) = (wide(0, 2.0), wide(1, dt_by), wide(2, 4.0));
        let [b, c] = [3, 4].map(|i| numbers(seed + i, tokens * (heads * d_state + 3), 1.0));
        let a = strange(negative(seed + 5, d_state * (width + 3), 8.0), is_strange);
        let (dt_bias, d) = (numbers(seed + 6, width, 1.0), numbers(seed + 7, width, 1.0));
        same(|kernels| {
            let mut h = Kept::new(seed + 8, d_state, width, half);
            let mut y = vec![7.0; tokens * (width + 3)];
            let scan = Scan {
                x: rows(&x, tokens, width),
                dt: rows(&dt, tokens, width),
                dt_bias: &dt_bias,
                a: rows(&a, d_state, width),
                b: rows(&b, tokens, heads * d_state),
                c: rows(&c, tokens, heads * d_state),
                d: &d,
                z: gate.then(|| rows(&z, tokens, width)),
                heads,
                gap,
                behind_bytes: 0,
            };
            kernels.scan(&scan, h.rows(), rows_mut(&mut y, tokens, width));
            [h.into_numbers(), y].concat()
        })?;
    }

    #[test]
    fn dual_recurrences(
        seed in 0..u64::MAX / 2, head_dim in prop_oneof![1usize..150, Just(16), (1usize..10).prop_map(|n| 16 * n)], per_group in 1usize..12, groups in 1usize..4,
        d_state in prop_oneof![1usize..131, prop::sample::select(vec![4usize, 8, 16, 256])], tokens in 1usize..40, streams in 1usize..40, cut: bool,
        half: bool, is_strange in prop::bool::weighted(0.2),
    ) {
        let all_heads = per_group * groups;
        let first_head = if cut { all_heads / 2 } else { 0 };
        let heads = all_heads - first_head;
        // A stream's tokens, one of each stream's, or, for a third of the cases, some of several streams'.
        let (streams, tokens) = match seed % 3 {
            0 => (1, tokens),
            1 => (streams, streams),
            _ => (streams.min(4), streams.min(4) * (tokens % 4)),
        };
        let x = strange(numbers(seed, tokens * (heads * head_dim + 3), 2.0), is_strange);
        let dt = strange(numbers(seed + 1, tokens * (heads + 3), 12.0), is_strange);
        let [b, c] = [2, 3].map(|i| numbers(seed + i, tokens * (groups * d_state + 3), 1.0));
        let a = strange(negative(seed + 4, heads, 4.0), is_strange);
        let (dt_bias, d) = (numbers(seed + 5, heads, 1.0), numbers(seed + 6, heads, 1.0));
        same(|kernels| {
            let mut states: Vec<Kept> = (0..streams).map(|i| Kept::new(seed + 7 + i as u64, heads, d_state * head_dim, half)).collect();
            let mut y = vec![7.0; tokens * (heads * head_dim + 3)];
            let ssd = Ssd {
                x: rows(&x, tokens, heads * head_dim),
                dt: rows(&dt, tokens, heads),
                dt_bias: &dt_bias,
                a: &a,
                b: rows(&b, tokens, groups * d_state),
                c: rows(&c, tokens, groups * d_state),
                d: &d,
                groups,
                heads_per_group: per_group,
                first_head,
                dt_lo: 0.001,
                dt_hi: 8.0,
                gap: 1.0,
            };
            let mut views: Vec<StateMut<'_>> = states.iter_mut().map(Kept::rows).collect();
            kernels.ssd(&ssd, &mut views, rows_mut(&mut y, tokens, heads * head_dim));
            y.extend(states.into_iter().flat_map(Kept::into_numbers));
            y
        })?;
    }

    #[test]
    fn gated_delta_rules(
        seed in 0..u64::MAX / 2, key_dim in 1usize..40, value_dim in prop_oneof![1usize..70, (1usize..10).prop_map(|n| 16 * n)], key_heads in 1usize..3, per_key in 1usize..3, half: bool, is_strange in prop::bool::weighted(0.2),
    ) {
        let heads = key_heads * per_key;
        let [q, k] = [0, 1].map(|i| strange(numbers(seed + i, key_heads * key_dim, 2.0), is_strange));
        let v = strange(numbers(seed + 2, heads * value_dim, 2.0), is_strange);
        let [a, b, dt_bias] = [3, 4, 5].map(|i| numbers(seed + i, heads, 3.0));
        let decay = negative(seed + 6, heads, 2.0);
        same(|kernels| {
            let mut state = Kept::new(seed + 7, heads, key_dim * value_dim, half);
            let mut y = vec![7.0; heads * value_dim];
            let (scale, beta_scale, eps) = (0.25, 1.0, 1e-6);
            let delta =
                GatedDelta { q: &q, k: &k, v: &v, a: &a, b: &b, decay: &decay, dt_bias: &dt_bias, key_heads, scale, beta_scale, eps };
            kernels.gated_delta_step(&delta, state.rows(), &mut y);
            [state.into_numbers(), y].concat()
        })?;
    }

    /// What is larger than the largest half is stored as that: no state is ever infinite.
    #[cfg(feature = "narrow-states")]
    #[test]
    fn states_in_half_precision_saturate(seed in 0..u64::MAX / 2, head_dim in 1usize..40, tokens in 1usize..40) {
        let wide = tokens * (head_dim + 3);
        let (x, dt) = (numbers(seed, wide, 3e6), numbers(seed + 1, tokens * 4, 1.0));
        let ones = vec![1.0; tokens * 4];
        for kernels in available() {
            let mut state = Kept::new(seed + 2, 1, head_dim, true);
            let mut y = vec![7.0; wide];
            let ssd = Ssd {
                x: rows(&x, tokens, head_dim),
                dt: rows(&dt, tokens, 1),
                dt_bias: &[0.0],
                a: &[-1e-6],
                b: rows(&ones, tokens, 1),
                c: rows(&ones, tokens, 1),
                d: &[0.0],
                groups: 1,
                heads_per_group: 1,
                first_head: 0,
                dt_lo: 0.0,
                dt_hi: f32::INFINITY,
                gap: 1.0,
            };
            kernels.ssd(&ssd, &mut [state.rows()], rows_mut(&mut y, tokens, head_dim));
            let halves = state.f16.unwrap();
            prop_assert!(halves.iter().all(|&bits| half::f16::from_bits(bits).is_finite()), "{}", kernels.name());
        }
    }

    #[test]
    fn convolutions(
        seed in 0..u64::MAX / 2, channels in 1usize..80, taps in 1usize..6, tokens in 1usize..10, has_bias: bool, silu: bool,
        is_strange in prop::bool::weighted(0.2),
    ) {
        let weight = numbers(seed, taps * (channels + 3), 1.0);
        let bias = numbers(seed + 1, channels, 1.0);
        same(|kernels| {
            let mut state = numbers(seed + 2, taps * (channels + 3), 9.0);
            let mut x = strange(numbers(seed + 3, tokens * (channels + 3), 9.0), is_strange);
            let conv = Conv1d { weight: rows(&weight, taps, channels), bias: has_bias.then_some(&bias), taps, silu };
            kernels.conv1d(&conv, rows_mut(&mut state, taps - 1, channels), rows_mut(&mut x, tokens, channels));
            [state, x].concat()
        })?;
    }

    #[test]
    fn norms(
        seed in 0..u64::MAX / 2, width in 1usize..200, groups in 1usize..4, kind in 0usize..3, with in 0u8..16, is_strange in prop::bool::weighted(0.2),
    ) {
        let count = groups * width;
        let part = |bit: u8| (with & bit != 0).then(|| strange(numbers(seed + u64::from(bit), count, 3.0), is_strange));
        let (weight, bias, gate) = (part(1), part(2), part(4));
        same(|kernels| {
            let mut x = numbers(seed + 9, count, 5.0);
            let norm = Norm {
                kind: [NormKind::Rms, NormKind::Layer, NormKind::RmsEpsOutside][kind],
                weight: weight.as_deref(),
                bias: bias.as_deref(),
                groups,
                eps: 1e-5,
                gate: gate.as_deref(),
                gate_first: with & 8 != 0,
            };
            kernels.norm(&norm, &mut x);
            x
        })?;
    }

    #[test]
    fn gated_units(seed in 0..u64::MAX / 2, len in 1usize..200, is_strange in prop::bool::weighted(0.2)) {
        let y = numbers(seed, len, 1.0);
        same(|kernels| {
            let mut x = strange(numbers(seed + 1, len, 30.0), is_strange);
            kernels.silu_multiply(&mut x, &y);
            x
        })?;
    }

    #[test]
    fn gated_cells(seed in 0..u64::MAX / 2, hidden in 1usize..80, has_bias: bool) {
        let [input, recurrent] = [0, 1].map(|i| numbers(seed + i, 4 * hidden, 6.0));
        let bias = numbers(seed + 2, hidden, 1.0);
        same(|kernels| {
            let [mut c, mut h] = [3, 4].map(|i| numbers(seed + i, hidden, 1.0));
            kernels.lstm_step(&Lstm { input: &input, recurrent: &recurrent }, &mut c, &mut h);
            let bias = has_bias.then_some(&bias[..]);
            kernels.gru_step(&Gru { input: &input[hidden..], recurrent: &recurrent[..3 * hidden], bias }, &mut c);
            [c, h].concat()
        })?;
    }

    #[test]
    fn attention(
        seed in 0..u64::MAX / 2, head_dim in prop_oneof![1usize..150, (1usize..10).prop_map(|n| 16 * n)], per_kv_head in 1usize..7,
        kv_heads in 1usize..4, len in 1usize..200, spare in 0usize..9, room in 1usize..6, kind in 0usize..3,
        largest in prop::sample::select(vec![2.0, 2.0, 2.0, 1e-31, 0.0]), is_rounded in prop::bool::weighted(0.8),
    ) {
        let capacity = len + spare;
        let (heads, elements) = (per_kv_head * kv_heads, kv_heads * capacity * head_dim);
        let q = numbers(seed, heads * head_dim, largest);
        let [keys, values] = [1, 2].map(|i| numbers(seed + i, elements, 2.0));
        let [key_codes, value_codes] = [1, 2].map(|i| codes(seed + i, elements));
        let [mut key_scales, mut value_scales] = [3, 4].map(|i| numbers(seed + i, kv_heads * capacity, 0.05));
        if is_rounded {
            // No rounding makes a scale below zero; back-ends may take another way where one is.
            key_scales.iter_mut().chain(&mut value_scales).for_each(|scale| *scale = scale.abs());
        }
        #[cfg(feature = "narrow-states")]
        let (int4_codes, int4_scales) = int4(&keys, head_dim);
        let cache = if kind == 1 {
            Cache::Int8 { key_scales: &key_scales, value_scales: &value_scales, keys: &key_codes, values: &value_codes }
        } else {
            Cache::F32 { keys: &keys, values: &values }
        };
        // Codes and scales of keys serve as values as well, the other way round.
        #[cfg(feature = "narrow-states")]
        let (values, value_scales): (Vec<_>, Vec<_>) = int4_codes.iter().zip(&int4_scales).rev().unzip();
        #[cfg(feature = "narrow-states")]
        let cache = if kind == 2 {
            Cache::Int4(Int4 { key_scales: &int4_scales, value_scales: &value_scales, keys: &int4_codes, values: &values })
        } else {
            cache
        };
        same(|kernels| {
            let mut scores = vec![7.0; room * len];
            let mut out = vec![7.0; heads * head_dim];
            let attention = Attention { q: &q, kv_heads, head_dim, scale: 0.125, len, capacity, cache };
            kernels.attend(&attention, &mut scores, &mut out);
            out
        })?;
    }
}

/// Rounding queries and weights to 15 bits costs next to nothing beside the 8 bits of the cache.
#[test]
fn attention_over_codes_is_that_over_the_floats_they_stand_for() {
    let (heads, kv_heads, head_dim, len) = (12, 4, 160, 333);
    let elements = kv_heads * len * head_dim;
    let q = numbers(1, heads * head_dim, 2.0);
    let [key_codes, value_codes] = [2, 3].map(|seed| codes(seed, elements));
    let [key_scales, value_scales] = [4, 5].map(|seed| numbers(seed, kv_heads * len, 0.02).into_iter().map(f32::abs).collect::<Vec<_>>());
    let floats = |codes: &[i8], scales: &[f32]| -> Vec<f32> {
        codes.chunks(head_dim).zip(scales).flat_map(|(codes, scale)| codes.iter().map(move |&code| f32::from(code) * scale)).collect()
    };
    let [keys, values] = [(&key_codes, &key_scales), (&value_codes, &value_scales)].map(|(codes, scales)| floats(codes, scales));
    let [of_codes, of_floats] = [
        Cache::Int8 { key_scales: &key_scales, value_scales: &value_scales, keys: &key_codes, values: &value_codes },
        Cache::F32 { keys: &keys, values: &values },
    ]
    .map(|cache| {
        let (mut scores, mut out) = (vec![0.0; len], vec![0.0; heads * head_dim]);
        let attention = Attention { q: &q, kv_heads, head_dim, scale: 0.08, len, capacity: len, cache };
        available().next().unwrap().attend(&attention, &mut scores, &mut out);
        out
    });
    let largest = of_floats.iter().fold(0.0f32, |m, x| m.max(x.abs()));
    let error = of_codes.iter().zip(&of_floats).fold(0.0f32, |m, (a, b)| m.max((a - b).abs()));
    assert!(error < 1e-3 * largest, "{error} of {largest}");
}
