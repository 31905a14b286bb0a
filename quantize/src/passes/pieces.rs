//! Embeddings and heads in pieces of rows, so that frequent tokens can be kept finer than rare ones: vocabularies are in the order in which their
//! tokens were found worth having, and half of what rounding an embedding costs is often in its first sixteenth.
//!
//! Nothing is computed differently: a row lies in another section, and that is all.

use super::uses::{each_tensor, matrix_uses};
use crate::graph::{Graph, TensorDecl, Values};
use brooklet::kernels::quant::TILE_ROWS;
use brooklet::ops::{Op, TensorId};
use std::rc::Rc;

/// Pieces begin at these shares of the rows: each as many rows as all before it.
const BEGIN: [usize; 5] = [0, 16, 8, 4, 2];
/// Rows below which it does not pay to cut a matrix: every piece has a record in the header and tables of its own.
pub const LEAST_ROWS_TO_CUT: usize = 4096;

/// Cuts the matrices of at least so many rows that only embeddings and heads use. Returns how many.
pub fn cut_tables(graph: &mut Graph<'_>, least_rows: usize) -> usize {
    let uses = matrix_uses(graph);
    let is_cut = |id: TensorId| {
        let mut own = uses.iter().filter(|u| u.matrix == id).peekable();
        let decl = &graph.tensors[id as usize];
        decl.rows >= least_rows
            && matches!(decl.values, Values::Matrix(..))
            && own.peek().is_some()
            && own.all(|u| matches!(graph.ops[u.op], Op::Embed(_) | Op::Head(_) | Op::CappedHead(_)))
    };
    let found: Vec<TensorId> = (0..graph.tensors.len() as TensorId).filter(|&id| is_cut(id)).collect();
    // What comes behind a matrix that is cut moves on.
    let more = |id: TensorId| starts(graph.tensors[id as usize].rows).len() as TensorId - 1;
    let added: Vec<(TensorId, TensorId)> = found.iter().map(|&id| (id, more(id))).collect();
    let moved = |id: TensorId| id + added.iter().filter(|(cut, _)| *cut < id).map(|(_, more)| more).sum::<TensorId>();
    graph.ops.iter_mut().for_each(|op| each_tensor(op, &mut |id| *id = moved(*id)));
    let before = std::mem::take(&mut graph.tensors);
    for (id, decl) in before.into_iter().enumerate() {
        if found.contains(&(id as TensorId)) { graph.tensors.extend(pieces(decl)) } else { graph.tensors.push(decl) }
    }
    found.len()
}

/// Where the pieces of so many rows begin.
fn starts(rows: usize) -> Vec<usize> {
    let mut starts = BEGIN.map(|share| rows.checked_div(share).unwrap_or(0) / TILE_ROWS * TILE_ROWS).to_vec();
    starts.dedup();
    starts
}

/// The rows of a matrix as several.
fn pieces(decl: TensorDecl<'_>) -> Vec<TensorDecl<'_>> {
    let TensorDecl { name, rows, cols, values } = decl;
    let Values::Matrix(role, load) = values else { return vec![TensorDecl { name, rows, cols, values }] };
    let load: Rc<dyn Fn() -> _> = Rc::from(load);
    let starts = starts(rows);
    let ends: Vec<usize> = starts.iter().skip(1).copied().chain([rows]).collect();
    let piece = |(start, end): (usize, usize)| {
        let load = Rc::clone(&load);
        let values = move || {
            let mut all = load()?;
            all.truncate(end * cols);
            all.drain(..start * cols);
            all.shrink_to_fit();
            Ok(all)
        };
        TensorDecl { name: format!("{name}[{start}..{end}]"), rows: end - start, cols, values: Values::Matrix(role, Box::new(values)) }
    };
    starts.into_iter().zip(ends).map(piece).collect()
}
