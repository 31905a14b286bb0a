//! The residual stream turns: what a few channels hold is spread over all of them, in every matrix that writes or reads the
//! stream, so that no operation sees a difference.
//!
//! Values that hold the stream, or sums of it, or its norms, are found by what operations do with them. A norm that kept its gain
//! (in front of a head that shares the embedding's matrix) gets the transform before and behind it.

use super::uses::{MatrixUse, change, is_whole, matrix_uses, replace};
use super::walsh::{Rotation, block_of, scale_of};
use crate::graph::{Graph, Operand, Values};
use brooklet::ops::{Activate, Activation, Copy, Hadamard, Norm, NormKind, Op, TensorId};
use std::collections::{HashMap, HashSet};

/// Values that must turn together, and those that cannot.
struct Groups {
    parent: Vec<usize>,
    fixed: Vec<bool>,
}

impl Groups {
    fn find(&self, mut value: usize) -> usize {
        while self.parent[value] != value {
            value = self.parent[value];
        }
        value
    }

    fn join(&mut self, a: usize, b: usize) {
        let (a, b) = (self.find(a), self.find(b));
        self.parent[b] = a;
        self.fixed[a] |= self.fixed[b];
    }

    fn fix(&mut self, value: usize) {
        let root = self.find(value);
        self.fixed[root] = true;
    }

    fn turns(&self, operand: Option<Operand>) -> bool {
        operand.is_some_and(|operand| !self.fixed[self.find(operand.value)])
    }
}

/// Turns every stream that can be. Returns how many values and how many norms with the transform around them.
pub(super) fn rotate(graph: &mut Graph<'_>) -> (usize, usize) {
    let uses = matrix_uses(graph);
    let groups = groups(graph, &uses);
    let turned = (0..graph.values.len()).filter(|&value| !groups.fixed[groups.find(value)]).count();
    if turned == 0 {
        return (0, 0);
    }
    let mut done: HashSet<TensorId> = HashSet::new();
    for u in &uses {
        if !done.insert(u.matrix) {
            continue;
        }
        let cols = graph.tensors[u.matrix as usize].cols;
        if let Some(rotation) = u.cols.filter(|_| groups.turns(u.cols)).and_then(|x| Rotation::random(x.len as usize)) {
            change(graph, u.matrix, move |data| rotation.rows(data));
        }
        if let Some(rotation) = u.rows.filter(|_| groups.turns(u.rows)).and_then(|y| Rotation::random(y.len as usize)) {
            change(graph, u.matrix, move |data| rotation.columns(data, cols));
        }
    }
    let mut biases: Vec<TensorId> = Vec::new();
    for op in &graph.ops {
        if let Op::Linear(linear) = op
            && let Some(bias) = linear.bias
            && groups.turns(Some(linear.out))
            && !biases.contains(&bias)
        {
            biases.push(bias);
            if let Values::Array(data) = &mut graph.tensors[bias as usize].values
                && let Some(rotation) = Rotation::random(data.len())
            {
                rotation.rows(data);
            }
        }
    }
    let mut bridges = 0;
    for i in (0..graph.ops.len()).rev() {
        if let Op::Norm(norm) = graph.ops[i]
            && norm.weight.is_some()
            && groups.turns(Some(norm.out))
        {
            bridges += 1;
            replace(graph, i, bridge(norm));
        }
    }
    (turned, bridges)
}

/// A norm of a turned value, with a gain for what it was before. The signs of the rotation are in no operation: they pass
/// through the norm.
fn bridge(norm: Norm<Operand>) -> Vec<Op<Operand>> {
    let block = block_of(norm.x.len as usize).unwrap_or(1);
    let transform = Op::Hadamard(Hadamard { x: norm.out, block: block as u32, scale: scale_of(block) });
    let mut ops = vec![transform, Op::Norm(Norm { x: norm.out, ..norm }), transform];
    if norm.x != norm.out {
        ops.insert(0, Op::Copy(Copy { x: norm.out, y: norm.x }));
    }
    ops
}

/// What can turn, and what with.
fn groups(graph: &Graph<'_>, uses: &[MatrixUse]) -> Groups {
    let count = graph.values.len();
    let mut groups = Groups { parent: (0..count).collect(), fixed: vec![false; count] };
    let mut has_norm = vec![false; count];
    for op in &graph.ops {
        let mut whole = true;
        let _ = op.map(|operand: Operand, _| {
            whole &= is_whole(graph, operand);
            if !is_whole(graph, operand) || block_of(operand.len as usize).is_none() {
                groups.fix(operand.value);
            }
        });
        match op {
            Op::Add(op) => groups.join(op.x.value, op.y.value),
            Op::Copy(op) => groups.join(op.x.value, op.y.value),
            Op::Norm(norm) if turns_through(graph, norm) => {
                groups.join(norm.x.value, norm.out.value);
                has_norm[norm.x.value] = true;
            }
            Op::ScaleBy(op) if op.y.len == 1 => {}
            Op::Activate(Activate { f: Activation::Scale { .. }, .. }) => {}
            // Their matrices turn instead.
            Op::Embed(_) | Op::Linear(_) | Op::Head(_) | Op::CappedHead(_) => {}
            Op::Moe(moe) => {
                groups.fix(moe.scores.value);
                groups.fix(moe.hidden.value);
                groups.join(moe.out.value, moe.expert_out.value);
            }
            _ => drop(op.map(|operand: Operand, _| groups.fix(operand.value))),
        }
    }
    // Only streams with norms: elsewhere nothing is gained.
    let streams: HashSet<usize> = (0..count).filter(|&value| has_norm[value]).map(|value| groups.find(value)).collect();
    (0..count).filter(|value| !streams.contains(value)).for_each(|root| groups.fixed[root] = true);
    // A matrix of several uses must turn the same way in all of them.
    loop {
        let sides = |u: &MatrixUse| (groups.turns(u.cols), groups.turns(u.rows));
        let mut first: HashMap<TensorId, &MatrixUse> = HashMap::new();
        let torn = uses.iter().find_map(|b| {
            let a = *first.entry(b.matrix).or_insert(b);
            (sides(a) != sides(b)).then_some((*a, *b))
        });
        let Some((a, b)) = torn else { return groups };
        for operand in [a.cols, a.rows, b.cols, b.rows].into_iter().flatten() {
            groups.fix(operand.value);
        }
    }
}

/// Whether a norm's output turns as its input does. Its gain must be gone, or be one over the whole.
fn turns_through(graph: &Graph<'_>, norm: &Norm<Operand>) -> bool {
    let array = |id: TensorId| matches!(graph.tensors[id as usize].values, Values::Array(_));
    matches!(norm.kind, NormKind::Rms | NormKind::RmsEpsOutside)
        && norm.groups == 1
        && norm.bias.is_none()
        && norm.gate.is_none()
        && norm.weight.is_none_or(array)
}
