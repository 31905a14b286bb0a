//! One stream to be timed: its memory, and the places where a run begins.

use super::inputs::Inputs;
use crate::model_file::Memory;
use anyhow::{Context, Result, bail};
use brooklet::kernels::KernelTable;
use brooklet::{Line, Model, Pool, Session, State, Team};
use indicatif::ProgressBar;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Tokens that are prefilled between two moves of a progress bar.
pub(crate) const CHUNK: usize = 1024;

/// What runs a step.
#[derive(Clone)]
pub(crate) struct Engine {
    pub(crate) kernels: &'static KernelTable,
    pub(crate) pool: Arc<Pool>,
}

impl Engine {
    pub(crate) fn new(kernels: &'static KernelTable, threads: usize) -> Result<Self> {
        let pool = Pool::new(threads).with_context(|| format!("--threads {threads}: they cannot be started"))?;
        Ok(Engine { kernels, pool: Arc::new(pool) })
    }

    pub(crate) fn threads(&self) -> usize {
        self.pool.size()
    }
}

/// A place in a stream, where runs begin.
pub(crate) struct Place {
    pub(crate) position: u64,
    /// The state there; empty for the stream's beginning.
    state: Vec<u8>,
}

impl Place {
    /// The beginning.
    pub(crate) const START: Place = Place { position: 0, state: Vec::new() };
}

/// One stream of a model.
pub(crate) struct Stream<'s, 'm> {
    model: &'s Model<'m>,
    memory: Memory,
}

impl<'s, 'm> Stream<'s, 'm> {
    /// A stream that handles up to `batch` tokens at once, on up to `threads` threads.
    pub(crate) fn new(model: &'s Model<'m>, batch: usize, threads: usize) -> Result<Self> {
        Ok(Stream { model, memory: Memory::for_team(model, batch, threads)? })
    }

    /// Runs `work` from `place` on, and returns how long it took.
    pub(crate) fn time_from(
        &mut self,
        place: &Place,
        engine: &Engine,
        work: impl FnOnce(&mut Session<'_, '_, '_>) -> Result<()>,
    ) -> Result<Duration> {
        self.time_with(place, engine.kernels, &*engine.pool, work)
    }

    /// The same with any team.
    pub(crate) fn time_with(
        &mut self,
        place: &Place,
        kernels: &'static KernelTable,
        team: &dyn Team,
        work: impl FnOnce(&mut Session<'_, '_, '_>) -> Result<()>,
    ) -> Result<Duration> {
        let mut state = State::new(self.model, Line::bytes_mut(&mut self.memory.state))?;
        if place.position > 0 {
            state.refill(place.position, |bytes| copy(bytes, &place.state))?;
        }
        let mut session = Session::with_team(self.model, kernels, team, &mut state, Line::bytes_mut(&mut self.memory.scratch))?;
        let start = Instant::now();
        work(&mut session)?;
        Ok(start.elapsed())
    }

    /// The places at `positions`, in ascending order, each reached by a prefill of random inputs from the beginning.
    pub(crate) fn places(&mut self, positions: &[u64], engine: &Engine) -> Result<Vec<Place>> {
        let inputs = Inputs::random(self.model, CHUNK);
        let bar = ProgressBar::new(positions.last().copied().unwrap_or(0)).with_message("going to the deepest position");
        let mut places = Vec::new();
        let mut state = State::new(self.model, Line::bytes_mut(&mut self.memory.state))?;
        for &position in positions {
            while state.position() < position {
                let steps = (position - state.position()).min(CHUNK as u64) as usize;
                let scratch = Line::bytes_mut(&mut self.memory.scratch);
                let mut session = Session::with_team(self.model, engine.kernels, &*engine.pool, &mut state, scratch)?;
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
