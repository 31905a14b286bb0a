//! The bytes that a step moves between memory and processor: what bounds its speed once the arithmetic is fast.

use brooklet::Model;
use brooklet::artifact::{Artifact, SlotKind};
use brooklet::kernels::quant::GROUP;
use brooklet::ops::{Every, Head, Moe, Op, Policy, Router, SlotId, TensorId};
use brooklet::plan::slot_bytes;
use serde::Serialize;
use std::ops::AddAssign;

/// Bytes of one step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Traffic {
    /// Weights, each time an operation reads them: a layer's are long out of the caches when a later layer shares them.
    pub(crate) weights_bytes: u64,
    /// Recurrent states and windows: read and written.
    pub(crate) state_bytes: u64,
    /// Attention caches: the filled part is read, one position is written.
    pub(crate) cache_bytes: u64,
}

impl AddAssign for Traffic {
    fn add_assign(&mut self, other: Self) {
        self.weights_bytes += other.weights_bytes;
        self.state_bytes += other.state_bytes;
        self.cache_bytes += other.cache_bytes;
    }
}

impl Traffic {
    pub(crate) fn total_bytes(&self) -> u64 {
        self.weights_bytes + self.state_bytes + self.cache_bytes
    }

    /// Bytes of a step at `position`. Blocks with a rate of their own count by their share; blocks that tokens are routed past
    /// count as if every token entered.
    pub(crate) fn of(model: &Model<'_>, position: u64) -> Self {
        let mut sum = Traffic::default();
        each_op(model, |_, op, clock| sum += Self::of_op(model.artifact(), op, clock, position));
        sum
    }

    /// Bytes of one operation, which runs in step with `clock`, at `position` of the stream.
    pub(crate) fn of_op(artifact: &Artifact<'_>, op: &Op, clock: Option<Every>, position: u64) -> Self {
        let (period, start) = clock.map_or((1, 0), |every| (u64::from(every.period.max(1)), u64::from(every.start)));
        let whole = once(artifact, op, position.saturating_sub(start) / period);
        Traffic {
            weights_bytes: whole.weights_bytes / period,
            state_bytes: whole.state_bytes / period,
            cache_bytes: whole.cache_bytes / period,
        }
    }
}

/// Calls `each` with every operation's number, itself, and the clock of the block that it is in.
pub(crate) fn each_op(model: &Model<'_>, mut each: impl FnMut(u32, &Op, Option<Every>)) {
    let mut block: Option<(u32, Every)> = None;
    for (index, op) in (0..).zip(model.header().program.iter().flatten()) {
        each(index, &op, block.map(|(_, every)| every));
        block = match (op, block) {
            (Op::Every(every), _) => Some((every.ops, every)),
            (_, Some((left, every))) if left > 1 => Some((left - 1, every)),
            _ => None,
        };
    }
}

/// Bytes of one run of an operation whose caches hold `position` positions before it.
fn once(artifact: &Artifact<'_>, op: &Op, position: u64) -> Traffic {
    let weights = |ids: &[Option<TensorId>]| ids.iter().flatten().map(|&id| tensor_bytes(artifact, id)).sum::<u64>();
    let with = |ids: &[Option<TensorId>], slot: SlotId| Traffic {
        weights_bytes: weights(ids),
        state_bytes: 2 * state_bytes(artifact, slot),
        cache_bytes: 0,
    };
    let only = |ids: &[Option<TensorId>]| Traffic { weights_bytes: weights(ids), ..Traffic::default() };
    match op {
        Op::Embed(op) => {
            // A row of the first piece, if there are several.
            let rows = artifact.section(op.table).map_or(1, |s| u64::from(s.rows.max(1)));
            Traffic { weights_bytes: tensor_bytes(artifact, op.table) / rows, ..Traffic::default() }
        }
        Op::Frame(op) => only(&[Some(op.mean), Some(op.inv_std)]),
        Op::Norm(op) => only(&[op.weight, op.bias]),
        Op::Linear(op) => only(&[Some(op.w), op.bias]),
        Op::Head(op) => head(artifact, op),
        Op::CappedHead(op) => head(artifact, &op.head),
        Op::Moe(op) => experts(artifact, op),
        Op::Conv1d(op) => with(&[Some(op.weight), op.bias], op.state),
        Op::Scan(op) => with(&[Some(op.a), Some(op.d), Some(op.dt_bias)], op.state),
        Op::Ssd(op) => with(&[Some(op.a), Some(op.d), Some(op.dt_bias)], op.state),
        Op::GatedDelta(op) => with(&[Some(op.decay), Some(op.dt_bias)], op.state),
        Op::RgLru(op) => with(&[Some(op.decay)], op.state),
        Op::Lstm(op) => with(&[Some(op.w)], op.state),
        Op::Gru(op) => with(&[Some(op.w), op.bias], op.state),
        Op::DiagSsm(op) => with(&[Some(op.a), op.c, op.d], op.state),
        Op::Pool(op) => with(&[], op.state),
        Op::Window(op) => with(&[], op.state),
        Op::DepthToTime(op) => with(&[], op.state),
        Op::Route(op) => with(&[], op.count),
        // One row of the ring.
        Op::Delay(op) => Traffic { state_bytes: 2 * 4 * u64::from(op.x.len), ..Traffic::default() },
        Op::Missing(op) => match op.policy {
            Policy::Hold { last } => with(&[], last),
            Policy::Mean => Traffic::default(),
            Policy::Zero { zeros } => only(&[Some(zeros)]),
        },
        Op::Attention(op) => Traffic {
            weights_bytes: weights(&[op.rotary.map(|rotary| rotary.turns)]),
            state_bytes: 0,
            cache_bytes: filled_bytes(artifact, op.cache, position.saturating_add(1)) + filled_bytes(artifact, op.cache, 1),
        },
        Op::SiluMultiply(_)
        | Op::Add(_)
        | Op::Multiply(_)
        | Op::Copy(_)
        | Op::Activate(_)
        | Op::ScaleBy(_)
        | Op::Fill(_)
        | Op::Hadamard(_)
        | Op::Every(_) => Traffic::default(),
    }
}

/// Every piece of the matrix, and the bias.
fn head(artifact: &Artifact<'_>, op: &Head) -> Traffic {
    let tensors = op.pieces(artifact).chain(op.bias);
    Traffic { weights_bytes: tensors.map(|id| tensor_bytes(artifact, id)).sum(), ..Traffic::default() }
}

fn tensor_bytes(artifact: &Artifact<'_>, id: TensorId) -> u64 {
    artifact.section(id).and_then(|s| s.content.bytes(s.rows, s.cols)).unwrap_or(0)
}

fn state_bytes(artifact: &Artifact<'_>, slot: SlotId) -> u64 {
    artifact.header().slots.get(slot).and_then(|slot| slot_bytes(&slot)).unwrap_or(0)
}

/// Bytes of the first `positions` positions of a cache, or of all it holds.
fn filled_bytes(artifact: &Artifact<'_>, slot: SlotId, positions: u64) -> u64 {
    let Some(slot) = artifact.header().slots.get(slot) else { return 0 };
    let per_head = match slot.kind {
        SlotKind::Numbers | SlotKind::NumbersF16 => 0,
        SlotKind::CacheF32 => 4 * u64::from(slot.head_dim),
        // One scale per head.
        SlotKind::CacheInt8 => u64::from(slot.head_dim) + 4,
        // One scale of two bytes and 16 bytes of codes per group.
        SlotKind::CacheInt4 => u64::from(slot.head_dim).div_ceil(GROUP as u64) * (GROUP as u64 / 2 + 2),
    };
    2 * positions.min(u64::from(slot.capacity)) * u64::from(slot.heads) * per_head
}

/// The experts that one token chooses, of average size.
fn experts(artifact: &Artifact<'_>, moe: &Moe) -> Traffic {
    let experts = moe.scores.len;
    let end = experts.saturating_mul(2).saturating_add(moe.experts_at);
    let all: u64 = (moe.experts_at..end).map(|id| tensor_bytes(artifact, id)).sum();
    let bias = match moe.router {
        Router::Sigmoid { bias: Some(bias), .. } => tensor_bytes(artifact, bias),
        _ => 0,
    };
    Traffic { weights_bytes: all / u64::from(experts.max(1)) * u64::from(moe.top_k) + bias, ..Traffic::default() }
}

/// Bytes that one stream holds at `position`: recurrent states, and caches as far as they are filled.
pub(crate) fn held_bytes(model: &Model<'_>, position: u64) -> u64 {
    let mut caches = Vec::new();
    each_op(model, |_, op, clock| {
        if let Op::Attention(attention) = op {
            let (period, start) = clock.map_or((1, 0), |every| (u64::from(every.period.max(1)), u64::from(every.start)));
            caches.push((attention.cache, position.saturating_sub(start).div_ceil(period)));
        }
    });
    let empty: u64 = caches.iter().map(|&(cache, _)| state_bytes(model.artifact(), cache)).sum();
    let filled: u64 = caches.iter().map(|&(cache, positions)| filled_bytes(model.artifact(), cache, positions)).sum();
    model.state_bytes() as u64 - empty + filled
}
