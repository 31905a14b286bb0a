//! One frame of a low rate becomes several of a higher one: its parts are handed out one by one.

use super::check::{Checker, divide};
use super::run::Batch;
use super::{Access, SlotId, Span};
use crate::artifact::Artifact;
use crate::error::OpFault;
use crate::mem::copy;
use serde::{Deserialize, Serialize};

/// `out <- part p of x`, `p` = position modulo the number of parts (the sub-pixel convolution's shuffle, along time).
///
/// `x` is read at the first part alone; the slot keeps it for the others.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct DepthToTime<V = Span> {
    /// (parts, width)
    pub x: V,
    /// (width)
    pub out: V,
    /// (parts, width)
    pub state: SlotId,
}

impl<V> DepthToTime<V> {
    pub(super) fn map<W>(self, place: &mut impl FnMut(V, Access) -> W) -> DepthToTime<W> {
        DepthToTime { x: place(self.x, Access::Read), out: place(self.out, Access::Write), state: self.state }
    }
}

impl DepthToTime {
    pub(super) fn check(&self, checker: &mut Checker<'_, '_>) -> Result<(), OpFault> {
        divide(self.x.len, self.out.len)?;
        checker.numbers(self.state, Some(self.x.len))
    }

    pub(super) fn run(&self, batch: &mut Batch<'_, '_>) -> Option<()> {
        batch.each_with_state(self.state, |_, mut frame, kept, position| {
            let [x, out] = frame.split([self.x, self.out])?;
            let parts = x.len().checked_div(out.len())? as u64;
            let part = position.checked_rem(parts)? as usize;
            if part == 0 {
                copy(kept, x)?;
            }
            copy(out, kept.get(part * out.len()..)?.get(..out.len())?)
        })
    }

    pub(super) fn macs(&self, _: &Artifact<'_>) -> u64 {
        0
    }
}
