//! One stream to be timed: its memory, and the places where a run begins.

use super::inputs::Inputs;
use crate::model_file::Memory;
use anyhow::{Result, bail};
use brooklet::kernels::KernelTable;
use brooklet::{Line, Model, Session, State};
use indicatif::ProgressBar;
use std::time::{Duration, Instant};

/// Tokens that are prefilled between two moves of a progress bar.
pub(crate) const CHUNK: usize = 1024;

/// What runs a step.
#[derive(Clone, Copy)]
pub(crate) struct Engine {
    pub(crate) kernels: &'static KernelTable,
    pub(crate) threads: usize,
}

impl Engine {
    pub(crate) fn new(kernels: &'static KernelTable, threads: usize) -> Result<Self> {
        if threads != 1 {
            bail!("--threads {threads}: this build runs a step on one thread");
        }
        Ok(Engine { kernels, threads })
    }
}

/// A place in a stream, where runs begin.
pub(crate) struct Place {
    pub(crate) position: u64,
    /// The state there; empty for the stream's beginning.
    state: Vec<u8>,
}

/// One stream of a model.
pub(crate) struct Stream<'s, 'm> {
    model: &'s Model<'m>,
    memory: Memory,
}

impl<'s, 'm> Stream<'s, 'm> {
    /// A stream that handles up to `batch` tokens at once.
    pub(crate) fn new(model: &'s Model<'m>, batch: usize) -> Result<Self> {
        Ok(Stream { model, memory: Memory::new(model, batch)? })
    }

    /// Runs `work` from `place` on, and returns how long it took.
    pub(crate) fn time_from(
        &mut self,
        place: &Place,
        engine: Engine,
        work: impl FnOnce(&mut Session<'_, '_, '_>) -> Result<()>,
    ) -> Result<Duration> {
        let mut state = State::new(self.model, Line::bytes_mut(&mut self.memory.state))?;
        if place.position > 0 {
            state.refill(place.position, |bytes| copy(bytes, &place.state))?;
        }
        let mut session = Session::new(self.model, engine.kernels, &mut state, Line::bytes_mut(&mut self.memory.scratch))?;
        let start = Instant::now();
        work(&mut session)?;
        Ok(start.elapsed())
    }

    /// The places at `positions`, in ascending order, each reached by a prefill of random inputs from the beginning.
    pub(crate) fn places(&mut self, positions: &[u64], engine: Engine) -> Result<Vec<Place>> {
        let inputs = Inputs::random(self.model, CHUNK);
        let bar = ProgressBar::new(positions.last().copied().unwrap_or(0)).with_message("going to the deepest position");
        let mut places = Vec::new();
        let mut state = State::new(self.model, Line::bytes_mut(&mut self.memory.state))?;
        for &position in positions {
            while state.position() < position {
                let steps = (position - state.position()).min(CHUNK as u64) as usize;
                let mut session = Session::new(self.model, engine.kernels, &mut state, Line::bytes_mut(&mut self.memory.scratch))?;
                inputs.prefill(&mut session, steps)?;
                bar.set_position(state.position());
            }
            let state = if position > 0 { state.bytes().to_vec() } else { Vec::new() };
            places.push(Place { position, state });
        }
        bar.finish_and_clear();
        Ok(places)
    }
}

fn copy(to: &mut [u8], from: &[u8]) -> Result<()> {
    if to.len() != from.len() {
        bail!("the state has {} bytes, the place {}", to.len(), from.len());
    }
    to.copy_from_slice(from);
    Ok(())
}
