//! Streams on one GPU: a session each, over weights that all of them share.

use crate::device::{Target, on_gpu, plain, ready};
use crate::stepper::{Stepper, lone_stream};
use anyhow::Result;
use brooklet::{Input, Model};
use brooklet_cuda::{CudaModel, CudaSession};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// A model on a GPU, and whose turn it is: all its work goes through one queue of the driver's, and a step that is recorded there as a graph must
/// not find another sender's kernels, copies or allocations in between.
pub(super) struct Shared {
    model: CudaModel<'static>,
    turn: Mutex<()>,
}

impl Shared {
    /// The GPU that was asked for; without one, a line says so, and the CPU serves.
    pub(super) fn of(target: Target, model: &Model<'static>) -> Option<Self> {
        Some(Shared { model: on_gpu(target, model)?, turn: Mutex::new(()) })
    }

    /// An empty stream; if the GPU has no room for one more, a line says so, and the CPU takes it.
    pub(super) fn session(&self) -> Option<CudaSession<'_, 'static>> {
        let _turn = self.wait();
        ready(CudaSession::new(&self.model, lone_stream()))
    }

    /// Does a sender's work with a session of [`Shared::session`], every step in its turn, and ends the session.
    pub(super) fn take_turns<T>(&self, mut session: CudaSession<'_, 'static>, work: impl FnOnce(&mut dyn Stepper) -> T) -> T {
        let done = work(&mut Turns { session: &mut session, shared: self });
        let _turn = self.wait();
        drop(session);
        done
    }

    fn wait(&self) -> MutexGuard<'_, ()> {
        // Nothing is behind the lock that a panic could have left half done.
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A sender's stream, which waits for its turn before it touches the GPU.
struct Turns<'t, 'g> {
    session: &'t mut CudaSession<'g, 'static>,
    shared: &'t Shared,
}

impl Stepper for Turns<'_, '_> {
    fn step(&mut self, input: Input<'_>) -> Result<&[f32]> {
        let _turn = self.shared.wait();
        self.session.step(input).map_err(plain)
    }

    fn output(&self) -> &[f32] {
        self.session.output()
    }

    fn position(&self) -> u64 {
        self.session.position(0)
    }

    fn snapshot(&self) -> Result<Vec<u8>> {
        let _turn = self.shared.wait();
        self.session.snapshot(0).map_err(plain)
    }

    fn model(&self) -> &Model<'_> {
        self.session.gpu().model()
    }
}
