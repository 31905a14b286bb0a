//! A model on a GPU: its weights there, its program decoded, the kernels that run it. Shared by any number of sessions.

use crate::arena::Address;
use crate::batch::Batch;
use crate::device::Device;
use crate::error::Error;
use crate::fuse::{Before, Behind, Fused};
use crate::launch::{
    After, Attention, AttentionShape, Conv, ConvShape, DeltaShape, DiagShape, DiagSsm, ENTRY_BYTES, Elementwise, Entering, EnteringKind,
    GATE_AT, Gates, Gating, Input, MAX_EXPERTS, MAX_HEAD_DIM, Matmul, MatmulFloat, Matvec, Memory, Moe, Multiply, Norm, NormShape, Outcome,
    Pairwise, Product, Round, Rounded, Route, RouterShape, ScanShape, SelectiveScan, SsdShape, StandIn, StateSpaceDual, Vectors, Walk,
    Which,
};
use crate::tensors::{Tensor, Tensors};
use brooklet::Model;
use brooklet::artifact::{InputSpec, Keep, Slot, SlotKind};
use brooklet::ops::{self, Linear, NormKind, Op, Policy, PoolKind, Router, Span, Stepping};

/// Which of two kernels runs where there are two.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Arithmetic {
    /// The CPU's order of sums and its elementary functions: the CPU's bits, in steps and prefills.
    #[default]
    Exact,
    /// Whatever order is fastest: integer products stay exact, sums of floats differ in their last bits.
    Fast,
}

/// A model's weights and program on a GPU.
#[derive(Debug)]
pub struct CudaModel<'m> {
    device: Device,
    model: Model<'m>,
    arithmetic: Arithmetic,
    pub(crate) tensors: Tensors,
    pub(crate) kernels: Kernels,
    pub(crate) program: Vec<Node>,
    slots: Vec<Slot>,
    pub(crate) needs: Needs,
}

/// All kernels, one launcher for each source.
#[derive(Debug)]
pub(crate) struct Kernels {
    attention: Attention,
    diag_ssm: DiagSsm,
    elementwise: Elementwise,
    gates: Gates,
    input: Input,
    matmul: Matmul,
    matmul_float: MatmulFloat,
    matvec: Matvec,
    memory: Memory,
    moe: Moe,
    multiply: Multiply,
    norm: Norm,
    round: Round,
    pub(crate) route: Route,
    walk: Walk,
    /// For [`Arithmetic::Fast`] alone.
    fast: Option<Fast>,
}

/// Kernels that add up in an order of their own.
#[derive(Debug)]
struct Fast {
    conv: Conv,
    scan: SelectiveScan,
    ssd: StateSpaceDual,
}

impl Fast {
    fn load(device: &Device) -> Result<Self, Error> {
        Ok(Fast { conv: Conv::load(device)?, scan: SelectiveScan::load(device)?, ssd: StateSpaceDual::load(device)? })
    }
}

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

/// What operations need beside frames, for each row of a batch.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Needs {
    /// Most numbers of the vectors that enter a product, padded to groups.
    pub(crate) rounded: u64,
    /// Numbers between an expert's matrices, all chosen experts.
    pub(crate) hidden: u64,
    /// Numbers behind them.
    pub(crate) experts: u64,
    /// Whether there are experts at all.
    pub(crate) has_experts: bool,
}

/// Working memory, by address.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Room {
    /// (rows) tokens, or (rows, channels) samples.
    pub(crate) input: Address,
    /// (output rows, outputs)
    pub(crate) output: Address,
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
    /// What pieces of a convolution see of those before them.
    pub(crate) halo: Address,
    /// What segments of a sequence hand on, and flags that say so.
    pub(crate) exchange: [Address; 2],
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

impl<'m> CudaModel<'m> {
    /// Uploads a model, for the CPU's bits.
    pub fn new(device: &Device, model: &Model<'m>) -> Result<Self, Error> {
        Self::with(device, model, Arithmetic::Exact)
    }

    /// Uploads a model. A GPU that shares the processor's memory reads the weights where they lie, if its driver can.
    pub fn with(device: &Device, model: &Model<'m>, arithmetic: Arithmetic) -> Result<Self, Error> {
        Self::placed(device, model, arithmetic, device.is_integrated())
    }

    /// The same with the weights read where they lie on any GPU that can: slower wherever the bus is. [`CudaModel::is_in_place`] tells.
    pub fn in_place(device: &Device, model: &Model<'m>, arithmetic: Arithmetic) -> Result<Self, Error> {
        Self::placed(device, model, arithmetic, true)
    }

    fn placed(device: &Device, model: &Model<'m>, arithmetic: Arithmetic, in_place: bool) -> Result<Self, Error> {
        let device = device.clone();
        let header = model.header();
        let kernels = Kernels {
            attention: Attention::load(&device)?,
            diag_ssm: DiagSsm::load(&device)?,
            elementwise: Elementwise::load(&device)?,
            gates: Gates::load(&device)?,
            input: Input::load(&device)?,
            matmul: Matmul::load(&device)?,
            matmul_float: MatmulFloat::load(&device)?,
            matvec: Matvec::load(&device)?,
            memory: Memory::load(&device)?,
            moe: Moe::load(&device)?,
            multiply: Multiply::load(&device)?,
            norm: Norm::load(&device)?,
            round: Round::load(&device)?,
            route: Route::load(&device)?,
            walk: Walk::load(&device)?,
            fast: if arithmetic == Arithmetic::Fast { Some(Fast::load(&device)?) } else { None },
        };
        // The header was checked when the model was loaded: every record can be decoded.
        let ops: Vec<Op> = header.program.iter().flatten().collect();
        let slots = (0..header.slots.count).filter_map(|slot| header.slots.get(slot)).collect();
        let tensors = Tensors::new(&device, model, in_place)?;
        let mut needs = Needs::default();
        for (index, op) in (0..).zip(&ops) {
            needs.add(index, op, &tensors)?;
        }
        let mut program = Vec::new();
        let mut at = 0;
        while let Some(op) = ops.get(at) {
            let number = at as u32;
            let block = |count: u32| ops.get(at + 1..at + 1 + count as usize).unwrap_or_default().to_vec();
            let node = match *op {
                Op::Route(route) => Node::Routed(number, route, block(route.ops)),
                Op::Every(every) => Node::Every(number, every, block(every.ops)),
                op => match Fused::at(&ops, at, |linear| tensors.format(linear.w).is_quantized()) {
                    Some(fused) => Node::Fused(number, fused, ops[at..at + fused.len()].to_vec()),
                    None => Node::One(number, op),
                },
            };
            at += match &node {
                Node::One(..) => 1,
                Node::Fused(_, _, ops) => ops.len(),
                Node::Routed(_, _, ops) | Node::Every(_, _, ops) => 1 + ops.len(),
            };
            program.push(node);
        }
        Ok(CudaModel { device, model: *model, arithmetic, tensors, kernels, program, slots, needs })
    }

    /// The model.
    pub fn model(&self) -> &Model<'m> {
        &self.model
    }

    /// Which kernels run.
    pub fn arithmetic(&self) -> Arithmetic {
        self.arithmetic
    }

    /// The GPU.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Whether the GPU reads the weights where they lie in the processor's memory.
    pub fn is_in_place(&self) -> bool {
        self.tensors.are_in_place()
    }

    /// Bytes of weights on the GPU.
    pub fn weights_bytes(&self) -> u64 {
        self.tensors.bytes()
    }

    /// Bytes of working space for attention, in batches of up to `rows` rows.
    pub(crate) fn attention_bytes(&self, rows: u32) -> u64 {
        let of = |op: &Op| match op {
            Op::Attention(attention) => Attention::room_bytes(rows, &self.attention(attention)),
            _ => 0,
        };
        let of_node = |node: &Node| match node {
            Node::One(_, op) => of(op),
            Node::Fused(_, _, ops) | Node::Routed(_, _, ops) | Node::Every(_, _, ops) => ops.iter().map(of).max().unwrap_or(0),
        };
        self.program.iter().map(of_node).max().unwrap_or(0)
    }

    /// Bytes of working space for products, in batches of up to `rows` rows.
    pub(crate) fn spread_bytes(&self, rows: u32) -> u64 {
        let of = |op: &Op| match op {
            Op::Linear(op) if self.tensors.format(op.w).is_quantized() => {
                let matrix = self.tensors.get(op.w);
                Matmul::spread_bytes(rows, matrix.rows, matrix.cols)
            }
            _ => 0,
        };
        let of_node = |node: &Node| match node {
            Node::One(_, op) => of(op),
            Node::Routed(..) => 0,
            Node::Fused(_, _, ops) | Node::Every(_, _, ops) => ops.iter().map(of).max().unwrap_or(0),
        };
        self.program.iter().map(of_node).max().unwrap_or(0)
    }

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

    /// Queues everything but the head.
    pub(crate) fn run(&self, context: &Context<'_>, mut done: impl FnMut(u32, &'static str) -> Result<(), Error>) -> Result<(), Error> {
        let batch = &context.batch;
        for node in &self.program {
            match node {
                Node::One(_, Op::Head(_) | Op::CappedHead(_)) => {}
                Node::One(number, op) => {
                    self.op(op, context)?;
                    done(*number, op.name())?;
                }
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
                    for (index, op) in (number..).zip(&ops[recurrence as usize..]) {
                        self.op(op, context)?;
                        done(index, op.name())?;
                    }
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
                        for (index, op) in (number + 1..).zip(ops) {
                            self.op(op, &context)?;
                            done(index, op.name())?;
                        }
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
                        for (index, op) in (number + 1..).zip(ops) {
                            self.op(op, &context)?;
                            done(index, op.name())?;
                        }
                    }
                }
            }
        }
        Ok(())
    }

    /// Bytes of working space that fast kernels take in batches of up to `tokens` tokens: halos, exchanged states, and flags, which must be zero.
    pub(crate) fn fast_bytes(&self, tokens: u32) -> [u64; 3] {
        let mut most = [0u64; 3];
        let Some(fast) = &self.kernels.fast else { return most };
        let mut add = |op: &Op| match op {
            Op::Conv1d(op) => most[0] = most[0].max(Conv::halo_bytes(&self.conv(op), tokens, 1)),
            Op::Ssd(op) => {
                // The longer a sequence, the more segments.
                let segments = fast.ssd.segments(&self.device, &self.ssd(op), tokens, 1);
                (most[1], most[2]) = (most[1].max(segments.exchange_bytes), most[2].max(segments.flag_bytes));
            }
            _ => {}
        };
        for node in &self.program {
            match node {
                Node::One(_, op) => add(op),
                Node::Fused(_, _, ops) | Node::Routed(_, _, ops) | Node::Every(_, _, ops) => ops.iter().for_each(&mut add),
            }
        }
        most
    }

    /// The kernels of an order of their own, if they are wanted: not inside a block that a token enters or not.
    fn fast(&self, batch: &Batch) -> Option<&Fast> {
        self.kernels.fast.as_ref().filter(|_| batch.gate == Address::NULL)
    }

    /// Queues the head on `rows` rows of frames from `x` on, so many numbers apart.
    pub(crate) fn head(&self, batch: &Batch, room: &Room, first: Address, rows: u32, row_stride: u64) -> Result<(), Error> {
        let (head, cap) = match self.program.last() {
            Some(Node::One(_, Op::Head(head))) => (head, 0.0),
            Some(Node::One(_, Op::CappedHead(capped))) => (&capped.head, capped.cap),
            _ => return Ok(()),
        };
        let x = Vectors { at: first.plus(4 * u64::from(head.x.at)), row_stride, pick_stride: 0, picks: 1 };
        let mut outcome = Outcome {
            out: room.output,
            bias: self.tensors.maybe(head.bias),
            row_stride: self.model.outputs() as u64,
            pick_stride: 0,
            scale: head.scale,
            cap,
        };
        // Each section makes some of the outputs.
        for piece in head.pieces(self.model.artifact()) {
            self.product(batch, room, rows, piece, Address::NULL, &x, &outcome)?;
            let bytes = 4 * u64::from(self.tensors.get(piece).rows);
            outcome.out = outcome.out.plus(bytes);
            if outcome.bias != Address::NULL {
                outcome.bias = outcome.bias.plus(bytes);
            }
        }
        Ok(())
    }

    fn slot(&self, id: u32) -> Slot {
        self.slots[id as usize]
    }

    fn is_half(&self, id: u32) -> u32 {
        u32::from(self.slot(id).kind == SlotKind::NumbersF16)
    }

    /// Queues a product with the matrix `id`, or with the one that each row has chosen from there on.
    fn product(&self, batch: &Batch, room: &Room, rows: u32, id: u32, chosen: Address, x: &Vectors, to: &Outcome) -> Result<(), Error> {
        let (matrix, format) = (self.tensors.get(id), self.tensors.format(id));
        let one_matrix = quantized_product(batch, matrix, chosen, x, to).filter(|_| format.is_quantized());
        // What the kernels of one matrix do not take, the general kernel does.
        if let (Some(product), true) = (&one_matrix, rows <= Matvec::MOST_VECTORS) {
            let from = Entering { x: x.at, stride: product.x_stride, ..Entering::default() };
            let after = After { cap: to.cap, ..After::default() };
            let queued = self.kernels.matvec.run(&self.device, format, rows, &from, &product.product, &after);
            if !matches!(queued, Err(Error::Launch { .. })) {
                return queued;
            }
        }
        // Experts may differ in format: then the rounded vectors are there for those that take them.
        if chosen != Address::NULL || format.is_quantized() {
            self.kernels.multiply.round(&self.device, batch, rows, x, matrix.cols, room.rounded)?;
        }
        if let Some(product) = one_matrix.filter(|_| to.cap == 0.0) {
            let Rounded { codes, scales, sums } = room.rounded;
            let from = Entering { codes, scales, sums, kind: EnteringKind::Rounded, ..Entering::default() };
            let queued = self.kernels.matmul.run(&self.device, format, rows, &from, &product.product, room.spread);
            if !matches!(queued, Err(Error::Launch { .. })) {
                return queued;
            }
        }
        let which = Which { matrices: self.tensors.matrices(), id, chosen, rows: matrix.rows };
        let queued = self.kernels.matmul_float.run(&self.device, batch, rows, format, &which, x, to);
        if !matches!(queued, Err(Error::Launch { .. })) {
            return queued;
        }
        self.kernels.multiply.run(&self.device, batch, rows, &which, x, room.rounded, to)
    }

    /// What enters the product of neighbours, and where it goes; what a convolution behind it does is not in it.
    fn parts(&self, fused: &Fused, batch: &Batch) -> (Entering, Product) {
        let (matrix, Linear { bias, x, out, .. }) = (self.tensors.get(fused.linear.w), fused.linear);
        let mut from = Entering { x: batch.operand(x.at), stride: batch.stride, z_stride: batch.stride, ..Entering::default() };
        match &fused.before {
            Before::Nothing => {}
            Before::SiluMultiply(silu) => (from.kind, from.z) = (EnteringKind::SiluMultiply, batch.operand(silu.y.at)),
            Before::Norm(norm) => {
                from.x = batch.operand(norm.x.at);
                (from.kind, from.z) = match norm.gate {
                    Some(gate) => (EnteringKind::GatedRms, batch.operand(gate.z.at)),
                    None => (EnteringKind::Rms, Address::NULL),
                };
                (from.weight, from.norm_groups, from.eps) = (self.tensors.maybe(norm.weight), norm.groups, norm.eps);
                from.eps_outside = u32::from(norm.kind == NormKind::RmsEpsOutside);
            }
        }
        let mut product = Product {
            matrix: matrix.address,
            bias: self.tensors.maybe(bias),
            residual: Address::NULL,
            out: batch.operand(out.at),
            gate: batch.gate,
            rows: matrix.rows,
            cols: matrix.cols,
            out_stride: batch.stride,
            residual_stride: batch.stride,
            scale: 1.0,
        };
        if let Behind::Add(add) = &fused.behind {
            (product.out, product.residual, product.scale) = (batch.operand(add.x.at), batch.operand(add.x.at), add.scale);
        }
        (from, product)
    }

    /// Whether a kernel takes neighbours in one launch, on the one token of each stream.
    fn takes(&self, fused: &Fused, batch: &Batch) -> bool {
        let (from, product) = self.parts(fused, batch);
        self.kernels.matvec.takes(&self.device, self.tensors.format(fused.linear.w), batch.streams, &from, &product)
    }

    /// Queues the recurrence before the neighbours, with the gate of their norm.
    fn gated_ssd(&self, ssd: &ops::Ssd, fused: &Fused, batch: &Batch) -> Result<(), Error> {
        let mut shape = self.ssd(ssd);
        if let Before::Norm(norm) = &fused.before {
            (shape.z, shape.has_gate) = (norm.gate.map_or(0, |gate| gate.z.at), u32::from(norm.gate.is_some()));
        }
        self.kernels.walk.ssd(&self.device, batch, &shape)
    }

    /// Queues neighbours in one launch, on the one token of each stream; a recurrence before them has run already, with the gate.
    fn fused(&self, fused: &Fused, batch: &Batch) -> Result<(), Error> {
        let (mut from, product) = self.parts(fused, batch);
        if fused.recurrence.is_some() {
            from.kind = EnteringKind::Rms;
        }
        let after = match &fused.behind {
            Behind::Nothing | Behind::Add(_) => After::default(),
            Behind::Conv1d(op) => {
                let shape = self.conv(op);
                After {
                    conv_weight: shape.weight,
                    conv_bias: shape.bias,
                    conv_state: batch.state.plus(shape.slot),
                    conv_state_stride: batch.state_stride,
                    conv_first: shape.x - fused.linear.out.at,
                    conv_channels: shape.channels,
                    taps: shape.taps,
                    has_silu: u32::from(shape.silu),
                    cap: 0.0,
                }
            }
        };
        self.kernels.matvec.run(&self.device, self.tensors.format(fused.linear.w), batch.streams, &from, &product, &after)
    }

    /// Queues neighbours for many rows: what enters is made and rounded in one launch, what the product is added to in another. `false` if they must
    /// run one by one.
    fn fused_rows(&self, fused: &Fused, context: &Context<'_>) -> Result<bool, Error> {
        let Context { batch, room, .. } = context;
        let (rows, format) = (batch.rows(), self.tensors.format(fused.linear.w));
        if rows <= Matvec::MOST_VECTORS {
            return Ok(false);
        }
        let (from, product) = self.parts(fused, batch);
        match self.kernels.round.run(&self.device, rows, &from, product.cols, room.rounded, batch.gate) {
            Err(Error::Launch { .. }) => return Ok(false),
            queued => queued?,
        }
        let Rounded { codes, scales, sums } = room.rounded;
        let from = Entering { codes, scales, sums, kind: EnteringKind::Rounded, ..Entering::default() };
        self.kernels.matmul.run(&self.device, format, rows, &from, &product, room.spread)?;
        if let Behind::Conv1d(op) = &fused.behind {
            self.op(&Op::Conv1d(*op), context)?;
        }
        Ok(true)
    }

    /// Queues `out <- w * x + bias` on all rows of the batch.
    fn linear(&self, batch: &Batch, room: &Room, w: u32, bias: Option<u32>, x: Span, out: Span) -> Result<(), Error> {
        let row_stride = u64::from(batch.stride);
        let x = Vectors { at: batch.operand(x.at), row_stride, pick_stride: 0, picks: 1 };
        let bias = self.tensors.maybe(bias);
        let outcome = Outcome { out: batch.operand(out.at), bias, row_stride, pick_stride: 0, scale: 1.0, cap: 0.0 };
        self.product(batch, room, batch.rows(), w, Address::NULL, &x, &outcome)
    }

    fn conv(&self, op: &ops::Conv1d) -> ConvShape {
        let tensors = &self.tensors;
        ConvShape {
            x: op.x.at,
            channels: op.x.len,
            taps: op.taps,
            silu: op.silu,
            weight: tensors.address(op.weight),
            bias: tensors.maybe(op.bias),
            slot: self.slot(op.state).at,
        }
    }

    fn ssd(&self, op: &ops::Ssd) -> SsdShape {
        let tensors = &self.tensors;
        SsdShape {
            x: op.x.at,
            dt: op.dt.at,
            b: op.b.at,
            c: op.c.at,
            out: op.out.at,
            heads: op.dt.len,
            head_dim: op.x.len / op.dt.len.max(1),
            groups: op.groups,
            d_state: op.b.len / op.groups.max(1),
            is_half: self.is_half(op.state),
            z: 0,
            has_gate: 0,
            dt_lo: op.dt_lo,
            dt_hi: op.dt_hi,
            a: tensors.address(op.a),
            d: tensors.address(op.d),
            dt_bias: tensors.address(op.dt_bias),
            slot: self.slot(op.state).at,
        }
    }

    fn attention(&self, op: &ops::Attention) -> AttentionShape {
        let slot = self.slot(op.cache);
        let turns = op.rotary.map(|rotary| self.tensors.get(rotary.turns));
        AttentionShape {
            q: op.q.at,
            k: op.k.at,
            v: op.v.at,
            out: op.out.at,
            heads: op.heads,
            kv_heads: slot.heads,
            head_dim: slot.head_dim,
            half: turns.map_or(0, |turns| turns.rows * turns.cols),
            kind: match slot.kind {
                SlotKind::CacheInt8 => 1,
                SlotKind::CacheInt4 => 2,
                _ => 0,
            },
            capacity: slot.capacity,
            sink: slot.sink,
            slides: u32::from(slot.keep == Keep::SinkAndWindow),
            turns: turns.map_or(Address::NULL, |turns| turns.address),
            slot: slot.at,
            scale: op.scale,
        }
    }

    /// Queues one operation.
    fn op(&self, op: &Op, context: &Context<'_>) -> Result<(), Error> {
        let (device, kernels, tensors, Context { batch, room, .. }) = (&self.device, &self.kernels, &self.tensors, context);
        match op {
            Op::Embed(op) => {
                let InputSpec::Tokens { vocab, .. } = self.model.header().input else { return Ok(()) };
                let table = (tensors.matrices(), self.model.artifact().pieces(op.table, vocab));
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
            Op::Conv1d(op) => {
                let shape = self.conv(op);
                if let Some(fast) = self.fast(batch)
                    && fast.conv.run(device, batch, &shape, room.halo)?
                {
                    return Ok(());
                }
                kernels.walk.conv1d(device, batch, &shape)
            }
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
                if let Some(fast) = self.fast(batch)
                    && fast.scan.run(device, batch, &shape)?
                {
                    return Ok(());
                }
                kernels.walk.scan(device, batch, &shape)
            }
            Op::Ssd(op) => {
                let shape = self.ssd(op);
                if let Some(fast) = self.fast(batch) {
                    let segments = fast.ssd.segments(device, &shape, batch.tokens, batch.streams);
                    if fast.ssd.run(device, batch, &shape, &segments, room.exchange)? {
                        return Ok(());
                    }
                }
                kernels.walk.ssd(device, batch, &shape)
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

impl Needs {
    /// Adds what an operation needs; refuses what no kernel can do.
    fn add(&mut self, index: u32, op: &Op, tensors: &Tensors) -> Result<(), Error> {
        let padded = |cols: u32| u64::from(cols.next_multiple_of(32));
        let mut product = |w: u32, picks: u32| self.rounded = self.rounded.max(u64::from(picks) * padded(tensors.get(w).cols));
        let refuse = |what| Err(Error::Unsupported { index, what });
        match op {
            Op::Linear(op) => product(op.w, 1),
            Op::Lstm(op) => product(op.w, 1),
            Op::Gru(op) => product(op.w, 1),
            Op::Moe(op) => {
                if op.scores.len > MAX_EXPERTS {
                    return refuse("more than 2048 experts");
                }
                product(op.experts_at, 1);
                product(op.experts_at + 1, op.top_k);
                self.hidden = self.hidden.max(u64::from(op.top_k) * u64::from(op.hidden.len));
                self.experts = self.experts.max(u64::from(op.top_k) * u64::from(op.out.len));
                self.has_experts = true;
            }
            Op::Attention(op) if op.q.len / op.heads.max(1) > MAX_HEAD_DIM => return refuse("attention heads wider than 512"),
            _ => {
                if let Some(head) = op.head() {
                    product(head.w, 1);
                }
            }
        }
        Ok(())
    }
}

/// Bytes of a route's decision.
pub(crate) const ROUTE_BYTES: u64 = ENTRY_BYTES;

/// A product of one matrix for all rows.
struct OneMatrix {
    product: Product,
    /// Numbers from one vector to the next.
    x_stride: u32,
}

/// A product for the kernels of one quantized matrix: not where rows choose theirs.
fn quantized_product(batch: &Batch, matrix: Tensor, chosen: Address, x: &Vectors, to: &Outcome) -> Option<OneMatrix> {
    let product = Product {
        matrix: matrix.address,
        bias: to.bias,
        residual: Address::NULL,
        out: to.out,
        gate: batch.gate,
        rows: matrix.rows,
        cols: matrix.cols,
        out_stride: u32::try_from(to.row_stride).ok()?,
        residual_stride: 0,
        scale: to.scale,
    };
    let x_stride = u32::try_from(x.row_stride).ok()?;
    (chosen == Address::NULL && x.picks == 1).then_some(OneMatrix { product, x_stride })
}
