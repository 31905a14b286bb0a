//! A session: the public face of the runtime. It walks a model's program over a stream.

use crate::engine::{Engine, Wanted};
use crate::error::Error;
use crate::input::Input;
use crate::kernels::KernelTable;
use crate::model::Model;
use crate::ops::{Inputs, Stream};
use crate::state::State;
use crate::team::Crew;
#[cfg(feature = "team")]
use crate::team::Team;

/// A model at work on one stream.
#[derive(Debug)]
pub struct Session<'s, 'm, 'b> {
    engine: Engine<'s, 'm>,
    state: &'s mut State<'b>,
}

impl<'s, 'm, 'b> Session<'s, 'm, 'b> {
    /// Joins a model, a table of kernels, a stream's state and scratch ([`Model::scratch_bytes`], on a 16-byte boundary).
    ///
    /// With room for several tokens in the scratch, a prefill reads the weights once for that many tokens. With the feature `alloc` the
    /// program is decoded here, into three vectors; a step never allocates.
    pub fn new(
        model: &'s Model<'m>,
        kernels: &'static KernelTable,
        state: &'s mut State<'b>,
        scratch: &'s mut [u8],
    ) -> Result<Self, Error> {
        Self::with_crew(model, kernels, Crew::ALONE, state, scratch)
    }

    /// Like [`Session::new`], with a team that shares the work of a step: the same bits, sooner. The scratch has
    /// [`Model::team_scratch_bytes`].
    ///
    /// ```no_run
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # use brooklet::{Line, Model, Pool, Session, State, kernels, mem::MappedFile};
    /// # let file = MappedFile::open("model.brook")?;
    /// # let model = Model::from_bytes(file.bytes())?;
    /// # let mut state_lines = vec![Line::ZERO; model.state_bytes().div_ceil(64)];
    /// # let mut state = State::new(&model, Line::bytes_mut(&mut state_lines))?;
    /// let pool = Pool::new(2)?;
    /// let mut scratch = vec![Line::ZERO; model.team_scratch_bytes(64, 2).div_ceil(64)];
    /// let mut session = Session::with_team(&model, kernels::detect(), &pool, &mut state, Line::bytes_mut(&mut scratch))?;
    /// # Ok(())
    /// # }
    /// ```
    #[cfg(feature = "team")]
    pub fn with_team(
        model: &'s Model<'m>,
        kernels: &'static KernelTable,
        team: &'s dyn Team,
        state: &'s mut State<'b>,
        scratch: &'s mut [u8],
    ) -> Result<Self, Error> {
        Self::with_crew(model, kernels, Crew::new(team), state, scratch)
    }

    fn with_crew(
        model: &'s Model<'m>,
        kernels: &'static KernelTable,
        crew: Crew<'s>,
        state: &'s mut State<'b>,
        scratch: &'s mut [u8],
    ) -> Result<Self, Error> {
        if state.model_hash != model.artifact().hash() {
            return Err(Error::OtherModel);
        }
        Ok(Session { engine: Engine::new(model, kernels, crew, scratch)?, state })
    }

    /// One step: a token or a frame in, the outputs out, (outputs).
    ///
    /// On an error the stream is as it was before.
    pub fn step(&mut self, input: Input<'_>) -> Result<&[f32], Error> {
        match (input, self.engine.model.channels()) {
            (Input::Token(token), _) => self.prefill_tokens(&[token]),
            (Input::Frame(frame) | Input::FrameAfter(frame, _), Some(channels)) if channels != frame.len() => {
                Err(Error::FrameWidth { got: frame.len() as u32, want: channels as u32 })
            }
            (Input::Frame(frame), _) => self.prefill_frames(frame),
            (Input::FrameAfter(frame, seconds), _) => self.run(Inputs::Frames(frame), Some(&[seconds]), Wanted::Last),
        }
    }

    /// One step on a frame as a file holds it, (channels), little-endian: the golden input needs no memory of its own.
    pub(crate) fn step_stored(&mut self, frame: &[[u8; 4]]) -> Result<&[f32], Error> {
        self.run(Inputs::StoredFrames(frame), None, Wanted::Last)
    }

    /// Several tokens at once; the outputs are those of the last. The same bits as single steps, but faster.
    pub fn prefill_tokens(&mut self, tokens: &[u32]) -> Result<&[f32], Error> {
        self.run(Inputs::Tokens(tokens), None, Wanted::Last)
    }

    /// Several frames at once, (frames, channels); the outputs are those of the last.
    pub fn prefill_frames(&mut self, frames: &[f32]) -> Result<&[f32], Error> {
        self.run(Inputs::Frames(frames), None, Wanted::Last)
    }

    /// Like [`Session::prefill_tokens`], and calls `each` with every token's number and outputs.
    pub fn prefill_tokens_each(&mut self, tokens: &[u32], each: &mut dyn FnMut(usize, &[f32])) -> Result<(), Error> {
        self.run(Inputs::Tokens(tokens), None, Wanted::Each(each)).map(|_| ())
    }

    /// Like [`Session::prefill_frames`], and calls `each` with every frame's number and outputs.
    pub fn prefill_frames_each(&mut self, frames: &[f32], each: &mut dyn FnMut(usize, &[f32])) -> Result<(), Error> {
        self.run(Inputs::Frames(frames), None, Wanted::Each(each)).map(|_| ())
    }

    /// Like [`Session::prefill_frames_each`], with the seconds from the frame before to each frame, (frames).
    pub fn prefill_frames_after_each(&mut self, frames: &[f32], seconds: &[f32], each: &mut dyn FnMut(usize, &[f32])) -> Result<(), Error> {
        self.run(Inputs::Frames(frames), Some(seconds), Wanted::Each(each)).map(|_| ())
    }

    /// The outputs of the latest step, (outputs).
    pub fn output(&self) -> &[f32] {
        self.engine.output
    }

    /// The outputs of the latest step, to change in place (for [`crate::softmax`]).
    pub fn output_mut(&mut self) -> &mut [f32] {
        self.engine.output
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
        self.engine.model
    }

    /// Tokens that are handled at once in a prefill.
    pub fn batch(&self) -> usize {
        self.engine.batch()
    }

    fn run(&mut self, inputs: Inputs<'_>, seconds: Option<&[f32]>, mut wanted: Wanted<'_>) -> Result<&[f32], Error> {
        let total = self.engine.model.check_inputs(inputs)?;
        self.engine.model.check_context(self.state.position, total)?;
        if let Some(seconds) = seconds {
            self.engine.model.check_gaps(seconds, total)?;
        }
        let mut done = 0;
        while done < total {
            let tokens = (total - done).min(self.engine.batch());
            let part = done..done + tokens;
            let seconds = seconds.and_then(|s| s.get(part.clone())).unwrap_or_default();
            let mut stream = [Stream { state: &mut *self.state.bytes, position: self.state.position }];
            let is_last = part.end == total;
            self.engine.run(&mut stream, inputs.part(part, total), seconds, tokens, done, is_last, &mut wanted)?;
            self.state.position += tokens as u64;
            done += tokens;
        }
        Ok(self.engine.output)
    }
}
