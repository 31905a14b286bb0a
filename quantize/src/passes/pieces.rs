//! Matrices in pieces of rows, each in a format of its own.
//!
//! Embeddings and heads, so that frequent tokens can be kept finer than rare ones. Vocabularies are about in the order in which their
//! tokens were found worth having, and half of what rounding an embedding costs is often in its first sixteenth; in the order of a text that says how often
//! each is used it is up to two thirds.
//!
//! Nothing is computed differently: a row lies in another section, and that is all.

use super::uses::{each_tensor, matrix_uses, replace, touches};
use crate::fit::Calibration;
use crate::graph::{Graph, Input, Role, TensorDecl, Values};
use brooklet::kernels::quant::TILE_ROWS;
use brooklet::ops::{Linear, Op, TensorId};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

/// Pieces begin at these shares of the rows: each at least as many rows as all before it. The most frequent tokens are worth a small piece of their own.
const BEGIN: [usize; 6] = [0, 64, 16, 8, 4, 2];
/// Rows below which it does not pay to cut a matrix: every piece has a record in the header and tables of its own.
pub const LEAST_ROWS_TO_CUT: usize = 4096;

/// The same of projections.
pub const LEAST_ROWS_OF_PROJECTION: usize = 256;

/// Tokens of a text for each of the vocabulary from which on it says how often they are used.
const LEAST_HEARD: usize = 8;

/// The order of use of a vocabulary: its tokens, from frequent to rare. How often `text` has them, and before it has been heard for long how early
/// they stand in the vocabulary, as if a thousand more tokens had come by Zipf's law.
pub fn order_of_use(vocab: usize, text: &[u32]) -> Vec<u32> {
    const HEARD_BEFORE: f64 = 1000.0;
    let share = |id: usize| 1.0 / (id as f64 + 1.0);
    let all: f64 = (0..vocab).map(share).sum();
    let mut uses: Vec<f64> = (0..vocab).map(|id| HEARD_BEFORE * share(id) / all).collect();
    for &token in text {
        if let Some(uses) = uses.get_mut(token as usize) {
            *uses += 1.0;
        }
    }
    let mut order: Vec<u32> = (0..vocab as u32).collect();
    order.sort_by(|&a, &b| uses[b as usize].total_cmp(&uses[a as usize]));
    order
}

/// The order of use of a model's vocabulary by the first half of a long text, which it takes away: what is left is to be measured on. A text says too little of
/// tokens that it hardly has, and measured on itself it would say that they cost nothing. Nothing happens to a text of less than eight tokens for each
/// of the vocabulary.
pub fn take_order(graph: &Graph<'_>, stream: &mut Calibration) -> Option<Vec<u32>> {
    let (Input::Tokens { vocab, .. }, Calibration::Tokens(text)) = (&graph.input, stream) else { return None };
    let vocab = *vocab as usize;
    if text.len() / LEAST_HEARD < vocab {
        return None;
    }
    let second = text.split_off(text.len() / 2);
    Some(order_of_use(vocab, &std::mem::replace(text, second)))
}

/// Cuts the matrices of at least so many rows that only embeddings and heads use; with an order of as many tokens as a matrix has rows, in that order.
/// Returns how many.
pub fn cut_tables(graph: &mut Graph<'_>, least_rows: usize, order: Option<&[u32]>) -> usize {
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
    let cut_of = |&id: &TensorId| {
        let rows = graph.tensors[id as usize].rows;
        (id, Cut { starts: starts(rows), order: order.filter(|order| order.len() == rows).map(Rc::from) })
    };
    let cuts = found.iter().map(cut_of).collect();
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
            cuts.insert(linear.w, Cut { starts, order: None });
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
        let pieces = (0..cuts[&linear.w].starts.len()).map(piece).collect();
        replace(graph, i, pieces);
    }
    cuts.len()
}

/// How a matrix is cut.
struct Cut {
    /// Rows that pieces begin with; the first is 0.
    starts: Vec<usize>,
    /// Number of the row that comes first, second and so on, where another order is wanted.
    order: Option<Rc<[u32]>>,
}

/// Cuts matrices; operations go on with the first piece. Returns where a tensor's number moves to.
fn cut<'c>(graph: &mut Graph<'_>, cuts: &'c BTreeMap<TensorId, Cut>) -> impl Fn(TensorId) -> TensorId + use<'c> {
    let in_front = |cut: &Cut| TensorId::from(cut.order.is_some());
    let moved = move |id: TensorId| {
        let before = cuts.range(..id).map(|(_, cut)| cut.starts.len() as TensorId - 1 + in_front(cut)).sum::<TensorId>();
        id + before + cuts.get(&id).map_or(0, in_front)
    };
    // A head's bias lies as its rows do.
    for head in graph.ops.iter().filter_map(Op::head) {
        let Some((order, bias)) = cuts.get(&head.w).and_then(|cut| cut.order.as_ref()).zip(head.bias) else { continue };
        if let Values::Array(data) = &mut graph.tensors[bias as usize].values {
            *data = order.iter().map(|&row| data[row as usize]).collect();
        }
    }
    graph.ops.iter_mut().for_each(|op| each_tensor(op, &mut |id| *id = moved(*id)));
    for (id, decl) in std::mem::take(&mut graph.tensors).into_iter().enumerate() {
        match cuts.get(&(id as TensorId)) {
            Some(cut) => graph.tensors.extend(pieces(decl, cut)),
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

/// The rows of a matrix as several, behind their places if these are not in order.
fn pieces<'a>(decl: TensorDecl<'a>, cut: &Cut) -> Vec<TensorDecl<'a>> {
    let TensorDecl { name, rows, cols, values } = decl;
    let Values::Matrix(role, load) = values else { return vec![TensorDecl { name, rows, cols, values }] };
    let load: Rc<dyn Fn() -> _> = Rc::from(load);
    let name = if cut.order.is_some() { format!("{name} by use") } else { name };
    let places = cut.order.as_ref().map(|order| {
        let mut places = vec![0; rows];
        (0..).zip(order.iter()).for_each(|(place, &row)| places[row as usize] = place);
        TensorDecl { name: format!("{name}: places"), rows, cols: 1, values: Values::Places(places.into()) }
    });
    let ends: Vec<usize> = cut.starts.iter().skip(1).copied().chain([rows]).collect();
    let piece = |(start, end): (usize, usize)| {
        let (load, order) = (Rc::clone(&load), cut.order.clone());
        let values = move || {
            let mut all = load()?;
            if let Some(order) = &order {
                return Ok(order[start..end].iter().flat_map(|&row| &all[row as usize * cols..][..cols]).copied().collect());
            }
            all.truncate(end * cols);
            all.drain(..start * cols);
            all.shrink_to_fit();
            Ok(all)
        };
        TensorDecl { name: format!("{name}[{start}..{end}]"), rows: end - start, cols, values: Values::Matrix(role, Box::new(values)) }
    };
    places.into_iter().chain(cut.starts.iter().copied().zip(ends).map(piece)).collect()
}

#[cfg(test)]
mod tests {
    use super::{Calibration, Graph, Input, order_of_use, take_order};
    use crate::graph::{Card, Output};

    #[test]
    fn frequent_tokens_come_first_and_unheard_ones_in_their_order() {
        let text: Vec<u32> = (0..3000).map(|i| if i % 3 == 0 { 7 } else { 3 }).collect();
        assert_eq!(order_of_use(10, &text), [3, 7, 0, 1, 2, 4, 5, 6, 8, 9]);
        // A few words say little, and what lies beyond the vocabulary nothing.
        assert_eq!(order_of_use(4, &[3, 9]), [0, 1, 2, 3]);
    }

    #[test]
    fn the_half_that_gave_the_order_is_not_measured_on() {
        let mut graph = Graph::new(Card::default(), Input::Tokens { vocab: 4, bos: None, eos: None }, Output::Logits(4));
        let text: Vec<u32> = (0..32).map(|i| if i < 16 { 3 - i % 2 } else { 0 }).collect();
        let mut long = Calibration::Tokens(text.clone());
        assert!(take_order(&graph, &mut long).is_some());
        assert!(matches!(&long, Calibration::Tokens(left) if *left == [0; 16]));
        let mut short = Calibration::Tokens(text[1..].to_vec());
        assert!(take_order(&graph, &mut short).is_none());
        assert!(matches!(&short, Calibration::Tokens(left) if left.len() == 31));
        graph.input = Input::Tokens { vocab: 5, bos: None, eos: None };
        assert!(take_order(&graph, &mut Calibration::Tokens(text)).is_none());
    }
}
