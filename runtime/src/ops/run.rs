//! What operations work on: a few tokens' frames, the stream's state, and working memory.

use super::Span;
use crate::artifact::Artifact;
use crate::kernels::KernelTable;
use core::num::NonZeroUsize;

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

/// A batch of consecutive tokens of one stream on its way through the program.
pub(crate) struct Batch<'b, 'a> {
    pub(crate) artifact: &'b Artifact<'a>,
    pub(crate) kernels: &'b KernelTable,
    pub(crate) inputs: Inputs<'b>,
    /// Position of the first token since the stream began.
    pub(crate) position: u64,
    /// Positions that caches hold before the first token: `position`, but inside a routed block only what was routed there.
    pub(crate) cached: u64,
    /// Number of tokens.
    pub(crate) tokens: usize,
    /// (tokens): time since the token before; empty for the model's own rate.
    pub(crate) gaps: Gaps<'b>,
    /// (tokens, stride): one frame per token; the last may be followed by less than a stride.
    pub(crate) frames: &'b mut [f32],
    /// Distance between frames.
    pub(crate) stride: NonZeroUsize,
    /// The stream's state.
    pub(crate) state: &'b mut [u8],
    /// Room for the packed inputs of one matrix, all tokens.
    pub(crate) packed: &'b mut [u8],
    /// Room for one head's attention scores.
    pub(crate) scores: &'b mut [f32],
    /// The outputs of the last token.
    pub(crate) output: &'b mut [f32],
}

/// One token's frame.
pub(crate) struct TokenFrame<'f>(&'f mut [f32]);

impl<'b, 'a> Batch<'b, 'a> {
    /// One token of the batch as a batch of its own, whose caches hold `cached` positions.
    pub(crate) fn one(&mut self, token: usize, cached: u64) -> Option<Batch<'_, 'a>> {
        Some(Batch {
            artifact: self.artifact,
            kernels: self.kernels,
            inputs: self.inputs,
            position: self.position + token as u64,
            cached,
            tokens: 1,
            gaps: Gaps { seconds: self.gaps.seconds.get(token..).unwrap_or_default(), rate_hz: self.gaps.rate_hz },
            frames: self.frames.chunks_mut(self.stride.get()).nth(token)?,
            stride: self.stride,
            state: self.state,
            packed: self.packed,
            scores: self.scores,
            output: self.output,
        })
    }

    /// The tokens `first`, `first + period`, .. of the batch as a batch of their own, the first of them at `position`.
    pub(crate) fn every(&mut self, first: usize, period: usize, position: u64) -> Option<Batch<'_, 'a>> {
        let after = self.tokens.checked_sub(first)?.checked_sub(1)?.checked_div(period)?;
        // A lone token has no distance to the next; several lie inside the frames, so that nothing overflows.
        let stride = if after == 0 { self.stride } else { self.stride.checked_mul(NonZeroUsize::new(period)?)? };
        Some(Batch {
            artifact: self.artifact,
            kernels: self.kernels,
            inputs: self.inputs,
            position,
            cached: position,
            tokens: after + 1,
            gaps: Gaps { seconds: &[], ..self.gaps },
            frames: self.frames.get_mut(first.checked_mul(self.stride.get())?..)?,
            stride,
            state: self.state,
            packed: self.packed,
            scores: self.scores,
            output: self.output,
        })
    }

    /// The frame of one token.
    pub(crate) fn frame(&mut self, token: usize) -> Option<TokenFrame<'_>> {
        self.frames.chunks_mut(self.stride.get()).nth(token).map(TokenFrame)
    }

    /// The numbers of a state slot.
    pub(crate) fn slot_numbers<'s>(artifact: &Artifact<'_>, state: &'s mut [u8], slot: u32) -> Option<&'s mut [f32]> {
        let slot = artifact.header().slots.get(slot)?;
        let at = usize::try_from(slot.at).ok()?;
        let len = (slot.capacity as usize).checked_mul(4)?;
        crate::mem::numbers_mut(state.get_mut(at..at.checked_add(len)?)?)
    }

    /// An optional array tensor: outer `None` if it should be there and is not.
    pub(crate) fn maybe_array(artifact: &Artifact<'a>, id: Option<u32>) -> Option<Option<&'a [f32]>> {
        match id {
            Some(id) => artifact.array(id).map(Some),
            None => Some(None),
        }
    }

    /// Runs `step` on each token's frame in order, with the numbers of a state slot.
    pub(crate) fn each_with_state(
        &mut self,
        slot: u32,
        mut step: impl FnMut(&KernelTable, TokenFrame<'_>, &mut [f32], u64) -> Option<()>,
    ) -> Option<()> {
        let state = Self::slot_numbers(self.artifact, self.state, slot)?;
        for (token, frame) in self.frames.chunks_mut(self.stride.get()).take(self.tokens).enumerate() {
            step(self.kernels, TokenFrame(frame), state, self.position + token as u64)?;
        }
        Some(())
    }

    /// The kernels, the frame of one token, and the numbers of a state slot.
    pub(crate) fn token_with_state(&mut self, token: usize, slot: u32) -> Option<(&'b KernelTable, TokenFrame<'_>, &mut [f32])> {
        let state = Self::slot_numbers(self.artifact, self.state, slot)?;
        let frame = self.frames.chunks_mut(self.stride.get()).nth(token).map(TokenFrame)?;
        Some((self.kernels, frame, state))
    }

    /// Runs `step` on each token's frame in order, with the numbers of a state slot and the time since the token before, in
    /// steps of the model's own rate.
    pub(crate) fn each_with_state_and_gap(
        &mut self,
        slot: u32,
        mut step: impl FnMut(&KernelTable, TokenFrame<'_>, &mut [f32], f32) -> Option<()>,
    ) -> Option<()> {
        let (gaps, first) = (self.gaps, self.position);
        self.each_with_state(slot, |kernels, frame, state, position| step(kernels, frame, state, gaps.gap((position - first) as usize)))
    }

    /// Runs `step` on each token's frame in order.
    pub(crate) fn each(&mut self, mut step: impl FnMut(&KernelTable, TokenFrame<'_>) -> Option<()>) -> Option<()> {
        for frame in self.frames.chunks_mut(self.stride.get()).take(self.tokens) {
            step(self.kernels, TokenFrame(frame))?;
        }
        Some(())
    }
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
