//! Who reads and writes what in a graph: what passes ask before they change anything.

use crate::graph::{Graph, Operand, Values};
use brooklet::ops::{Access, Every, Missing, Op, Policy, Route, Router, TensorId};

/// One operand of one operation.
#[derive(Clone, Copy)]
pub(super) struct Touch {
    /// Number of the operation.
    pub(super) op: usize,
    pub(super) operand: Operand,
    pub(super) access: Access,
}

/// Every touch of every value, in the order of the operations.
pub(super) fn touches(graph: &Graph<'_>) -> Vec<Vec<Touch>> {
    let mut of_value = vec![Vec::new(); graph.values.len()];
    for (i, op) in graph.ops.iter().enumerate() {
        let _ = op.map(|operand: Operand, access| of_value[operand.value].push(Touch { op: i, operand, access }));
    }
    of_value
}

pub(super) fn overlap(a: Operand, b: Operand) -> bool {
    a.value == b.value && a.at < b.at + b.len && b.at < a.at + a.len
}

/// Whether an operand is the whole of its value.
pub(super) fn is_whole(graph: &Graph<'_>, operand: Operand) -> bool {
    operand.at == 0 && operand.len == graph.values[operand.value]
}

/// The operations that open blocks which an operation is in, outermost first.
pub(super) fn blocks(graph: &Graph<'_>) -> Vec<Vec<usize>> {
    let mut open: Vec<(usize, usize)> = Vec::new();
    let mut of_op = Vec::with_capacity(graph.ops.len());
    for (i, op) in graph.ops.iter().enumerate() {
        open.retain(|&(_, end)| i < end);
        of_op.push(open.iter().map(|&(opener, _)| opener).collect());
        match op {
            Op::Route(Route { ops, .. }) | Op::Every(Every { ops, .. }) => open.push((i, i + 1 + *ops as usize)),
            _ => {}
        }
    }
    of_op
}

/// Puts other operations into the place of operation `at`; the blocks around it grow with them.
pub(super) fn replace(graph: &mut Graph<'_>, at: usize, with: Vec<Op<Operand>>) {
    let added = with.len() as u32 - 1;
    for opener in blocks(graph).swap_remove(at) {
        match &mut graph.ops[opener] {
            Op::Route(route) => route.ops += added,
            Op::Every(every) => *every = Every::new(every.period, every.start, every.ops + added),
            _ => {}
        }
    }
    graph.ops.splice(at..=at, with);
}

/// How an operation uses a matrix.
#[derive(Clone, Copy)]
pub(super) struct MatrixUse {
    /// Number of the operation.
    pub(super) op: usize,
    pub(super) matrix: TensorId,
    /// What runs along its columns.
    pub(super) cols: Option<Operand>,
    /// What runs along its rows.
    pub(super) rows: Option<Operand>,
}

/// Every use of every matrix. Those of cells have neither side: nothing can be said about them.
pub(super) fn matrix_uses(graph: &Graph<'_>) -> Vec<MatrixUse> {
    let mut uses = Vec::new();
    for (i, op) in graph.ops.iter().enumerate() {
        let mut add = |matrix, cols, rows| uses.push(MatrixUse { op: i, matrix, cols, rows });
        match op {
            Op::Embed(embed) => add(embed.table, Some(embed.out), None),
            Op::Linear(linear) => add(linear.w, Some(linear.x), Some(linear.out)),
            Op::Head(head) => add(head.w, Some(head.x), None),
            Op::CappedHead(capped) => add(capped.head.w, Some(capped.head.x), None),
            Op::Moe(moe) => {
                for expert in 0..moe.scores.len {
                    let first = moe.experts_at + 2 * expert;
                    add(first, Some(moe.x), None);
                    add(first + 1, None, Some(moe.out));
                }
            }
            Op::Lstm(lstm) => add(lstm.w, None, None),
            Op::Gru(gru) => add(gru.w, None, None),
            _ => {}
        }
    }
    uses
}

/// What passes know about a graph before they change it.
pub(super) struct Around<'u> {
    pub(super) touches: Vec<Vec<Touch>>,
    pub(super) blocks: Vec<Vec<usize>>,
    pub(super) uses: &'u [MatrixUse],
}

/// The matrices that read `out` behind operation `i`, which writes it, if nothing else reads it and nothing changes it; `in_place` if what lay there before
/// is another value.
pub(super) fn read_by_matrices(i: usize, out: Operand, in_place: bool, around: &Around<'_>) -> Option<Vec<MatrixUse>> {
    let of_out = || around.touches[out.value].iter().filter(|touch| touch.op != i && overlap(touch.operand, out));
    let written_once = in_place || of_out().all(|touch| touch.op > i);
    let readers: Vec<usize> = of_out().filter(|touch| touch.op > i).map(|touch| touch.op).collect();
    let only_read = of_out().filter(|touch| touch.op > i).all(|touch| touch.access == Access::Read && touch.operand == out);
    let same_step = readers.iter().all(|&reader| around.blocks[reader].starts_with(&around.blocks[i]));
    let of_reader = |reader: usize| around.uses.iter().filter(move |u| u.op == reader && u.cols == Some(out)).copied();
    let all: Vec<MatrixUse> = readers.iter().flat_map(|&reader| of_reader(reader)).collect();
    // A mixture of experts may have its scores elsewhere: every reader must read through a matrix only.
    let by_matrix = readers.iter().all(|&reader| of_reader(reader).next().is_some());
    (written_once && only_read && same_step && by_matrix && !all.is_empty()).then_some(all)
}

/// Shows every tensor's number in an operation, for a mixture of experts the first one's.
pub(super) fn each_tensor(op: &mut Op<Operand>, see: &mut impl FnMut(&mut TensorId)) {
    let mut all = |required: &mut [&mut TensorId], optional: &mut [&mut Option<TensorId>]| {
        required.iter_mut().for_each(|id| see(id));
        optional.iter_mut().filter_map(|id| id.as_mut()).for_each(&mut *see);
    };
    match op {
        Op::Embed(op) => all(&mut [&mut op.table], &mut []),
        Op::Frame(op) => all(&mut [&mut op.mean, &mut op.inv_std], &mut []),
        Op::Norm(op) => all(&mut [], &mut [&mut op.weight, &mut op.bias]),
        Op::Linear(op) => all(&mut [&mut op.w], &mut [&mut op.bias]),
        Op::Head(op) => all(&mut [&mut op.w], &mut [&mut op.bias]),
        Op::CappedHead(op) => all(&mut [&mut op.head.w], &mut [&mut op.head.bias]),
        Op::Moe(op) => {
            all(&mut [&mut op.experts_at], &mut []);
            if let Router::Sigmoid { bias, .. } = &mut op.router {
                all(&mut [], &mut [bias]);
            }
        }
        Op::Conv1d(op) => all(&mut [&mut op.weight], &mut [&mut op.bias]),
        Op::Scan(op) => all(&mut [&mut op.a, &mut op.d, &mut op.dt_bias], &mut []),
        Op::Ssd(op) => all(&mut [&mut op.a, &mut op.d, &mut op.dt_bias], &mut []),
        Op::GatedDelta(op) => all(&mut [&mut op.decay, &mut op.dt_bias], &mut []),
        Op::RgLru(op) => all(&mut [&mut op.decay], &mut []),
        Op::Lstm(op) => all(&mut [&mut op.w], &mut []),
        Op::Gru(op) => all(&mut [&mut op.w], &mut [&mut op.bias]),
        Op::DiagSsm(op) => all(&mut [&mut op.a], &mut [&mut op.c, &mut op.d]),
        Op::Missing(Missing { policy: Policy::Zero { zeros }, .. }) => all(&mut [zeros], &mut []),
        Op::Attention(op) => {
            if let Some(rotary) = &mut op.rotary {
                all(&mut [&mut rotary.turns], &mut []);
            }
        }
        Op::Missing(_)
        | Op::SiluMultiply(_)
        | Op::Add(_)
        | Op::Pool(_)
        | Op::Multiply(_)
        | Op::Copy(_)
        | Op::Activate(_)
        | Op::ScaleBy(_)
        | Op::Route(_)
        | Op::Window(_)
        | Op::Fill(_)
        | Op::Every(_)
        | Op::Delay(_)
        | Op::DepthToTime(_)
        | Op::Hadamard(_) => {}
    }
}

/// Takes tensors out of the graph; no operation may name them any more.
pub(super) fn remove_tensors(graph: &mut Graph<'_>, gone: &[TensorId]) {
    let before = |id: TensorId| gone.iter().filter(|&&gone| gone < id).count() as TensorId;
    graph.ops.iter_mut().for_each(|op| each_tensor(op, &mut |id| *id -= before(*id)));
    let mut id = 0;
    graph.tensors.retain(|_| {
        id += 1;
        !gone.contains(&(id - 1))
    });
}

/// Changes a matrix's numbers, row-major, whenever they are read.
pub(super) fn change<'a>(graph: &mut Graph<'a>, matrix: TensorId, f: impl Fn(&mut [f32]) + 'a) {
    let values = &mut graph.tensors[matrix as usize].values;
    *values = match std::mem::replace(values, Values::Array(Vec::new())) {
        Values::Matrix(role, load) => Values::Matrix(
            role,
            Box::new(move || {
                let mut data = load()?;
                f(&mut data);
                Ok(data)
            }),
        ),
        other => other,
    };
}
