//! A delay line: what came a fixed number of steps ago.

use super::check::Checker;
use super::run::Batch;
use super::{Access, SlotId, Span};
use crate::artifact::Artifact;
use crate::error::OpFault;
use crate::mem::copy;
use serde::{Deserialize, Serialize};

/// `out <- x` of `steps` steps ago; zeros before there was one. Where two paths meet, the shorter one waits.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Delay<V = Span> {
    /// (width)
    pub x: V,
    /// (width)
    pub out: V,
    /// Steps: of the block that it is in.
    pub steps: u32,
    /// (steps, width): a ring; position `p` is in row `p % steps`.
    pub state: SlotId,
}

impl<V> Delay<V> {
    pub(super) fn map<W>(self, place: &mut impl FnMut(V, Access) -> W) -> Delay<W> {
        Delay { x: place(self.x, Access::Read), out: place(self.out, Access::Write), steps: self.steps, state: self.state }
    }
}

impl Delay {
    pub(super) fn check(&self, checker: &mut Checker<'_, '_>) -> Result<(), OpFault> {
        if self.steps == 0 {
            return Err(OpFault::Value);
        }
        if self.x.len != self.out.len {
            return Err(OpFault::Shape);
        }
        checker.numbers(self.state, self.steps.checked_mul(self.x.len))
    }

    pub(super) fn run(&self, batch: &mut Batch<'_, '_>) -> Option<()> {
        batch.each_with_state(self.state, |_, mut frame, ring, position| {
            let [x, out] = frame.split([self.x, self.out])?;
            let row = position.checked_rem(u64::from(self.steps))? as usize;
            let past = ring.get_mut(row * x.len()..)?.get_mut(..x.len())?;
            copy(out, past)?;
            copy(past, x)
        })
    }

    pub(super) fn macs(&self, _: &Artifact<'_>) -> u64 {
        0
    }
}
