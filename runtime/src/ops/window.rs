//! A window over what went in: the last numbers of the steps before, then this step's.

use super::check::Checker;
use super::run::Batch;
use super::{Access, SlotId, Span};
use crate::artifact::Artifact;
use crate::error::OpFault;
use crate::mem::copy;
use serde::{Deserialize, Serialize};

/// `out <- the last numbers before x, then x`; zeros before the stream began.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Window<V = Span> {
    /// (width)
    pub x: V,
    /// (kept + width)
    pub out: V,
    /// (kept): the last numbers, oldest first.
    pub state: SlotId,
}

impl<V> Window<V> {
    pub(super) fn map<W>(self, place: &mut impl FnMut(V, Access) -> W) -> Window<W> {
        Window { x: place(self.x, Access::Read), out: place(self.out, Access::Write), state: self.state }
    }
}

impl Window {
    pub(super) fn check(&self, checker: &mut Checker<'_, '_>) -> Result<(), OpFault> {
        let kept = self.out.len.checked_sub(self.x.len).filter(|&kept| kept > 0).ok_or(OpFault::Shape)?;
        checker.numbers(self.state, Some(kept))
    }

    pub(super) fn run(&self, batch: &mut Batch<'_, '_>) -> Option<()> {
        batch.each_with_state(self.state, |_, mut frame, past, _| {
            let [x, out] = frame.split([self.x, self.out])?;
            let (before, now) = out.split_at_mut_checked(past.len())?;
            copy(before, past)?;
            copy(now, x)?;
            copy(past, out.get(x.len()..)?)?;
            Some(())
        })
    }

    pub(super) fn macs(&self, _: &Artifact<'_>) -> u64 {
        0
    }
}
