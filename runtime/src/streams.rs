//! Many streams of one model, stepped together: the weights are read once for all of them.

use crate::engine::{Engine, Wanted};
use crate::error::Error;
use crate::kernels::KernelTable;
use crate::model::Model;
use crate::ops::{Inputs, Stream};
use crate::state::State;
use crate::team::Crew;
#[cfg(feature = "team")]
use crate::team::Team;

/// Most streams handled at once: their places lie on the stack.
const MAX_STREAMS: usize = 64;

/// A model at work on many streams. Every stream gets the bits that a [`crate::Session`] of its own would give it.
///
/// ```no_run
/// # use brooklet::{Line, Model, State, Streams, kernels, mem::MappedFile};
/// # let file = MappedFile::open("model.brook")?;
/// # let model = Model::from_bytes(file.bytes())?;
/// let mut scratch = vec![Line::ZERO; model.scratch_bytes(8).div_ceil(64)];
/// let mut memory = vec![vec![Line::ZERO; model.state_bytes().div_ceil(64)]; 8];
/// let mut states = memory.iter_mut().map(|lines| State::new(&model, Line::bytes_mut(lines))).collect::<Result<Vec<_>, _>>()?;
/// let mut streams = Streams::new(&model, kernels::detect(), Line::bytes_mut(&mut scratch))?;
/// let frames = vec![0.0; 8 * 6]; // (streams, channels)
/// let mut outputs = vec![0.0; 8 * model.outputs()]; // (streams, outputs)
/// streams.step_frames(&mut states, &frames, &mut outputs)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Streams<'s, 'm> {
    engine: Engine<'s, 'm>,
}

impl<'s, 'm> Streams<'s, 'm> {
    /// Joins a model, a table of kernels and scratch: [`Model::scratch_bytes`] of as many tokens as streams are to share one pass over the
    /// weights, on a 16-byte boundary. More streams than that are handled one group after the other.
    pub fn new(model: &'s Model<'m>, kernels: &'static KernelTable, scratch: &'s mut [u8]) -> Result<Self, Error> {
        Ok(Streams { engine: Engine::new(model, kernels, Crew::ALONE, scratch)? })
    }

    /// Like [`Streams::new`], with a team that shares the work; the scratch has [`Model::team_scratch_bytes`].
    #[cfg(feature = "team")]
    pub fn with_team(
        model: &'s Model<'m>,
        kernels: &'static KernelTable,
        team: &'s dyn Team,
        scratch: &'s mut [u8],
    ) -> Result<Self, Error> {
        Ok(Streams { engine: Engine::new(model, kernels, Crew::new(team), scratch)? })
    }

    /// One step of every stream: a token each in, (streams); their outputs out, (streams, outputs).
    ///
    /// On an error all streams are as they were before.
    pub fn step_tokens(&mut self, states: &mut [State<'_>], tokens: &[u32], outputs: &mut [f32]) -> Result<(), Error> {
        self.step(states, Inputs::Tokens(tokens), None, outputs)
    }

    /// One step of every stream: a frame each in, (streams, channels); their outputs out, (streams, outputs).
    ///
    /// On an error all streams are as they were before.
    pub fn step_frames(&mut self, states: &mut [State<'_>], frames: &[f32], outputs: &mut [f32]) -> Result<(), Error> {
        self.step(states, Inputs::Frames(frames), None, outputs)
    }

    /// Like [`Streams::step_frames`], with the seconds since each stream's frame before, (streams).
    pub fn step_frames_after(
        &mut self,
        states: &mut [State<'_>],
        frames: &[f32],
        seconds: &[f32],
        outputs: &mut [f32],
    ) -> Result<(), Error> {
        self.step(states, Inputs::Frames(frames), Some(seconds), outputs)
    }

    /// Streams that share one pass over the weights.
    pub fn batch(&self) -> usize {
        self.engine.batch().min(MAX_STREAMS)
    }

    /// The model.
    pub fn model(&self) -> &Model<'m> {
        self.engine.model
    }

    fn step(&mut self, states: &mut [State<'_>], inputs: Inputs<'_>, seconds: Option<&[f32]>, outputs: &mut [f32]) -> Result<(), Error> {
        let total = self.engine.model.check_inputs(inputs)?;
        let model = self.engine.model;
        if total != states.len() {
            return Err(Error::StreamCount { got: total as u32, want: states.len() as u32 });
        }
        if model.outputs().checked_mul(total) != Some(outputs.len()) {
            let needed_bytes = (model.outputs() as u64).saturating_mul(total as u64).saturating_mul(4);
            return Err(Error::BufferTooSmall { what: "outputs", needed_bytes, have_bytes: size_of_val(outputs) as u64 });
        }
        for state in states.iter() {
            if state.model_hash != model.artifact().hash() {
                return Err(Error::OtherModel);
            }
            model.check_context(state.position, 1)?;
        }
        if let Some(seconds) = seconds {
            model.check_gaps(seconds, total)?;
        }
        let at_once = self.batch().max(1);
        let mut outputs = outputs.chunks_mut(model.outputs().saturating_mul(at_once).max(1));
        let mut done = 0;
        for states in states.chunks_mut(at_once) {
            let part = done..done + states.len();
            done = part.end;
            let mut streams: [Stream<'_>; MAX_STREAMS] = core::array::from_fn(|_| Stream { state: &mut [], position: 0 });
            for (stream, state) in streams.iter_mut().zip(states.iter_mut()) {
                *stream = Stream { state: &mut *state.bytes, position: state.position };
            }
            let streams = streams.get_mut(..part.len()).unwrap_or_default();
            let seconds = seconds.and_then(|s| s.get(part.clone())).unwrap_or_default();
            let mut wanted = Wanted::Streams(outputs.next().unwrap_or_default());
            self.engine.run(streams, inputs.part(part, total), seconds, 1, 0, true, &mut wanted)?;
            for state in states {
                state.position += 1;
            }
        }
        Ok(())
    }
}
