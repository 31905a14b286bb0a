//! The transform in front of matrices whose input no other matrix could have turned: the outputs of mixers and of gated MLPs. It
//! costs the device a little, and evens out what it rounds to 8 bits there.

use super::uses::{change, matrix_uses, overlap, replace, touches};
use super::walsh::{Rotation, block_of, scale_of};
use crate::graph::{Graph, Operand, Role, Values};
use brooklet::ops::{Access, Hadamard, Linear, Op};

/// Puts the transform in front of such matrices. Returns how many.
pub(super) fn insert(graph: &mut Graph<'_>) -> usize {
    let (touches, uses) = (touches(graph), matrix_uses(graph));
    let mut places: Vec<(usize, Linear<Operand>)> = Vec::new();
    for (i, op) in graph.ops.iter().enumerate() {
        let Op::Linear(linear) = op else { continue };
        let is_projection = matches!(graph.tensors[linear.w as usize].values, Values::Matrix(Role::Projection, _));
        let used_once = uses.iter().filter(|u| u.matrix == linear.w).count() == 1;
        if !is_projection || !used_once || block_of(linear.x.len as usize).is_none() {
            continue;
        }
        let of_x = || touches[linear.x.value].iter().filter(|touch| overlap(touch.operand, linear.x));
        let read_later = of_x().any(|touch| touch.op > i);
        let others_read_it =
            of_x().any(|touch| touch.op < i && touch.access == Access::Read && matches!(graph.ops[touch.op], Op::Linear(_)));
        // Behind a plain norm lies the stream itself, which turns off line.
        let writer = of_x().rfind(|touch| touch.op < i && touch.access != Access::Read);
        let of_stream =
            writer.is_none_or(|touch| matches!(&graph.ops[touch.op], Op::Norm(norm) if norm.gate.is_none() && norm.groups == 1));
        if !read_later && !others_read_it && !of_stream {
            places.push((i, *linear));
        }
    }
    for &(i, linear) in places.iter().rev() {
        let Some((block, rotation)) = block_of(linear.x.len as usize).zip(Rotation::plain(linear.x.len as usize)) else { continue };
        change(graph, linear.w, move |data| rotation.rows(data));
        let transform = Op::Hadamard(Hadamard { x: linear.x, block: block as u32, scale: scale_of(block) });
        replace(graph, i, vec![transform, Op::Linear(linear)]);
    }
    places.len()
}
