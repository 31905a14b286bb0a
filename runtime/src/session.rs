//! A session: the public face of the runtime. It walks a model's program over a stream.

use crate::artifact::InputSpec;
use crate::error::{Error, HeaderFault, OpFault};
use crate::input::Input;
use crate::kernels::KernelTable;
use crate::mem::{aligned, numbers_mut, take};
use crate::model::Model;
use crate::ops::{Batch, Gaps, Inputs, Op, Route};
use crate::state::State;
use core::num::NonZeroUsize;

/// Most tokens handled at once, however large the scratch is: more would fall out of the caches.
const MAX_BATCH: usize = 256;

/// A model at work on one stream.
#[derive(Debug)]
pub struct Session<'s, 'm, 'b> {
    model: &'s Model<'m>,
    kernels: &'static KernelTable,
    state: &'s mut State<'b>,
    /// (batch, stride)
    frames: &'s mut [f32],
    stride: NonZeroUsize,
    packed: &'s mut [u8],
    scores: &'s mut [f32],
    /// (outputs)
    output: &'s mut [f32],
}

impl<'s, 'm, 'b> Session<'s, 'm, 'b> {
    /// Joins a model, a table of kernels, a stream's state and scratch ([`Model::scratch_bytes`], on a 16-byte boundary).
    ///
    /// With room for several tokens in the scratch, a prefill reads the weights once for that many tokens.
    pub fn new(
        model: &'s Model<'m>,
        kernels: &'static KernelTable,
        state: &'s mut State<'b>,
        scratch: &'s mut [u8],
    ) -> Result<Self, Error> {
        if state.model_hash != model.artifact().hash() {
            return Err(Error::OtherModel);
        }
        let have = scratch.len();
        let mut batch = 1;
        while batch < MAX_BATCH && model.scratch_bytes(batch * 2) <= have {
            batch *= 2;
        }
        let mut scratch = aligned("scratch", scratch, model.scratch_bytes(batch))?;
        let parts = model.plan().scratch(batch).ok_or(Error::BufferTooSmall {
            what: "scratch",
            needed_bytes: u64::MAX,
            have_bytes: have as u64,
        })?;
        // Every operation has operands, and they lie in the frame: it is never empty.
        let stride = NonZeroUsize::new(parts.stride).ok_or(Error::Header(HeaderFault::Inconsistent))?;
        let short = Error::BufferTooSmall { what: "scratch", needed_bytes: model.scratch_bytes(batch) as u64, have_bytes: have as u64 };
        let frames = take(&mut scratch, parts.stride * batch).ok_or(short)?;
        let packed = take(&mut scratch, parts.packed_bytes).ok_or(short)?;
        let scores = numbers_mut(take(&mut scratch, parts.scores_bytes).ok_or(short)?).ok_or(short)?;
        let output = take(&mut scratch, model.outputs()).ok_or(short)?;
        Ok(Session { model, kernels, state, frames, stride, packed, scores, output })
    }

    /// One step: a token or a frame in, the outputs out, (outputs).
    ///
    /// On an error the stream is as it was before.
    pub fn step(&mut self, input: Input<'_>) -> Result<&[f32], Error> {
        match (input, self.model.channels()) {
            (Input::Token(token), _) => self.prefill_tokens(&[token]),
            (Input::Frame(frame) | Input::FrameAfter(frame, _), Some(channels)) if channels != frame.len() => {
                Err(Error::FrameWidth { got: frame.len() as u32, want: channels as u32 })
            }
            (Input::Frame(frame), _) => self.prefill_frames(frame),
            (Input::FrameAfter(frame, seconds), _) => self.run(Inputs::Frames(frame), Some(&[seconds]), None),
        }
    }

    /// One step on a frame as a file holds it, (channels), little-endian: the golden input needs no memory of its own.
    pub(crate) fn step_stored(&mut self, frame: &[[u8; 4]]) -> Result<&[f32], Error> {
        self.run(Inputs::StoredFrames(frame), None, None)
    }

    /// Several tokens at once; the outputs are those of the last. The same bits as single steps, but faster.
    pub fn prefill_tokens(&mut self, tokens: &[u32]) -> Result<&[f32], Error> {
        self.run(Inputs::Tokens(tokens), None, None)
    }

    /// Several frames at once, (frames, channels); the outputs are those of the last.
    pub fn prefill_frames(&mut self, frames: &[f32]) -> Result<&[f32], Error> {
        self.run(Inputs::Frames(frames), None, None)
    }

    /// Like [`Session::prefill_tokens`], and calls `each` with every token's number and outputs.
    pub fn prefill_tokens_each(&mut self, tokens: &[u32], each: &mut dyn FnMut(usize, &[f32])) -> Result<(), Error> {
        self.run(Inputs::Tokens(tokens), None, Some(each)).map(|_| ())
    }

    /// Like [`Session::prefill_frames`], and calls `each` with every frame's number and outputs.
    pub fn prefill_frames_each(&mut self, frames: &[f32], each: &mut dyn FnMut(usize, &[f32])) -> Result<(), Error> {
        self.run(Inputs::Frames(frames), None, Some(each)).map(|_| ())
    }

    /// Like [`Session::prefill_frames_each`], with the seconds from the frame before to each frame, (frames).
    pub fn prefill_frames_after_each(&mut self, frames: &[f32], seconds: &[f32], each: &mut dyn FnMut(usize, &[f32])) -> Result<(), Error> {
        self.run(Inputs::Frames(frames), Some(seconds), Some(each)).map(|_| ())
    }

    /// The outputs of the latest step, (outputs).
    pub fn output(&self) -> &[f32] {
        self.output
    }

    /// The outputs of the latest step, to change in place (for [`crate::softmax`]).
    pub fn output_mut(&mut self) -> &mut [f32] {
        self.output
    }

    /// Begins the stream anew.
    pub fn reset(&mut self) {
        self.state.reset();
    }

    /// The stream's state.
    pub fn state(&self) -> &State<'b> {
        self.state
    }

    /// The model.
    pub fn model(&self) -> &Model<'m> {
        self.model
    }

    /// Tokens that are handled at once in a prefill.
    pub fn batch(&self) -> usize {
        self.frames.len() / self.stride
    }

    fn run(
        &mut self,
        inputs: Inputs<'_>,
        seconds: Option<&[f32]>,
        mut each: Option<&mut dyn FnMut(usize, &[f32])>,
    ) -> Result<&[f32], Error> {
        let total = self.check_inputs(inputs)?;
        if let Some(seconds) = seconds {
            self.check_gaps(seconds, total)?;
        }
        let rate_hz = self.rate_hz();
        let mut done = 0;
        while done < total {
            let tokens = (total - done).min(self.batch());
            let inputs = match inputs {
                Inputs::Tokens(all) => Inputs::Tokens(all.get(done..done + tokens).unwrap_or_default()),
                Inputs::Frames(all) => {
                    let channels = all.len() / total;
                    Inputs::Frames(all.get(done * channels..(done + tokens) * channels).unwrap_or_default())
                }
                Inputs::StoredFrames(all) => {
                    let channels = all.len() / total;
                    Inputs::StoredFrames(all.get(done * channels..(done + tokens) * channels).unwrap_or_default())
                }
            };
            let seconds = seconds.and_then(|s| s.get(done..done + tokens)).unwrap_or_default();
            let mut batch = Batch {
                artifact: self.model.artifact(),
                kernels: self.kernels,
                inputs,
                position: self.state.position,
                cached: self.state.position,
                tokens,
                gaps: Gaps { seconds, rate_hz },
                frames: self.frames,
                stride: self.stride,
                state: self.state.bytes,
                packed: self.packed,
                scores: self.scores,
                output: self.output,
            };
            let is_last = done + tokens == total;
            let mut program = self.model.header().program.iter();
            let mut next = 0;
            while let Some(op) = program.next() {
                let failed = Error::Op { index: next, fault: OpFault::Encoding };
                next += 1;
                match (op.ok_or(failed)?, &mut each) {
                    (Op::Route(route), _) => {
                        let block = program.clone().take(route.ops as usize);
                        run_block(&mut batch, &route, block).ok_or(failed)?;
                        program.by_ref().take(route.ops as usize).for_each(drop);
                        next += route.ops;
                    }
                    (Op::Every(every), _) => {
                        let mut block = program.split_off(every.ops, every.bytes).ok_or(failed)?;
                        if let Some(mut batch) = every.of(&mut batch) {
                            block.try_for_each(|op| op?.run(&mut batch)).ok_or(failed)?;
                        }
                        next += every.ops;
                    }
                    (op, Some(each)) if op.head().is_some() => {
                        for token in 0..tokens {
                            op.outputs_of(&mut batch, token).ok_or(failed)?;
                            each(done + token, batch.output);
                        }
                    }
                    (op, None) if op.head().is_some() && !is_last => {}
                    (op, _) => op.run(&mut batch).ok_or(failed)?,
                }
            }
            self.state.position += tokens as u64;
            done += tokens;
        }
        Ok(self.output)
    }

    /// The model's own rate, for frames.
    fn rate_hz(&self) -> f32 {
        match self.model.header().input {
            InputSpec::Frames { rate_hz, .. } => rate_hz,
            InputSpec::Tokens { .. } => 1.0,
        }
    }

    /// Checks the times before `frames` frames.
    fn check_gaps(&self, seconds: &[f32], frames: usize) -> Result<(), Error> {
        if seconds.len() != frames {
            return Err(Error::GapCount { got: seconds.len() as u32, want: frames as u32 });
        }
        let gaps = Gaps { seconds, rate_hz: self.rate_hz() };
        for (frame, &seconds) in seconds.iter().enumerate() {
            if !(seconds > 0.0 && seconds.is_finite() && gaps.gap(frame).is_finite()) {
                return Err(Error::GapNotPositive { frame: frame as u32 });
            }
            if gaps.gap(frame) != 1.0 && !self.model.plan().takes_gaps {
                return Err(Error::GapUnsupported);
            }
        }
        Ok(())
    }

    /// Checks everything that input can get wrong, before the stream is touched; returns the number of tokens.
    fn check_inputs(&self, inputs: Inputs<'_>) -> Result<usize, Error> {
        let count = match (self.model.header().input, inputs) {
            (InputSpec::Tokens { .. }, Inputs::Tokens([])) => return Err(Error::EmptyInput),
            (InputSpec::Tokens { vocab, .. }, Inputs::Tokens(tokens)) => {
                if let Some(&token) = tokens.iter().find(|&&t| t >= vocab) {
                    return Err(Error::TokenOutOfRange { token, vocab });
                }
                tokens.len()
            }
            (InputSpec::Frames { .. }, Inputs::Frames(samples)) => self.check_frames(samples, |x| x)?,
            (InputSpec::Frames { .. }, Inputs::StoredFrames(samples)) => self.check_frames(samples, f32::from_le_bytes)?,
            (InputSpec::Tokens { .. }, _) => return Err(Error::WrongInput { wants: "token ids" }),
            (InputSpec::Frames { .. }, _) => return Err(Error::WrongInput { wants: "sensor frames" }),
        };
        if let Some(capacity) = self.model.plan().context
            && self.state.position.saturating_add(count as u64) > u64::from(capacity)
        {
            return Err(Error::ContextFull { capacity });
        }
        Ok(count)
    }
    /// Checks width and samples; returns the number of frames.
    fn check_frames<T: Copy>(&self, samples: &[T], number: impl Fn(T) -> f32) -> Result<usize, Error> {
        let channels = self.model.channels().unwrap_or(0);
        if samples.is_empty() || channels == 0 || !samples.len().is_multiple_of(channels) {
            return Err(Error::FrameWidth { got: samples.len() as u32, want: channels as u32 });
        }
        let takes_missing = self.model.plan().missing.is_some();
        let is_bad = |x: f32| !(x.is_finite() || takes_missing && x.is_nan());
        if let Some(at) = samples.iter().position(|&x| is_bad(number(x))) {
            return Err(Error::FrameNotFinite { channel: (at % channels) as u32 });
        }
        Ok(samples.len() / channels)
    }
}

/// Walks each token that `route` lets in through `block`, in token order.
fn run_block(batch: &mut Batch<'_, '_>, route: &Route, block: impl Iterator<Item = Option<Op>> + Clone) -> Option<()> {
    for token in 0..batch.tokens {
        let Some(cached) = route.enters(batch, token)? else { continue };
        let mut one = batch.one(token, cached)?;
        for op in block.clone() {
            op?.run(&mut one)?;
        }
    }
    Some(())
}
