//! Matrices in pieces of rows, each in a format of its own.
//!
//! Embeddings and heads, so that frequent tokens can be kept finer than rare ones: vocabularies are in the order in which their
//! tokens were found worth having, and half of what rounding an embedding costs is often in its first sixteenth.
//!
//! Nothing is computed differently: a row lies in another section, and that is all.

use super::uses::{each_tensor, matrix_uses, replace, touches};
use crate::graph::{Graph, Role, TensorDecl, Values};
use brooklet::kernels::quant::TILE_ROWS;
use brooklet::ops::{Linear, Op, TensorId};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

/// Pieces begin at these shares of the rows: each as many rows as all before it.
const BEGIN: [usize; 5] = [0, 16, 8, 4, 2];
/// Rows below which it does not pay to cut a matrix: every piece has a record in the header and tables of its own.
pub const LEAST_ROWS_TO_CUT: usize = 4096;

/// The same of projections.
pub const LEAST_ROWS_OF_PROJECTION: usize = 256;

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
    let cuts = found.iter().map(|&id| (id, starts(graph.tensors[id as usize].rows))).collect();
    let _ = cut(graph, &cuts);
    found.len()
}

/// Cuts projections whose outputs are used part by part, such as the gate, the input, B, C and the step size of a Mamba-2 mixer: what decides over the
/// state's decay can then be finer than the rest. Parts of one length side by side are taken to be alike. Those of at least `least_rows` are cut;
/// returns how many.
pub fn cut_projections(graph: &mut Graph<'_>, least_rows: usize) -> usize {
    let (touches, uses) = (touches(graph), matrix_uses(graph));
    let mut cuts = BTreeMap::new();
    let mut places = Vec::new();
    for (i, op) in graph.ops.iter().enumerate() {
        let Op::Linear(linear) = op else { continue };
        let decl = &graph.tensors[linear.w as usize];
        let used_once = uses.iter().filter(|u| u.matrix == linear.w).count() == 1;
        let is_projection = matches!(decl.values, Values::Matrix(Role::Projection, _));
        if !used_once || !is_projection || linear.bias.is_some() || decl.rows < least_rows {
            continue;
        }
        let ends = touches[linear.out.value].iter().flat_map(|t| [t.operand.at, t.operand.at + t.operand.len]);
        let mut starts: Vec<usize> = ends.filter_map(|end| end.checked_sub(linear.out.at)).map(|at| at as usize).collect();
        starts.push(0);
        starts.retain(|&start| start < decl.rows);
        starts.sort_unstable();
        starts.dedup();
        let end_of = |starts: &[usize], i: usize| starts.get(i + 1).copied().unwrap_or(decl.rows);
        let alike = |&i: &usize| i > 0 && end_of(&starts, i) - starts[i] == starts[i] - starts[i - 1];
        let merged: BTreeSet<usize> = (0..starts.len()).filter(alike).map(|i| starts[i]).collect();
        starts.retain(|start| !merged.contains(start));
        if starts.len() > 1 {
            places.push((i, *linear));
            cuts.insert(linear.w, starts);
        }
    }
    let moved = cut(graph, &cuts);
    for (i, linear) in places.into_iter().rev() {
        let first = moved(linear.w) as usize;
        let mut at = 0;
        let piece = |number: usize| {
            let rows = graph.tensors[first + number].rows;
            at += rows;
            Op::Linear(Linear { w: (first + number) as TensorId, out: linear.out.part(at - rows, rows), ..linear })
        };
        let pieces = (0..cuts[&linear.w].len()).map(piece).collect();
        replace(graph, i, pieces);
    }
    cuts.len()
}

/// Cuts matrices before these rows, the first of which is 0; operations go on with the first piece. Returns where a tensor's number moves to.
fn cut<'c>(graph: &mut Graph<'_>, cuts: &'c BTreeMap<TensorId, Vec<usize>>) -> impl Fn(TensorId) -> TensorId + use<'c> {
    let moved = |id: TensorId| id + cuts.range(..id).map(|(_, starts)| starts.len() as TensorId - 1).sum::<TensorId>();
    graph.ops.iter_mut().for_each(|op| each_tensor(op, &mut |id| *id = moved(*id)));
    for (id, decl) in std::mem::take(&mut graph.tensors).into_iter().enumerate() {
        match cuts.get(&(id as TensorId)) {
            Some(starts) => graph.tensors.extend(pieces(decl, starts)),
            None => graph.tensors.push(decl),
        }
    }
    moved
}

/// Where the pieces of so many rows begin.
fn starts(rows: usize) -> Vec<usize> {
    let mut starts = BEGIN.map(|share| rows.checked_div(share).unwrap_or(0) / TILE_ROWS * TILE_ROWS).to_vec();
    starts.dedup();
    starts
}

/// The rows of a matrix as several.
fn pieces<'a>(decl: TensorDecl<'a>, starts: &[usize]) -> Vec<TensorDecl<'a>> {
    let TensorDecl { name, rows, cols, values } = decl;
    let Values::Matrix(role, load) = values else { return vec![TensorDecl { name, rows, cols, values }] };
    let load: Rc<dyn Fn() -> _> = Rc::from(load);
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
    starts.iter().copied().zip(ends).map(piece).collect()
}
