//! The memory plan: the one place that says how many bytes weights, state and scratch take.
//!
//! The quantizer calls it to lay a state out, `inspect` to print the sheet, and a device to check what it was given. Nothing
//! here is stored in the file, so it cannot disagree with the code that runs.

use crate::artifact::{Artifact, Keep, OutputSpec, Slot, SlotKind, line_count};
use crate::error::{Error, HeaderFault, OpFault};
use crate::mem::BUFFER_ALIGN;
use crate::ops::{Checker, DiagSsm, Every, Op, Policy, Span, Stepping, cache_bytes, packed_bytes};
use brooklet_kernels::quant::Format;

/// Bytes of one state slot; `None` when that overflows.
pub fn slot_bytes(slot: &Slot) -> Option<u64> {
    match slot.kind {
        SlotKind::Numbers => u64::from(slot.capacity).checked_mul(4),
        SlotKind::NumbersF16 => u64::from(slot.capacity).checked_mul(2),
        SlotKind::CacheF32 | SlotKind::CacheInt8 | SlotKind::CacheInt4 => cache_bytes(slot),
    }
}

/// Sets every slot's place, in order, on 16-byte boundaries; returns the bytes of the whole state.
pub fn place_slots(slots: &mut [Slot]) -> Option<u64> {
    let mut end = 0u64;
    for slot in slots {
        slot.at = end;
        end = end.checked_add(slot_bytes(slot)?)?.checked_next_multiple_of(BUFFER_ALIGN as u64)?;
    }
    Some(end)
}

/// What a checked program needs, found in one pass over it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Bytes of one stream's state.
    pub state_bytes: u64,
    /// Bytes of the file that a step reads: everything but the tokenizer.
    pub weights_bytes: u64,
    /// Multiplications with additions of one step, about; attention counted at a full cache, blocks with a rate of their own by
    /// their share.
    pub macs_per_step: u64,
    /// Outputs of a step.
    pub outputs: u32,
    /// Whether frames may come at other times than the model's own rate: its recurrences know the time between them.
    pub takes_gaps: bool,
    /// What stands in for a missing sample, a NaN in a frame; without it, one is refused.
    pub missing: Option<Policy>,
    /// Positions after which a step is refused, if any cache was made to stop.
    pub context: Option<u32>,
    /// Steps before every part of the program has run: a model that looks ahead answers for the input of so many steps before.
    pub delay_steps: u32,
    frame_len: u32,
    quantized_cols: u32,
    float_cols: u32,
    scores: u32,
    /// Whether the head's rows lie in another order than its outputs.
    has_places: bool,
}

impl Plan {
    /// Checks the program of `artifact` and sums up what it needs.
    pub fn new(artifact: &Artifact<'_>) -> Result<Self, Error> {
        let header = artifact.header();
        let mut plan = Plan {
            state_bytes: check_slots(artifact)?,
            weights_bytes: 0,
            macs_per_step: 0,
            outputs: match header.output {
                OutputSpec::Logits { count } => count,
                OutputSpec::Classes { names } | OutputSpec::Values { names, .. } => line_count(names) as u32,
            },
            takes_gaps: false,
            missing: None,
            context: None,
            delay_steps: 0,
            frame_len: header.frame_len,
            quantized_cols: 0,
            float_cols: 0,
            scores: 0,
            has_places: false,
        };
        for section in (0..header.sections.count).filter_map(|i| artifact.section(i)) {
            if !section.content.is_tokenizer() {
                plan.weights_bytes += section.content.bytes(section.rows, section.cols).unwrap_or(0);
            }
        }
        let mut fixed_rate = false;
        let mut samples: Option<Span> = None;
        let mut checker = Checker::new(artifact);
        // What is left of a block, and its clock if it has one of its own.
        let (mut left, mut clock) = (0, None);
        let last = header.program.count.wrapping_sub(1);
        let mut program = header.program.iter();
        for index in 0..header.program.count {
            let fail = |fault| Error::Op { index, fault };
            let op = program.next().flatten().ok_or(fail(OpFault::Encoding))?;
            let is_input = matches!(op, Op::Embed(_) | Op::Frame(_));
            if is_input != (index == 0) || op.head().is_some() != (index == last) {
                return Err(fail(OpFault::Order));
            }
            // What replaces missing samples comes before anything that could take them in.
            if let Op::Missing(missing) = op {
                if index != 1 || samples != Some(missing.x) {
                    return Err(fail(OpFault::Order));
                }
                plan.missing = Some(missing.policy);
            }
            samples = if let Op::Frame(frame) = op { Some(frame.out) } else { None };
            let is_routed = left > 0 && clock.is_none();
            // A block holds whole layers: no head, no block inside, and a routed one nothing that counts every step.
            let is_block = matches!(op, Op::Route(_) | Op::Every(_));
            if left > 0 && (op.head().is_some() || is_block || (is_routed && matches!(op, Op::Pool(_)))) {
                return Err(fail(OpFault::Order));
            }
            if left == 0 {
                clock = None;
            }
            left = match op {
                Op::Route(route) => route.ops,
                Op::Every(every) => every.ops,
                _ => left.saturating_sub(1),
            };
            if let Op::Every(every) = op {
                let mut behind = program.clone();
                behind.by_ref().take(every.ops as usize).for_each(drop);
                if program.bytes_left() - behind.bytes_left() != every.bytes as usize {
                    return Err(fail(OpFault::Encoding));
                }
                (clock, fixed_rate) = (Some(every), true);
                plan.delay_steps = plan.delay_steps.max(every.start);
            }
            checker.operands(&op).map_err(fail)?;
            op.check(&mut checker).map_err(fail)?;
            plan.add(artifact, &op, clock.filter(|_| !is_block));
            let knows_time = matches!(op, Op::Scan(_) | Op::Ssd(_) | Op::DiagSsm(_));
            plan.takes_gaps |= knows_time;
            // A recurrence in a routed block knows the time since the last frame, not since the last one that entered.
            fixed_rate |= knows_time && is_routed;
            fixed_rate |= matches!(op, Op::DiagSsm(DiagSsm { stepping: Stepping::Fixed, .. }));
        }
        plan.takes_gaps &= !fixed_rate;
        if header.program.count < 2 || checker.slots_used() != header.slots.count {
            return Err(Error::Header(HeaderFault::Inconsistent));
        }
        // A plan whose sizes overflow on this machine cannot be run on it.
        plan.scratch_bytes(1, 1).ok_or(Error::Header(HeaderFault::Inconsistent))?;
        usize::try_from(plan.state_bytes).map_err(|_| Error::Header(HeaderFault::Inconsistent))?;
        Ok(plan)
    }

    /// Adds what `op` takes, which runs in step with `clock`.
    fn add(&mut self, artifact: &Artifact<'_>, op: &Op, clock: Option<Every>) {
        let (period, start) = clock.map_or((1, 0), |every| (every.period.max(1), every.start));
        self.macs_per_step = self.macs_per_step.saturating_add(op.macs(artifact).div_ceil(u64::from(period)));
        match op {
            Op::Linear(linear) => self.add_matrix(artifact, linear.w),
            Op::Moe(moe) => {
                let end = moe.scores.len.saturating_mul(2).saturating_add(moe.experts_at);
                (moe.experts_at..end).for_each(|w| self.add_matrix(artifact, w));
            }
            Op::Lstm(lstm) => self.add_matrix(artifact, lstm.w),
            Op::Gru(gru) => self.add_matrix(artifact, gru.w),
            Op::Attention(attention) => {
                if let Some(slot) = artifact.header().slots.get(attention.cache) {
                    self.scores = self.scores.max(attention.scores(&slot));
                    if slot.keep == Keep::Stop {
                        let steps = slot.capacity.saturating_mul(period).saturating_add(start);
                        self.context = Some(self.context.map_or(steps, |c| c.min(steps)));
                    }
                }
            }
            _ => {
                if let Some(head) = op.head() {
                    head.pieces(artifact).for_each(|w| self.add_matrix(artifact, w));
                    self.has_places = artifact.places_of(head.w).is_some();
                }
            }
        }
    }

    fn add_matrix(&mut self, artifact: &Artifact<'_>, id: u32) {
        if let Some(section) = artifact.section(id) {
            let widest =
                if section.content.format().is_some_and(Format::is_quantized) { &mut self.quantized_cols } else { &mut self.float_cols };
            *widest = section.cols.max(*widest);
        }
    }

    /// The parts of a session's scratch, for batches of up to `tokens` tokens and a team of `threads`.
    pub fn scratch(&self, tokens: usize, threads: usize) -> Option<Scratch> {
        let numbers = |count: usize| count.checked_mul(4)?.checked_next_multiple_of(BUFFER_ALIGN);
        // Frames start on 16-byte boundaries too.
        // Behind the first frame the others start on cache lines.
        let align = if tokens > 1 { 64 } else { BUFFER_ALIGN };
        let stride = (self.frame_len as usize).next_multiple_of(align / 4);
        let quantized = packed_bytes(Format::Q8, self.quantized_cols, tokens)?;
        let float = packed_bytes(Format::F32, self.float_cols, tokens)?;
        Some(Scratch {
            stride,
            frames_bytes: numbers(stride.checked_mul(tokens)?)?,
            // One token's outputs pass through here on their way into order.
            packed_bytes: quantized.max(float).max(if self.has_places { numbers(self.outputs as usize)? } else { 0 }),
            scores_bytes: numbers((self.scores as usize).checked_mul(threads)?)?,
            output_bytes: numbers(self.outputs as usize)?,
        })
    }

    /// Bytes of a session's scratch, for batches of up to `tokens` tokens and a team of `threads`.
    pub fn scratch_bytes(&self, tokens: usize, threads: usize) -> Option<usize> {
        let s = self.scratch(tokens, threads)?;
        s.frames_bytes.checked_add(s.packed_bytes)?.checked_add(s.scores_bytes)?.checked_add(s.output_bytes)
    }
}

/// The parts of a session's scratch, one behind the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scratch {
    /// Numbers from one token's frame to the next.
    pub stride: usize,
    /// (tokens, stride) numbers.
    pub frames_bytes: usize,
    /// The packed inputs of the widest matrix.
    pub packed_bytes: usize,
    /// The attention scores of a few heads, for each thread.
    pub scores_bytes: usize,
    /// One token's outputs.
    pub output_bytes: usize,
}

fn check_slots(artifact: &Artifact<'_>) -> Result<u64, Error> {
    let slots = &artifact.header().slots;
    let mut end = 0u64;
    for index in 0..slots.count {
        let fail = Error::Slot { index };
        let slot = slots.get(index).ok_or(fail)?;
        if slot.at != end {
            return Err(fail);
        }
        let bytes = slot_bytes(&slot).ok_or(fail)?;
        end = end.checked_add(bytes).and_then(|e| e.checked_next_multiple_of(BUFFER_ALIGN as u64)).ok_or(fail)?;
    }
    Ok(end)
}
