//! A program as a GPU runs it: operations one by one, neighbours in one launch, blocks.

use crate::fuse::Fused;
use crate::model::CudaModel;
use crate::tensors::Tensors;
use brooklet::ops::{self, Op};

/// A part of a program.
#[derive(Debug)]
pub(crate) enum Node {
    /// One operation and its number.
    One(u32, Op),
    /// Neighbours that a step of one token runs in one launch, the first one's number; and one by one.
    Fused(u32, Fused, Vec<Op>),
    /// A block that each token enters by its score.
    Routed(u32, ops::Route, Vec<Op>),
    /// A block with a rate of its own.
    Every(u32, ops::Every, Vec<Op>),
}

impl Node {
    /// Its operations, one by one.
    pub(crate) fn ops(&self) -> &[Op] {
        match self {
            Node::One(_, op) => std::slice::from_ref(op),
            Node::Fused(_, _, ops) | Node::Routed(_, _, ops) | Node::Every(_, _, ops) => ops,
        }
    }
}

/// Cuts a program into its parts.
pub(crate) fn nodes(ops: &[Op], tensors: &Tensors) -> Vec<Node> {
    let mut program = Vec::new();
    let mut at = 0;
    while let Some(op) = ops.get(at) {
        let number = at as u32;
        let block = |count: u32| ops.get(at + 1..at + 1 + count as usize).unwrap_or_default().to_vec();
        let node = match *op {
            Op::Route(route) => Node::Routed(number, route, block(route.ops)),
            Op::Every(every) => Node::Every(number, every, block(every.ops)),
            op => match Fused::at(ops, at, |linear| tensors.format(linear.w).is_quantized()) {
                Some(fused) => Node::Fused(number, fused, ops[at..at + fused.len()].to_vec()),
                None => Node::One(number, op),
            },
        };
        at += match &node {
            Node::One(..) | Node::Fused(..) => node.ops().len(),
            Node::Routed(..) | Node::Every(..) => 1 + node.ops().len(),
        };
        program.push(node);
    }
    program
}

impl CudaModel<'_> {
    /// Which blocks run in a step at `position`, a bit each; `None` if there are more than bits.
    pub(crate) fn pattern(&self, position: u64) -> Option<u64> {
        let mut pattern = Some(0u64);
        for (number, every) in
            self.program.iter().filter_map(|node| if let Node::Every(_, every, _) = node { Some(every) } else { None }).enumerate()
        {
            let runs = position.checked_sub(u64::from(every.start)).is_some_and(|since| since.is_multiple_of(u64::from(every.period)));
            pattern = pattern.filter(|_| number < 64).map(|pattern| pattern | u64::from(runs) << number);
        }
        pattern
    }
}
