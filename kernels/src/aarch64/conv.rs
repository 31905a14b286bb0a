//! The causal convolution, sixteen channels at a time in registers.

use super::lanes::{LANES, add, load, map, multiply, splat, store};
use crate::portable::act;
use crate::rows::RowsMut;
use crate::table::Conv1d;

/// See [`crate::portable::conv1d`]. All tokens of sixteen channels come before the next sixteen: their window stays in the first-level cache.
pub(super) fn conv1d(conv: &Conv1d<'_>, mut state: RowsMut<'_>, mut x: RowsMut<'_>) {
    let channels = x.width();
    for at in (0..channels).step_by(LANES) {
        match at + LANES <= channels {
            true => some_channels::<true>(conv, &mut state, &mut x, at),
            false => some_channels::<false>(conv, &mut state, &mut x, at),
        }
    }
}

/// All tokens of the channels from `at`: of sixteen (`WHOLE`), or of those that are left.
#[inline(always)]
fn some_channels<const WHOLE: bool>(conv: &Conv1d<'_>, state: &mut RowsMut<'_>, x: &mut RowsMut<'_>, at: usize) {
    let end = x.width();
    let load = |x: &[f32]| load::<WHOLE>(x, at, end);
    let kept = conv.taps.saturating_sub(1);
    let bias = conv.bias.map_or(splat(0.0), load);
    for t in 0..x.rows() {
        let newest = load(x.row(t));
        let mut acc = bias;
        let mut input = if kept > 0 { load(state.row(0)) } else { newest };
        for tap in 0..kept {
            acc = add(acc, multiply(load(conv.weight.row(tap)), input));
            input = if tap + 1 < kept { load(state.row(tap + 1)) } else { newest };
            store::<WHOLE>(state.row_mut(tap), at, end, input);
        }
        acc = add(acc, multiply(load(conv.weight.row(kept)), newest));
        if conv.silu {
            acc = map(acc, act::silu);
        }
        store::<WHOLE>(x.row_mut(t), at, end, acc);
    }
}
