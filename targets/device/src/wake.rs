//! What a stream continues from after a boot or a change of model.

use crate::recent::Recent;
use crate::snapshots::{Refusal, Restored, SnapshotStore};
use brooklet::kernels::KernelTable;
use brooklet::{Error, Input, Model, Session, State};
use embedded_storage::nor_flash::NorFlash;

/// What a stream may continue from when there is no good snapshot of its own model.
#[derive(Clone, Copy, Debug)]
pub enum Way<'w> {
    /// The newest snapshot of the model before. The caller vouches that the numbers in both states mean the same, as they do when
    /// the weights were rounded otherwise, or the head trained further; the runtime checks that the slots are the same.
    Predecessor(&'w Model<'w>),
    /// The latest frames, fed to a fresh state.
    Recent(&'w Recent<'w>),
}

/// What a stream continues from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Woken {
    /// A snapshot of its own model.
    Restored(Restored),
    /// A snapshot of the model before.
    Adopted(Restored),
    /// The latest frames.
    Rewarmed {
        /// How many.
        frames: usize,
    },
    /// Nothing: the stream begins anew.
    Anew {
        /// The newest snapshot that was refused, if any.
        refused: Option<Refusal>,
    },
}

/// A state for `model` in `memory`: from the newest good snapshot of this model, else by the first of the `ways` that can be gone,
/// else a fresh one.
///
/// `scratch` is what [`Session::new`] takes.
pub fn wake<'b, F: NorFlash>(
    model: &Model<'_>,
    kernels: &'static KernelTable,
    memory: &'b mut [u8],
    scratch: &mut [u8],
    snapshots: &mut SnapshotStore<F>,
    ways: &[Way<'_>],
) -> Result<(State<'b>, Woken), Error> {
    let own = snapshots.holds(model.artifact().hash());
    let way = if own { None } else { ways.iter().find(|way| way.is_open(model, snapshots)) };
    match way {
        Some(Way::Predecessor(previous)) => {
            let mut state = State::new(previous, memory)?;
            let restored = snapshots.restore(&mut state);
            let state = state.adopt(previous, model)?;
            Ok((state, Woken::Adopted(restored)))
        }
        Some(Way::Recent(recent)) => {
            let mut state = State::new(model, memory)?;
            let mut session = Session::new(model, kernels, &mut state, scratch)?;
            for frame in recent.frames() {
                session.step(Input::Frame(frame))?;
            }
            Ok((state, Woken::Rewarmed { frames: recent.len() }))
        }
        None => {
            let mut state = State::new(model, memory)?;
            let woken = match snapshots.restore(&mut state) {
                Restored::Nothing { refused } => Woken::Anew { refused },
                restored => Woken::Restored(restored),
            };
            Ok((state, woken))
        }
    }
}

impl Way<'_> {
    fn is_open<F: NorFlash>(&self, model: &Model<'_>, snapshots: &mut SnapshotStore<F>) -> bool {
        match self {
            Way::Predecessor(previous) => previous.same_slots(model) && snapshots.holds(previous.artifact().hash()),
            Way::Recent(recent) => !recent.is_empty() && model.channels() == Some(recent.channels()),
        }
    }
}
