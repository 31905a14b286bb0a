//! What operations work on: a few tokens' frames, the stream's state, and working memory.

use super::Span;
#[cfg(feature = "narrow-states")]
use crate::artifact::SlotKind;
use crate::kernels::{KernelTable, RowsMut, StateMut};
use crate::mem::numbers_mut;
use crate::plan::slot_bytes;
use crate::prepared::Tensors;
use crate::team::{Crew, shares};
use core::num::NonZeroUsize;
use core::ops::Range;

/// Channels that kernels handle together: parts end where they do.
pub(crate) const LANES: usize = 16;
/// Streams whose states a recurrence gets at once: these views lie on the stack.
const STREAMS: usize = if cfg!(feature = "std") { 32 } else { 1 };
/// Numbers below which waking another thread takes longer than the work.
pub(crate) const WORTH_SHARING: usize = 4096;

/// The inputs of a batch of consecutive tokens.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Inputs<'b> {
    /// (tokens)
    Tokens(&'b [u32]),
    /// (tokens, channels)
    Frames(&'b [f32]),
    /// (tokens, channels), little-endian, as a file holds them.
    StoredFrames(&'b [[u8; 4]]),
}

impl<'b> Inputs<'b> {
    /// Steps `steps` of `total` in all.
    pub(crate) fn part(self, steps: Range<usize>, total: usize) -> Self {
        fn cut<T>(all: &[T], steps: Range<usize>, total: usize) -> &[T] {
            let width = all.len().checked_div(total).unwrap_or(0);
            all.get(steps.start * width..steps.end * width).unwrap_or_default()
        }
        match self {
            Inputs::Tokens(all) => Inputs::Tokens(cut(all, steps, total)),
            Inputs::Frames(all) => Inputs::Frames(cut(all, steps, total)),
            Inputs::StoredFrames(all) => Inputs::StoredFrames(cut(all, steps, total)),
        }
    }
}

/// The times between the frames of a batch.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Gaps<'b> {
    /// (tokens), or empty if all come at the model's own rate.
    pub(crate) seconds: &'b [f32],
    /// The model's own rate.
    pub(crate) rate_hz: f32,
}

impl Gaps<'_> {
    /// Time before a token in steps of the model's own rate: exactly 1 for the `f32` nearest to such a step.
    pub(crate) fn gap(self, token: usize) -> f32 {
        match self.seconds.get(token) {
            Some(&seconds) if seconds != 1.0 / self.rate_hz => seconds * self.rate_hz,
            _ => 1.0,
        }
    }
}

/// A stream as a batch sees it.
#[derive(Debug)]
pub(crate) struct Stream<'a> {
    pub(crate) state: &'a mut [u8],
    /// Position of its first token since the stream began.
    pub(crate) position: u64,
}

/// Where a block stands that does not run at every step.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    /// Position of the first token.
    position: u64,
    /// Positions that caches hold before it.
    cached: u64,
}

/// Consecutive tokens of one stream, or of several, on their way through the program.
pub(crate) struct Batch<'b, 'a> {
    pub(crate) tensors: Tensors<'b, 'a>,
    pub(crate) kernels: &'b KernelTable,
    pub(crate) team: Crew<'b>,
    pub(crate) inputs: Inputs<'b>,
    /// The streams; each has `tokens` rows of frames.
    pub(crate) streams: &'b mut [Stream<'a>],
    /// Number of tokens of each stream.
    pub(crate) tokens: usize,
    /// Of a block that does not run at every step; such a batch has one stream.
    pub(crate) clock: Option<Clock>,
    /// (rows): time since the token before; empty for the model's own rate.
    pub(crate) gaps: Gaps<'b>,
    /// (streams * tokens, stride): one frame per token; the last may be followed by less than a stride.
    pub(crate) frames: &'b mut [f32],
    /// Distance between frames.
    pub(crate) stride: NonZeroUsize,
    /// Room for the packed inputs of one matrix, all tokens.
    pub(crate) packed: &'b mut [u8],
    /// Room for the attention scores of a few heads, for each thread.
    pub(crate) scores: &'b mut [f32],
    /// The outputs of the last token, (streams, outputs).
    pub(crate) output: &'b mut [f32],
}

/// One token's frame.
pub(crate) struct TokenFrame<'f>(&'f mut [f32]);

/// The tokens for which a recurrence runs as one: several of a stream, or one of each of several.
pub(crate) struct Stretch<'f, 's> {
    pub(crate) kernels: &'f KernelTable,
    pub(crate) team: Crew<'f>,
    /// (streams * tokens, width of a frame)
    pub(crate) frames: RowsMut<'f>,
    /// (streams): the state slot of each.
    pub(crate) states: &'s mut [StateMut<'f>],
    /// Time from each token to the next, in steps of the model's own rate.
    pub(crate) gap: f32,
}

/// Where the rows of a slot lie in every stream's state.
#[derive(Clone, Copy)]
struct SlotRows {
    at: usize,
    end: usize,
    rows: usize,
    width: usize,
    #[cfg(feature = "narrow-states")]
    kind: SlotKind,
}

impl SlotRows {
    /// Rows of `width` numbers.
    #[inline(always)]
    fn of(tensors: Tensors<'_, '_>, slot: u32, width: usize) -> Option<Self> {
        let slot = tensors.slot(slot)?;
        let (at, len) = (usize::try_from(slot.at).ok()?, usize::try_from(slot_bytes(&slot)?).ok()?);
        Some(SlotRows {
            at,
            end: at.checked_add(len)?,
            rows: (slot.capacity as usize).checked_div(width)?,
            width,
            #[cfg(feature = "narrow-states")]
            kind: slot.kind,
        })
    }

    #[inline(always)]
    fn in_state(self, state: &mut [u8]) -> Option<StateMut<'_>> {
        let bytes = state.get_mut(self.at..self.end)?;
        #[cfg(feature = "narrow-states")]
        if self.kind == SlotKind::NumbersF16 {
            return RowsMut::new(numbers_mut(bytes)?, self.rows, self.width, self.width).map(StateMut::F16);
        }
        RowsMut::new(numbers_mut(bytes)?, self.rows, self.width, self.width).map(StateMut::F32)
    }
}

impl<'b, 'a> Batch<'b, 'a> {
    /// Number of frames.
    pub(crate) fn rows(&self) -> usize {
        self.streams.len() * self.tokens
    }

    /// Position of the first token of a stream of the batch.
    pub(crate) fn position(&self, stream: usize) -> Option<u64> {
        match self.clock {
            Some(clock) => Some(clock.position),
            None => self.streams.get(stream).map(|s| s.position),
        }
    }

    /// Positions that the caches of a stream hold before its first token.
    pub(crate) fn cached(&self, stream: usize) -> Option<u64> {
        match self.clock {
            Some(clock) => Some(clock.cached),
            None => self.position(stream),
        }
    }

    /// One frame of the batch as a batch of its own, whose caches hold `cached` positions.
    pub(crate) fn one(&mut self, row: usize, cached: u64) -> Option<Batch<'_, 'a>> {
        let (stream, token) = (row.checked_div(self.tokens)?, row.checked_rem(self.tokens)?);
        let position = self.position(stream)? + token as u64;
        Some(Batch {
            streams: self.streams.get_mut(stream..=stream)?,
            tokens: 1,
            clock: Some(Clock { position, cached }),
            gaps: Gaps { seconds: self.gaps.seconds.get(row..).unwrap_or_default(), rate_hz: self.gaps.rate_hz },
            frames: self.frames.chunks_mut(self.stride.get()).nth(row)?,
            packed: self.packed,
            scores: self.scores,
            output: self.output,
            ..*self
        })
    }

    /// The tokens `first`, `first + period`, .. of one stream of the batch as a batch of their own, the first of them at `position`.
    pub(crate) fn every(&mut self, stream: usize, first: usize, period: usize, position: u64) -> Option<Batch<'_, 'a>> {
        let after = self.tokens.checked_sub(first)?.checked_sub(1)?.checked_div(period)?;
        let row = stream.checked_mul(self.tokens)?.checked_add(first)?;
        // A lone token has no distance to the next; several lie inside the frames, so that nothing overflows.
        let stride = if after == 0 { self.stride } else { self.stride.checked_mul(NonZeroUsize::new(period)?)? };
        Some(Batch {
            streams: self.streams.get_mut(stream..=stream)?,
            tokens: after + 1,
            clock: Some(Clock { position, cached: position }),
            gaps: Gaps { seconds: &[], ..self.gaps },
            frames: self.frames.get_mut(row.checked_mul(self.stride.get())?..)?,
            stride,
            packed: self.packed,
            scores: self.scores,
            output: self.output,
            ..*self
        })
    }

    /// The frame of one row.
    pub(crate) fn frame(&mut self, row: usize) -> Option<TokenFrame<'_>> {
        self.frames.chunks_mut(self.stride.get()).nth(row).map(TokenFrame)
    }

    /// The numbers of a state slot.
    pub(crate) fn slot_numbers<'s>(tensors: Tensors<'_, '_>, state: &'s mut [u8], slot: u32) -> Option<&'s mut [f32]> {
        let slot = tensors.slot(slot)?;
        let at = usize::try_from(slot.at).ok()?;
        let len = (slot.capacity as usize).checked_mul(4)?;
        numbers_mut(state.get_mut(at..at.checked_add(len)?)?)
    }

    /// A state slot as rows of `width` numbers.
    fn slot_rows<'s>(tensors: Tensors<'_, '_>, state: &'s mut [u8], slot: u32, width: usize) -> Option<StateMut<'s>> {
        SlotRows::of(tensors, slot, width)?.in_state(state)
    }

    /// An optional array tensor: outer `None` if it should be there and is not.
    pub(crate) fn maybe_array(tensors: Tensors<'_, 'a>, id: Option<u32>) -> Option<Option<&'a [f32]>> {
        match id {
            Some(id) => tensors.array(id).map(Some),
            None => Some(None),
        }
    }

    /// Runs `step` on each token's frame, stream by stream in order, with the numbers of a state slot.
    pub(crate) fn each_with_state(
        &mut self,
        slot: u32,
        mut step: impl FnMut(&KernelTable, TokenFrame<'_>, &mut [f32], u64) -> Option<()>,
    ) -> Option<()> {
        let mut frames = self.frames.chunks_mut(self.stride.get());
        for stream in self.streams.iter_mut() {
            let first = self.clock.map_or(stream.position, |clock| clock.position);
            let state = Self::slot_numbers(self.tensors, stream.state, slot)?;
            for (token, frame) in frames.by_ref().take(self.tokens).enumerate() {
                step(self.kernels, TokenFrame(frame), state, first + token as u64)?;
            }
        }
        Some(())
    }

    /// The kernels, the frame of one row, and the numbers of a state slot of its stream.
    pub(crate) fn row_with_state(&mut self, row: usize, slot: u32) -> Option<(&'b KernelTable, TokenFrame<'_>, &mut [f32])> {
        let stream = self.streams.get_mut(row.checked_div(self.tokens)?)?;
        let state = Self::slot_numbers(self.tensors, stream.state, slot)?;
        let frame = self.frames.chunks_mut(self.stride.get()).nth(row).map(TokenFrame)?;
        Some((self.kernels, frame, state))
    }

    /// Runs `steps` on the tokens of each stream, with a state slot as rows of `width` numbers: on all tokens at once, or token by token
    /// where the times between them differ. Streams with a token each come several at a time, and from several threads.
    #[inline(always)] // One operation each: nothing is there twice.
    pub(crate) fn each_stretch(&mut self, slot: u32, width: usize, steps: impl Fn(Stretch<'_, '_>) -> Option<()> + Sync) -> Option<()> {
        let (stride, kernels, tensors) = (self.stride.get(), self.kernels, self.tensors);
        if STREAMS > 1 && self.streams.len() > 1 && self.tokens == 1 && self.gaps.seconds.is_empty() {
            return self.each_stretch_of_streams(slot, width, steps);
        }
        let at_once = if self.gaps.seconds.is_empty() { self.tokens } else { 1 };
        let mut row = 0;
        for stream in self.streams.iter_mut() {
            let mut state = Self::slot_rows(tensors, stream.state, slot, width)?;
            for _ in 0..self.tokens.checked_div(at_once)? {
                steps(Stretch {
                    kernels,
                    team: self.team,
                    frames: frame_rows(self.frames.get_mut(row * stride..)?, at_once, stride)?,
                    states: &mut [state.reborrow()],
                    gap: self.gaps.gap(row),
                })?;
                row += at_once;
            }
        }
        Some(())
    }

    /// [`Batch::each_stretch`] of several streams with a token each: threads share streams, not channels.
    fn each_stretch_of_streams(&mut self, slot: u32, width: usize, steps: impl Fn(Stretch<'_, '_>) -> Option<()> + Sync) -> Option<()> {
        let (stride, kernels, tensors) = (self.stride.get(), self.kernels, self.tensors);
        let numbers = tensors.slot(slot).map_or(0, |slot| slot.capacity as usize).saturating_mul(self.streams.len());
        let size = if numbers < WORTH_SHARING { 1 } else { self.team.size() };
        let mut rest = (&mut *self.streams, &mut *self.frames);
        let parts = shares(rest.0.len(), size).map(|part| {
            let numbers = part.len().checked_mul(stride)?.min(rest.1.len());
            let (streams, streams_after) = core::mem::take(&mut rest.0).split_at_mut_checked(part.len())?;
            let (frames, frames_after) = core::mem::take(&mut rest.1).split_at_mut_checked(numbers)?;
            rest = (streams_after, frames_after);
            Some((streams, frames))
        });
        let failed = core::sync::atomic::AtomicBool::new(false);
        let place = SlotRows::of(tensors, slot, width)?;
        self.team.share(parts, |(streams, frames)| {
            for (streams, frames) in streams.chunks_mut(STREAMS).zip(frames.chunks_mut(STREAMS * stride)) {
                let rows = streams.len();
                let mut found = 0;
                let mut states: [StateMut<'_>; STREAMS] = core::array::from_fn(|_| StateMut::default());
                for (state, stream) in states.iter_mut().zip(streams.iter_mut()) {
                    if let Some(rows) = place.in_state(stream.state) {
                        (*state, found) = (rows, found + 1);
                    }
                }
                let done = match (states.get_mut(..rows), frame_rows(frames, rows, stride)) {
                    (Some(states), Some(frames)) if found == rows => {
                        steps(Stretch { kernels, team: Crew::ALONE, frames, states, gap: 1.0 })
                    }
                    _ => None,
                };
                if done.is_none() {
                    failed.store(true, core::sync::atomic::Ordering::Relaxed);
                }
            }
        })?;
        (!failed.into_inner()).then_some(())
    }

    /// Runs `step` on all frames as rows, in as many parts as there are threads; `first` is the first row of a part.
    #[cfg(feature = "std")]
    pub(crate) fn each_part(&mut self, step: impl Fn(&KernelTable, RowsMut<'_>, usize) -> Option<()> + Sync) -> Option<()> {
        let (stride, rows, kernels) = (self.stride.get(), self.rows(), self.kernels);
        if self.team.size() == 1 {
            return step(kernels, frame_rows(self.frames, rows, stride)?, 0);
        }
        let mut rest = &mut *self.frames;
        let failed = core::sync::atomic::AtomicBool::new(false);
        let parts = shares(rows, self.team.size()).map(|part| {
            let numbers = part.len().checked_mul(stride)?.min(rest.len());
            let (frames, after) = core::mem::take(&mut rest).split_at_mut_checked(numbers)?;
            rest = after;
            Some((part.start, frame_rows(frames, part.len(), stride)?))
        });
        self.team.share(parts, |(first, frames)| {
            if step(kernels, frames, first).is_none() {
                failed.store(true, core::sync::atomic::Ordering::Relaxed);
            }
        })?;
        (!failed.into_inner()).then_some(())
    }

    /// Runs `step` on each token's frame and its row, in any order.
    pub(crate) fn each(&mut self, step: impl Fn(&KernelTable, TokenFrame<'_>, usize) -> Option<()> + Sync) -> Option<()> {
        let (stride, rows, kernels) = (self.stride, self.rows(), self.kernels);
        if self.team.size() == 1 || rows == 1 {
            for (row, frame) in self.frames.chunks_mut(stride.get()).take(rows).enumerate() {
                step(kernels, TokenFrame(frame), row)?;
            }
            return Some(());
        }
        let mut rest = &mut *self.frames;
        let failed = core::sync::atomic::AtomicBool::new(false);
        let parts = shares(rows, self.team.size()).map(|part| {
            let numbers = part.len().checked_mul(stride.get())?.min(rest.len());
            let (frames, after) = core::mem::take(&mut rest).split_at_mut_checked(numbers)?;
            rest = after;
            Some((part, frames))
        });
        self.team.share(parts, |(part, frames)| {
            for (row, frame) in part.zip(frames.chunks_mut(stride.get())) {
                if step(kernels, TokenFrame(frame), row).is_none() {
                    failed.store(true, core::sync::atomic::Ordering::Relaxed);
                }
            }
        })?;
        (!failed.into_inner()).then_some(())
    }
}

/// The first `tokens` frames as rows. In a block with a rate of its own the last may be cut short, and so all rows are: operands lie before.
pub(crate) fn frame_rows(frames: &mut [f32], tokens: usize, stride: usize) -> Option<RowsMut<'_>> {
    let width = stride.min(frames.len().checked_sub((tokens - 1) * stride)?);
    RowsMut::new(frames, tokens, width, stride)
}

impl TokenFrame<'_> {
    /// One operand.
    pub(crate) fn get(&mut self, span: Span) -> Option<&mut [f32]> {
        self.0.get_mut(span.range())
    }

    /// Several operands that do not overlap.
    pub(crate) fn split<const N: usize>(&mut self, spans: [Span; N]) -> Option<[&mut [f32]; N]> {
        self.0.get_disjoint_mut(spans.map(Span::range)).ok()
    }
}
