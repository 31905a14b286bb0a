//! Where a program can be cut: between operations where few values are alive.

use crate::graph::{Graph, Operand, Values};
use brooklet::artifact::MAX_CHANNELS;
use brooklet::ops::{Op, TensorId};
use std::collections::BTreeSet;
use std::ops::Range;

/// How many times the numbers of the largest matrix a stretch may hold before more cuts are looked for.
const MOST_MATRICES: usize = 4;

/// A piece of a program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stretch {
    /// Its operations.
    pub(super) ops: Range<usize>,
    /// Values that live when it begins, in order.
    pub(super) entering: Vec<usize>,
    /// Values that live when it ends, in order.
    pub(super) leaving: Vec<usize>,
}

/// Cuts the program of a graph into stretches.
///
/// A token model's look-up in the embedding is no stretch: the first one begins behind it.
pub(super) fn stretches(graph: &Graph<'_>) -> Vec<Stretch> {
    let end = graph.ops.len();
    let first = usize::from(matches!(graph.ops.first(), Some(Op::Embed(_))));
    let alive = alive(graph);
    let width = |at: usize| -> usize { alive[at].iter().map(|&v| graph.values[v] as usize).sum() };
    let candidates: Vec<usize> = inner_cuts(graph).into_iter().filter(|&at| at > first).collect();
    let mut widths: Vec<usize> = candidates.iter().map(|&at| width(at)).filter(|&w| w <= MAX_CHANNELS).collect();
    widths.sort_unstable();
    widths.dedup();
    let numbers: Vec<usize> = graph.ops.iter().map(|op| matrices(graph, op).into_iter().map(|t| numbers_of(graph, t)).sum()).collect();
    let largest = numbers[first..end.saturating_sub(1)].iter().copied().max().unwrap_or(0);
    let mut cuts = vec![first, end];
    for most in widths {
        cuts = [first].into_iter().chain(candidates.iter().copied().filter(|&at| width(at) <= most)).chain([end]).collect();
        // The head's matrix is never run.
        let heaviest = cuts.windows(2).map(|c| numbers[c[0]..c[1].min(end - 1)].iter().sum::<usize>()).max().unwrap_or(0);
        if heaviest <= MOST_MATRICES * largest {
            break;
        }
    }
    // A piece without a matrix goes to the next one.
    let has_matrix = |ops: Range<usize>| numbers[ops].iter().any(|&n| n > 0);
    let mut kept = vec![first];
    for at in cuts.windows(3).map(|c| c[1]) {
        if has_matrix(*kept.last().unwrap_or(&0)..at) {
            kept.push(at);
        }
    }
    kept.push(end);
    let live = |at: usize| alive.get(at).map(|values| values.iter().copied().collect()).unwrap_or_default();
    kept.windows(2).map(|c| Stretch { ops: c[0]..c[1], entering: live(c[0]), leaving: live(c[1]) }).collect()
}

/// Values that are touched both before and from each operation on.
fn alive(graph: &Graph<'_>) -> Vec<BTreeSet<usize>> {
    let mut lives: Vec<Option<(usize, usize)>> = vec![None; graph.values.len()];
    for (i, op) in graph.ops.iter().enumerate() {
        let _ = op.map(|v: Operand, _| {
            let life = lives[v.value].get_or_insert((i, i));
            life.1 = i;
        });
    }
    let mut alive = vec![BTreeSet::new(); graph.ops.len()];
    for (value, life) in lives.into_iter().enumerate() {
        let Some((from, to)) = life else { continue };
        alive[from + 1..=to].iter_mut().for_each(|at| {
            at.insert(value);
        });
    }
    alive
}

/// Operations before which a cut may be: not inside a block, not before what stands in for missing samples. What runs at several rates
/// is not cut, since between its steps values are lost.
fn inner_cuts(graph: &Graph<'_>) -> Vec<usize> {
    if graph.ops.iter().any(|op| matches!(op, Op::Every(_))) {
        return Vec::new();
    }
    let mut inside = 0;
    let mut cuts = Vec::new();
    for (i, op) in graph.ops.iter().enumerate().skip(1) {
        if inside == 0 && !matches!(op, Op::Missing(_)) && !matches!(op, Op::Head(_) | Op::CappedHead(_)) {
            cuts.push(i);
        }
        inside = if let Op::Route(route) = op { route.ops as usize } else { inside.saturating_sub(1) };
    }
    cuts
}

/// The matrices that an operation multiplies or looks up.
pub(super) fn matrices(graph: &Graph<'_>, op: &Op<Operand>) -> Vec<usize> {
    let of = |id: TensorId| vec![id as usize];
    let all = match op {
        Op::Embed(_) => graph.embedding().collect(),
        Op::Linear(linear) => of(linear.w),
        Op::Lstm(lstm) => of(lstm.w),
        Op::Gru(gru) => of(gru.w),
        Op::Head(_) | Op::CappedHead(_) => graph.head_matrix().collect(),
        Op::Moe(moe) => {
            let first = moe.experts_at as usize;
            (first..first + 2 * moe.scores.len as usize).collect()
        }
        _ => Vec::new(),
    };
    all.into_iter().filter(|&t| matches!(graph.tensors[t].values, Values::Matrix(..))).collect()
}

/// Numbers in a matrix.
fn numbers_of(graph: &Graph<'_>, tensor: usize) -> usize {
    graph.tensors[tensor].rows * graph.tensors[tensor].cols
}
