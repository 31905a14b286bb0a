//! Norm gains move into the matrices behind them: what the device rounds to 8 bits then has the same size in every channel, a
//! multiplication and a tensor are saved.

use super::uses::{Around, MatrixUse, blocks, change, each_tensor, matrix_uses, read_by_matrices, remove_tensors, touches};
use crate::graph::{Graph, Values};
use brooklet::ops::{Op, TensorId};
use std::collections::{HashMap, HashSet};

/// A norm whose gain may go.
struct Candidate {
    /// Number of the operation.
    op: usize,
    gain: TensorId,
    /// The uses of matrices that read its output.
    uses: Vec<MatrixUse>,
}

/// Folds every gain that all readers can take. Returns how many norms lost theirs.
pub(super) fn fold(graph: &mut Graph<'_>) -> usize {
    let all_uses = matrix_uses(graph);
    let mut candidates = candidates(graph, &all_uses);
    // A matrix that is used in several places needs the same gain everywhere, and so does each of its norms.
    let mut places: HashMap<TensorId, Vec<usize>> = HashMap::new();
    all_uses.iter().for_each(|u| places.entry(u.matrix).or_default().push(u.op));
    loop {
        let claims = candidates.iter().flat_map(|c| c.uses.iter().map(move |u| ((u.op, u.matrix), c.gain)));
        let claims: HashMap<(usize, TensorId), TensorId> = claims.collect();
        let everywhere = |u: &MatrixUse, gain| places[&u.matrix].iter().all(|&op| claims.get(&(op, u.matrix)) == Some(&gain));
        let before = candidates.len();
        candidates.retain(|candidate| candidate.uses.iter().all(|u| everywhere(u, candidate.gain)));
        if candidates.len() == before {
            break;
        }
    }

    let mut done: HashSet<TensorId> = HashSet::new();
    for candidate in &candidates {
        let Values::Array(gain) = &graph.tensors[candidate.gain as usize].values else { continue };
        let gain = gain.clone();
        for matrix in candidate.uses.iter().map(|u| u.matrix) {
            if done.insert(matrix) {
                let gain = gain.clone();
                change(graph, matrix, move |data| {
                    data.chunks_exact_mut(gain.len()).for_each(|row| row.iter_mut().zip(&gain).for_each(|(w, g)| *w *= g));
                });
            }
        }
        if let Op::Norm(norm) = &mut graph.ops[candidate.op] {
            norm.weight = None;
        }
    }
    let mut gains: Vec<TensorId> = candidates.iter().map(|c| c.gain).collect();
    gains.sort_unstable();
    gains.dedup();
    for op in &mut graph.ops {
        each_tensor(op, &mut |id| gains.retain(|gain| gain != id));
    }
    remove_tensors(graph, &gains);
    candidates.len()
}

/// Norms whose output goes into matrices and nowhere else.
fn candidates(graph: &Graph<'_>, uses: &[MatrixUse]) -> Vec<Candidate> {
    let around = Around { touches: touches(graph), blocks: blocks(graph), uses };
    let mut found = Vec::new();
    for (i, op) in graph.ops.iter().enumerate() {
        let Op::Norm(norm) = op else { continue };
        let (Some(gain), None) = (norm.weight, norm.bias) else { continue };
        // A gate behind the gain would see it.
        if norm.gate.is_some_and(|gate| !gate.first) {
            continue;
        }
        if let Some(uses) = read_by_matrices(i, norm.out, norm.x == norm.out, &around) {
            found.push(Candidate { op: i, gain, uses });
        }
    }
    found
}
