//! Conditional computation: a score decides, token by token, whether the operations behind it run.
//!
//! Mixture-of-Depths skips a block; adaptive switching guards two blocks with opposite conditions. A skipped block leaves
//! everything as it is: its states and caches only ever see the tokens that were routed to it.

use super::check::{Checker, finite};
use super::run::Batch;
use super::{Access, SlotId, Span};
use crate::artifact::Artifact;
use crate::error::OpFault;
use serde::{Deserialize, Serialize};

/// Numbers in the slot that counts routed tokens: one `u64`.
pub const COUNT_NUMBERS: u32 = 2;

/// Lets a token into the next operations, or past them.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Route<V = Span> {
    /// (1): the score.
    pub score: V,
    /// A token enters if its score is above this.
    pub threshold: f32,
    /// Enters if the score is *not* above the threshold: the other path of a switch.
    pub otherwise: bool,
    /// Operations that are skipped by the others.
    pub ops: u32,
    /// Tokens that entered so far: where caches inside the block continue.
    pub count: SlotId,
}

impl<V> Route<V> {
    pub(super) fn map<W>(self, place: &mut impl FnMut(V, Access) -> W) -> Route<W> {
        Route {
            score: place(self.score, Access::Read),
            threshold: self.threshold,
            otherwise: self.otherwise,
            ops: self.ops,
            count: self.count,
        }
    }
}

impl Route {
    pub(super) fn check(&self, checker: &mut Checker<'_, '_>) -> Result<(), OpFault> {
        finite(self.threshold)?;
        if self.score.len != 1 || self.ops == 0 {
            return Err(OpFault::Shape);
        }
        checker.numbers(self.count, Some(COUNT_NUMBERS))
    }

    /// The block is walked by the session; the decision itself changes nothing.
    pub(super) fn run(&self, _: &mut Batch<'_, '_>) -> Option<()> {
        Some(())
    }

    /// Whether the token in `row` of the batch enters; if so, how many entered before it.
    pub(crate) fn enters(&self, batch: &mut Batch<'_, '_>, row: usize) -> Option<Option<u64>> {
        let score = *batch.frame(row)?.get(self.score)?.first()?;
        if (score > self.threshold) == self.otherwise {
            return Some(None);
        }
        let slot = batch.tensors.slot(self.count)?;
        let at = usize::try_from(slot.at).ok()?;
        let bytes: &mut [u8; 8] = batch.streams.get_mut(row.checked_div(batch.tokens)?)?.state.get_mut(at..)?.first_chunk_mut()?;
        let before = u64::from_le_bytes(*bytes);
        *bytes = before.saturating_add(1).to_le_bytes();
        Some(Some(before))
    }

    pub(super) fn macs(&self, _: &Artifact<'_>) -> u64 {
        1
    }
}
