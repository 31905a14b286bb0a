//! Queues a program on a batch, operation by operation.

use crate::arena::Address;
use crate::batch::Batch;
use crate::error::Error;
use crate::launch::{
    DeltaShape, DiagShape, GATE_AT, Gating, NormShape, Outcome, Pairwise, Rounded, RouterShape, ScanShape, StandIn, Vectors,
};
use crate::model::CudaModel;
use crate::program::Node;
use brooklet::artifact::InputSpec;
use brooklet::ops::{self, NormKind, Op, Policy, PoolKind, Router, Stepping};

/// Working memory, by address.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Room {
    /// (rows) tokens, or (rows, channels) samples.
    pub(crate) input: Address,
    /// (output rows, outputs)
    pub(crate) output: Address,
    /// The same in the order of the head's rows, if that is another.
    pub(crate) made: Address,
    pub(crate) rounded: Rounded,
    /// Levels of a matrix, and its bytes.
    pub(crate) spread: (Address, u64),
    /// Scores of attention.
    pub(crate) attention: Address,
    /// (rows, 32)
    pub(crate) chosen: Address,
    /// (rows, 32)
    pub(crate) weights: Address,
    pub(crate) hidden: Address,
    pub(crate) experts: Address,
    /// A route's decision.
    pub(crate) entry: Address,
}

/// A batch on its way through the program.
#[derive(Clone, Copy)]
pub(crate) struct Context<'c> {
    pub(crate) batch: Batch,
    /// (streams): their positions before the batch, as the GPU has them too.
    pub(crate) positions: &'c [u64],
    /// Most positions that any stream's caches hold before the batch, in the block's own steps.
    pub(crate) cached: u64,
    pub(crate) room: &'c Room,
}

impl CudaModel<'_> {
    /// Queues everything but the head.
    pub(crate) fn run(&self, context: &Context<'_>, mut done: impl FnMut(u32, &'static str) -> Result<(), Error>) -> Result<(), Error> {
        let batch = &context.batch;
        for node in &self.program {
            match node {
                Node::One(_, Op::Head(_) | Op::CappedHead(_)) => {}
                Node::One(number, _) => self.each(*number, node.ops(), context, &mut done)?,
                Node::Fused(number, fused, ops) => {
                    let recurrence = u32::from(fused.recurrence.is_some());
                    if batch.tokens == 1 && self.takes(fused, batch) {
                        if let Some(ssd) = &fused.recurrence {
                            self.gated_ssd(ssd, fused, batch)?;
                            done(*number, "Ssd")?;
                        }
                        self.fused(fused, batch)?;
                        done(number + recurrence, fused.name())?;
                        continue;
                    }
                    if let Some(ssd) = fused.recurrence {
                        self.op(&Op::Ssd(ssd), context)?;
                        done(*number, "Ssd")?;
                    }
                    let number = number + recurrence;
                    if self.fused_rows(fused, context)? {
                        done(number, fused.name())?;
                        continue;
                    }
                    self.each(number, &ops[recurrence as usize..], context, &mut done)?;
                }
                Node::Every(number, every, ops) => {
                    for stream in 0..batch.streams {
                        let position = context.positions[stream as usize];
                        let (start, period) = (u64::from(every.start), u64::from(every.period));
                        // Steps to the next run, and from the block's first run to that one.
                        let since = position.saturating_sub(start).next_multiple_of(period);
                        let first = start + since - position;
                        if first >= u64::from(batch.tokens) {
                            continue;
                        }
                        let batch = batch.stream(stream).every(first as u32, every.period, every.start);
                        let context = Context { batch, cached: since / period, ..*context };
                        self.each(number + 1, ops, &context, &mut done)?;
                    }
                }
                Node::Routed(number, route, ops) => {
                    for row in 0..batch.rows() {
                        let mut batch = batch.stream(row / batch.tokens).token(row % batch.tokens);
                        let entry = context.room.entry;
                        let slot = self.slot(route.count).at;
                        self.kernels.route.enter(&self.device, &batch, route.score.at, (route.threshold, route.otherwise), slot, entry)?;
                        (batch.cached, batch.gate) = (entry, entry.plus(GATE_AT));
                        let context = Context { batch, ..*context };
                        self.each(number + 1, ops, &context, &mut done)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Queues operations one by one, the first of this number.
    fn each(
        &self,
        first: u32,
        ops: &[Op],
        context: &Context<'_>,
        done: &mut impl FnMut(u32, &'static str) -> Result<(), Error>,
    ) -> Result<(), Error> {
        for (number, op) in (first..).zip(ops) {
            self.op(op, context)?;
            done(number, op.name())?;
        }
        Ok(())
    }

    /// Queues one operation.
    pub(crate) fn op(&self, op: &Op, context: &Context<'_>) -> Result<(), Error> {
        let (device, kernels, tensors, Context { batch, room, .. }) = (&self.device, &self.kernels, &self.tensors, context);
        match op {
            Op::Embed(op) => {
                let InputSpec::Tokens { vocab, .. } = self.model.header().input else { return Ok(()) };
                let table = (tensors.matrices(), self.model.artifact().pieces(op.table, vocab), tensors.places_of(op.table));
                kernels.input.embed(device, batch, table, room.input, (op.out.at, op.out.len), op.scale)
            }
            Op::Frame(op) => {
                let arrays = (tensors.address(op.mean), tensors.address(op.inv_std));
                kernels.input.normalise(device, batch, room.input, op.out.len, arrays, op.out.at)
            }
            Op::Missing(op) => {
                let stand_in = match op.policy {
                    Policy::Hold { last } => StandIn::Last(self.slot(last).at),
                    Policy::Mean => StandIn::Numbers(Address::NULL),
                    Policy::Zero { zeros } => StandIn::Numbers(tensors.address(zeros)),
                };
                kernels.input.missing(device, batch, op.x.at, op.x.len, stand_in)
            }
            Op::Norm(op) => {
                let shape = NormShape {
                    kind: match op.kind {
                        NormKind::Rms => 0,
                        NormKind::Layer => 1,
                        NormKind::RmsEpsOutside => 2,
                    },
                    x: op.x.at,
                    out: op.out.at,
                    gating: match op.gate {
                        None => Gating::None,
                        Some(gate) if gate.first => Gating::First(gate.z.at),
                        Some(gate) => Gating::Last(gate.z.at),
                    },
                    groups: op.groups,
                    width: op.x.len / op.groups.max(1),
                    weight: tensors.maybe(op.weight),
                    bias: tensors.maybe(op.bias),
                    eps: op.eps,
                };
                kernels.norm.run(device, batch, &shape)
            }
            Op::Linear(op) => self.linear(batch, room, op.w, op.bias, op.x, op.out),
            Op::Conv1d(op) => kernels.walk.conv1d(device, batch, &self.conv(op)),
            Op::Scan(op) => {
                let shape = ScanShape {
                    x: op.x.at,
                    dt: op.dt.at,
                    b: op.b.at,
                    c: op.c.at,
                    z: op.z.map_or(0, |z| z.at),
                    out: op.out.at,
                    has_z: u32::from(op.z.is_some()),
                    channels: op.x.len,
                    d_state: op.b.len / op.heads.max(1),
                    heads: op.heads,
                    is_half: self.is_half(op.state),
                    a: tensors.address(op.a),
                    d: tensors.address(op.d),
                    dt_bias: tensors.address(op.dt_bias),
                    slot: self.slot(op.state).at,
                };
                // Not inside a block that a token enters or not.
                if let Some(fast) = kernels.fast_scan.as_ref().filter(|_| batch.tokens > 1 && batch.gate == Address::NULL)
                    && fast.run(device, batch, &shape)?
                {
                    return Ok(());
                }
                kernels.walk.scan(device, batch, &shape)
            }
            Op::Ssd(op) => {
                let shape = self.ssd(op);
                match &kernels.fast_ssd {
                    Some(fast) if fast.run(device, batch, &shape)? => Ok(()),
                    _ => kernels.walk.ssd(device, batch, &shape),
                }
            }
            Op::Attention(op) => {
                let shape = self.attention(op);
                if batch.tokens > 1 && context.cached + u64::from(batch.tokens) > u64::from(shape.capacity) {
                    // The cache lets go of positions that earlier tokens still see.
                    return (0..batch.tokens).try_for_each(|t| kernels.attention.run(device, &batch.token(t), &shape, room.attention));
                }
                kernels.attention.run(device, batch, &shape, room.attention)
            }
            Op::SiluMultiply(op) => kernels.elementwise.pairwise(device, batch, op.x, Pairwise::SiluMultiply(op.y)),
            Op::Add(op) => kernels.elementwise.pairwise(device, batch, op.x, Pairwise::Add(op.y, op.scale)),
            Op::Multiply(op) => kernels.elementwise.pairwise(device, batch, op.x, Pairwise::Multiply(op.y)),
            Op::Copy(op) => kernels.elementwise.pairwise(device, batch, op.x, Pairwise::Copy(op.y)),
            Op::ScaleBy(op) => kernels.elementwise.pairwise(device, batch, op.x, Pairwise::ScaleBy(op.y)),
            Op::Fill(op) => kernels.elementwise.pairwise(device, batch, op.out, Pairwise::Fill(op.value)),
            Op::Activate(op) => kernels.elementwise.activate(device, batch, op.x, op.f),
            Op::Hadamard(op) => kernels.elementwise.hadamard(device, batch, op.x, op.block, op.scale),
            Op::Pool(op) => {
                let alpha = match op.kind {
                    PoolKind::Mean => None,
                    PoolKind::Ema { alpha } => Some(alpha),
                };
                kernels.memory.pool(device, batch, op.x, alpha, self.slot(op.state).at)
            }
            Op::Window(op) => kernels.memory.window(device, batch, op.x, op.out, self.slot(op.state).at),
            Op::Delay(op) => kernels.memory.delay(device, batch, op.x, op.out.at, op.steps, self.slot(op.state).at),
            Op::DepthToTime(op) => kernels.memory.depth_to_time(device, batch, op.x, op.out, self.slot(op.state).at),
            Op::Moe(op) => self.moe(op, context),
            Op::GatedDelta(op) => {
                let shape = DeltaShape {
                    q: op.q.at,
                    k: op.k.at,
                    v: op.v.at,
                    a: op.a.at,
                    b: op.b.at,
                    out: op.out.at,
                    heads: op.a.len,
                    key_heads: op.key_heads,
                    key_dim: op.k.len / op.key_heads.max(1),
                    value_dim: op.v.len / op.a.len.max(1),
                    is_half: self.is_half(op.state),
                    scale: op.scale,
                    beta_scale: op.beta_scale,
                    eps: op.eps,
                    decay: tensors.address(op.decay),
                    dt_bias: tensors.address(op.dt_bias),
                    slot: self.slot(op.state).at,
                };
                kernels.walk.gated_delta(device, batch, &shape)
            }
            Op::RgLru(op) => {
                let operands = [op.x.at, op.input_gate.at, op.recurrence_gate.at];
                kernels.walk.rg_lru(device, batch, operands, op.x.len, tensors.address(op.decay), self.slot(op.state).at)
            }
            Op::DiagSsm(op) => {
                let a = tensors.get(op.a);
                let shape = DiagShape {
                    x: op.x.at,
                    is_complex: op.x.len > op.channels,
                    out: op.out.at,
                    channels: op.channels,
                    modes: a.rows * a.cols / (2 * op.channels).max(1),
                    stepping: match op.stepping {
                        Stepping::Fixed => 0,
                        Stepping::Hold => 1,
                        Stepping::Bilinear => 2,
                        Stepping::Impulse => 3,
                    },
                    a: a.address,
                    c: tensors.maybe(op.c),
                    d: tensors.maybe(op.d),
                    slot: self.slot(op.state).at,
                };
                kernels.diag_ssm.run(device, batch, &shape)
            }
            Op::Lstm(op) => {
                let slot = self.slot(op.state).at;
                (0..batch.tokens).map(|t| batch.token(t)).try_for_each(|batch| {
                    kernels.gates.recall(device, &batch, op.out, slot)?;
                    self.linear(&batch, room, op.w, None, op.out, op.recurrent)?;
                    kernels.gates.lstm(device, &batch, [op.input.at, op.recurrent.at], op.out, slot)
                })
            }
            Op::Gru(op) => {
                let (slot, bias) = (self.slot(op.state).at, tensors.maybe(op.bias));
                (0..batch.tokens).map(|t| batch.token(t)).try_for_each(|batch| {
                    kernels.gates.recall(device, &batch, op.out, slot)?;
                    self.linear(&batch, room, op.w, None, op.out, op.recurrent)?;
                    kernels.gates.gru(device, &batch, [op.input.at, op.recurrent.at], op.out, bias, slot)
                })
            }
            // The session makes the outputs; blocks are nodes of the program.
            Op::Head(_) | Op::CappedHead(_) | Op::Route(_) | Op::Every(_) => Ok(()),
        }
    }

    /// Queues a mixture of experts.
    fn moe(&self, op: &ops::Moe, context: &Context<'_>) -> Result<(), Error> {
        let (device, kernels, Context { batch, room, .. }) = (&self.device, &self.kernels, context);
        let (renormalize, eps) = match op.router {
            Router::Softmax { renormalize } => (renormalize, 0.0),
            Router::TopKSoftmax => (false, 0.0),
            Router::Sigmoid { renormalize, .. } => (renormalize.is_some(), renormalize.unwrap_or(0.0)),
        };
        let (router, bias, groups, top_groups) = match op.router {
            Router::Softmax { .. } => (0, None, 1, 1),
            Router::TopKSoftmax => (1, None, 1, 1),
            Router::Sigmoid { bias, groups, top_groups, .. } => (2, bias, groups, top_groups),
        };
        let shape = RouterShape {
            scores: op.scores.at,
            experts: op.scores.len,
            top_k: op.top_k,
            router,
            renormalize: u32::from(renormalize),
            groups,
            top_groups,
            eps,
            scale: op.scale,
            bias: self.tensors.maybe(bias),
        };
        kernels.moe.choose(device, batch, &shape, room.chosen, room.weights)?;
        let (rows, picks) = (batch.rows(), op.top_k);
        let (width, out_width) = (u64::from(op.hidden.len), u64::from(op.out.len));
        let inner = if op.gated { op.hidden.len / 2 } else { op.hidden.len };
        let x = Vectors { at: batch.operand(op.x.at), row_stride: u64::from(batch.stride), pick_stride: 0, picks };
        let outcome = |out, width| Outcome {
            out,
            bias: Address::NULL,
            row_stride: width * u64::from(picks),
            pick_stride: width,
            scale: 1.0,
            cap: 0.0,
        };
        self.product(batch, room, rows, op.experts_at, room.chosen, &x, &outcome(room.hidden, width))?;
        kernels.moe.between(device, batch, room.hidden, (picks, op.hidden.len, inner), op.gated, op.f)?;
        let x = Vectors { at: room.hidden, row_stride: width * u64::from(picks), pick_stride: width, picks };
        self.product(batch, room, rows, op.experts_at + 1, room.chosen, &x, &outcome(room.experts, out_width))?;
        kernels.moe.mix(device, batch, room.experts, room.weights, picks, op.out)
    }
}
