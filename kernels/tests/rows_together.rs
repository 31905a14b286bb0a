//! Kernels that take several rows, or several streams, at once give the bits of one row after the other.

#![cfg(feature = "std")]

use brooklet_kernels::{Conv1d, KernelTable, Norm, NormKind, Rows, RowsMut, StateMut, available};
use proptest::prelude::*;

/// Numbers in `-by .. by`, the same for the same seed; now and then a silent stretch.
fn numbers(seed: u64, count: usize, by: f32) -> Vec<f32> {
    strange(seed, count, by).into_iter().map(|x| if x.is_finite() { x } else { by }).collect()
}

/// [`numbers`]; now and then none, or an infinite one.
fn strange(seed: u64, count: usize, by: f32) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        state >> 33
    };
    (0..count)
        .map(|i| match next() % 997 {
            0 => f32::NAN,
            1 => f32::INFINITY,
            _ if seed.is_multiple_of(5) && i / 32 % 3 == 1 => 0.0,
            n => (n as f32 / 498.0 - 1.0) * by,
        })
        .collect()
}

/// Bits, with one NaN for all.
fn bits(x: &[f32]) -> Vec<u32> {
    x.iter().map(|x| if x.is_nan() { u32::MAX } else { x.to_bits() }).collect()
}

/// Rows of `width` with a few numbers between them.
fn rows(data: &[f32], rows: usize, width: usize) -> Rows<'_> {
    Rows::new(data, rows, width, width + 3).unwrap()
}

fn rows_mut(data: &mut [f32], rows: usize, width: usize) -> RowsMut<'_> {
    RowsMut::new(data, rows, width, width + 3).unwrap()
}

fn portable() -> &'static KernelTable {
    available().next().unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn rounding(seed in 0..u64::MAX / 2, count in 1usize..12, width in 1usize..200) {
        let x = strange(seed, count * (width + 3), 3.0);
        let groups = width.div_ceil(32);
        let planes = || (vec![0i8; count * groups * 32], vec![0.0f32; count * groups], vec![0i32; count * groups]);
        let mut want = planes();
        for row in 0..count {
            let part = row * groups..(row + 1) * groups;
            let codes = &mut want.0[row * groups * 32..(row + 1) * groups * 32];
            portable().quantize_activations(rows(&x, count, width).row(row), codes, &mut want.1[part.clone()], &mut want.2[part]);
        }
        for table in available() {
            let mut got = planes();
            table.quantize_rows(rows(&x, count, width), &mut got.0, &mut got.1, &mut got.2);
            prop_assert_eq!(&got.0, &want.0, "{}", table.name());
            prop_assert_eq!(bits(&got.1), bits(&want.1), "{}", table.name());
            prop_assert_eq!(&got.2, &want.2, "{}", table.name());
        }
    }

    #[test]
    fn norms(
        seed in 0..u64::MAX / 2, count in 1usize..12, width in 1usize..80, in_place: bool, has_gate: bool, gate_first: bool,
        has_weight: bool, kind in prop::sample::select(vec![NormKind::Rms, NormKind::Rms, NormKind::Layer, NormKind::RmsEpsOutside]),
    ) {
        let numbers = |i, count, by| numbers(seed + i, count, by);
        let (x, gate, weight) = (numbers(0, count * (width + 3), 3.0), numbers(1, count * (width + 3), 4.0), numbers(2, width, 2.0));
        let norm = Norm { kind, weight: has_weight.then_some(&weight[..]), bias: None, groups: 1, eps: 1e-5, gate: None, gate_first };
        let gates = rows(&gate, count, width);
        let start = || if in_place { x.clone() } else { vec![7.0; x.len()] };
        let mut want = start();
        for row in 0..count {
            let mut all = rows_mut(&mut want, count, width);
            let y = all.row_mut(row);
            y.copy_from_slice(rows(&x, count, width).row(row));
            portable().norm(&Norm { gate: has_gate.then(|| gates.row(row)), ..norm }, y);
        }
        for table in available() {
            let mut got = start();
            let x = (!in_place).then(|| rows(&x, count, width));
            table.norm_rows(&norm, x, has_gate.then_some(gates), rows_mut(&mut got, count, width));
            prop_assert_eq!(bits(&got), bits(&want), "{}", table.name());
        }
    }

    #[test]
    fn convolutions_of_streams(seed in 0..u64::MAX / 2, count in 1usize..12, channels in 1usize..80, taps in 1usize..6, has_bias: bool, silu: bool) {
        let numbers = |i, count, by| numbers(seed + i, count, by);
        let (weight, bias) = (numbers(0, taps * (channels + 3), 1.0), numbers(1, channels, 1.0));
        let conv = Conv1d { weight: rows(&weight, taps, channels), bias: has_bias.then_some(&bias[..]), taps, silu };
        let x = numbers(2, count * (channels + 3), 2.0);
        let states: Vec<Vec<f32>> = (0..count).map(|i| numbers(3 + i as u64, taps.max(2) * (channels + 3), 2.0)).collect();
        let (mut want, mut want_states) = (x.clone(), states.clone());
        for (row, state) in want_states.iter_mut().enumerate() {
            let mut all = rows_mut(&mut want, count, channels);
            let mut one = all.row_mut(row).to_vec();
            portable().conv1d(&conv, rows_mut(state, taps - 1, channels), RowsMut::new(&mut one, 1, channels, channels).unwrap());
            all.row_mut(row).copy_from_slice(&one);
        }
        for table in available() {
            let (mut got, mut got_states) = (x.clone(), states.clone());
            let mut views: Vec<_> = got_states.iter_mut().map(|state| StateMut::F32(rows_mut(state, taps - 1, channels))).collect();
            if table.conv1d_streams(&conv, &mut views, &mut rows_mut(&mut got, count, channels)) {
                prop_assert_eq!(bits(&got), bits(&want), "{}", table.name());
                for (got, want) in got_states.iter().zip(&want_states) {
                    prop_assert_eq!(bits(got), bits(want), "{}", table.name());
                }
            } else {
                prop_assert_eq!(bits(&got), bits(&x), "{}", table.name());
            }
        }
    }
}
