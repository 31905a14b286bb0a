//! The engine: walks a model's program over the tokens of one stream, or of several.

use crate::error::{Error, HeaderFault, OpFault};
use crate::kernels::KernelTable;
use crate::mem::{aligned, numbers_mut, take};
use crate::model::Model;
use crate::ops::{Batch, Gaps, Inputs, Op, Route, Stream};
use crate::prepared::{Ops, Prepared, Tensors};
use crate::team::Crew;
use core::num::NonZeroUsize;

/// Most tokens handled at once, however large the scratch is: more would fall out of the caches.
const MAX_BATCH: usize = 256;

/// A model with working memory, and those who work on it.
#[derive(Debug)]
pub(crate) struct Engine<'s, 'm> {
    pub(crate) model: &'s Model<'m>,
    prepared: Prepared<'m>,
    kernels: &'static KernelTable,
    team: Crew<'s>,
    /// (batch, stride)
    frames: &'s mut [f32],
    stride: NonZeroUsize,
    packed: &'s mut [u8],
    scores: &'s mut [f32],
    /// (outputs)
    pub(crate) output: &'s mut [f32],
}

/// What happens to the outputs of a run.
pub(crate) enum Wanted<'w> {
    /// Those of the last token go to the engine's own.
    Last,
    /// The function gets each token's number and outputs.
    Each(&'w mut dyn FnMut(usize, &[f32])),
    /// (streams, outputs): those of every stream.
    Streams(&'w mut [f32]),
}

impl<'s, 'm> Engine<'s, 'm> {
    pub(crate) fn new(model: &'s Model<'m>, kernels: &'static KernelTable, team: Crew<'s>, scratch: &'s mut [u8]) -> Result<Self, Error> {
        let (have, threads) = (scratch.len(), team.size());
        let mut batch = 1;
        while batch < MAX_BATCH && model.team_scratch_bytes(batch * 2, threads) <= have {
            batch *= 2;
        }
        let needed = model.team_scratch_bytes(batch, threads);
        let short = Error::BufferTooSmall { what: "scratch", needed_bytes: needed as u64, have_bytes: have as u64 };
        let mut scratch = aligned("scratch", scratch, needed)?;
        let parts = model.plan().scratch(batch, threads).ok_or(short)?;
        // Every operation has operands, and they lie in the frame: it is never empty.
        let stride = NonZeroUsize::new(parts.stride).ok_or(Error::Header(HeaderFault::Inconsistent))?;
        let frames = take(&mut scratch, parts.stride * batch).ok_or(short)?;
        let packed = take(&mut scratch, parts.packed_bytes).ok_or(short)?;
        let scores = numbers_mut(take(&mut scratch, parts.scores_bytes).ok_or(short)?).ok_or(short)?;
        let output = take(&mut scratch, model.outputs()).ok_or(short)?;
        Ok(Engine { model, prepared: Prepared::new(model), kernels, team, frames, stride, packed, scores, output })
    }

    /// Frames that are handled at once.
    pub(crate) fn batch(&self) -> usize {
        self.frames.len() / self.stride
    }

    /// Runs the program on `tokens` consecutive tokens of each stream, no more rows in all than [`Engine::batch`]; `first` is the number of
    /// the first token, and `is_last` says whether the outputs of the last are wanted.
    pub(crate) fn run<'a>(
        &mut self,
        streams: &mut [Stream<'a>],
        inputs: Inputs<'_>,
        seconds: &[f32],
        tokens: usize,
        first: usize,
        is_last: bool,
        wanted: &mut Wanted<'_>,
    ) -> Result<(), Error>
    where
        'm: 'a,
    {
        let rate_hz = self.model.rate_hz();
        let (output, mut each): (&mut [f32], _) = match wanted {
            Wanted::Last => (&mut *self.output, None),
            Wanted::Each(each) => (&mut *self.output, Some(each)),
            Wanted::Streams(output) => (output, None),
        };
        let mut batch = Batch {
            tensors: Tensors::new(self.model.artifact(), &self.prepared),
            kernels: self.kernels,
            team: self.team,
            inputs,
            streams,
            tokens,
            clock: None,
            gaps: Gaps { seconds, rate_hz },
            frames: self.frames,
            stride: self.stride,
            packed: self.packed,
            scores: self.scores,
            output,
        };
        let mut program = self.prepared.ops(self.model);
        let mut next = 0;
        while let Some(op) = program.next() {
            let index = next;
            let failed = Error::Op { index, fault: OpFault::Encoding };
            next += 1;
            let op = op.ok_or(failed)?;
            // Decoded where it lies, or just now.
            let op: &Op = core::borrow::Borrow::borrow(&op);
            match (op, &mut each) {
                (Op::Route(route), _) => {
                    let block = program.block(route.ops, None).ok_or(failed)?;
                    run_block(&mut batch, route, next, &block).ok_or(failed)?;
                    next += route.ops;
                }
                (Op::Every(every), _) => {
                    let block = program.block(every.ops, Some(every.bytes)).ok_or(failed)?;
                    for stream in 0..batch.streams.len() {
                        if let Some(mut batch) = every.of(&mut batch, stream) {
                            run_each(&mut batch, next, block.clone()).ok_or(failed)?;
                        }
                    }
                    next += every.ops;
                }
                (op, Some(each)) if op.head().is_some() => {
                    for token in 0..tokens {
                        op.outputs_of(&mut batch, token).ok_or(failed)?;
                        each(first + token, batch.output);
                    }
                }
                (op, None) if op.head().is_some() && !is_last => {}
                (op, _) => op.run(&mut batch).ok_or(failed)?,
            }
            self.team.done(index);
        }
        Ok(())
    }
}

/// Walks each token that `route` lets in through `block`, in token order; `first` is the number of the block's first operation.
fn run_block(batch: &mut Batch<'_, '_>, route: &Route, first: u32, block: &Ops<'_>) -> Option<()> {
    for row in 0..batch.rows() {
        let Some(cached) = route.enters(batch, row)? else { continue };
        run_each(&mut batch.one(row, cached)?, first, block.clone())?;
    }
    Some(())
}

/// Runs operations, the first of which has number `first`.
fn run_each(batch: &mut Batch<'_, '_>, first: u32, ops: Ops<'_>) -> Option<()> {
    let mut index = first;
    for op in ops {
        op?.run(batch)?;
        batch.team.done(index);
        index = index.wrapping_add(1);
    }
    Some(())
}
