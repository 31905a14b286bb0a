//! Summary of the stream so far, for classifiers.

use super::check::Checker;
use super::run::Batch;
use super::{Access, SlotId, Span};
use crate::artifact::Artifact;
use crate::error::OpFault;
use serde::{Deserialize, Serialize};

/// What the summary is.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub enum PoolKind {
    /// The mean of all steps since the stream began.
    Mean,
    /// An exponential moving average: `p <- p + alpha * (x - p)`, which starts at the first step's value.
    Ema {
        /// Weight of the newest step, in (0, 1].
        alpha: f32,
    },
}

/// Replaces a vector by its summary.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Pool<V = Span> {
    /// Kind.
    pub kind: PoolKind,
    /// (width)
    pub x: V,
    /// (width): the summary.
    pub state: SlotId,
}

impl<V> Pool<V> {
    pub(super) fn map<W>(self, place: &mut impl FnMut(V, Access) -> W) -> Pool<W> {
        Pool { kind: self.kind, x: place(self.x, Access::Update), state: self.state }
    }
}

impl Pool {
    pub(super) fn check(&self, checker: &mut Checker<'_, '_>) -> Result<(), OpFault> {
        if let PoolKind::Ema { alpha } = self.kind
            && !(alpha > 0.0 && alpha <= 1.0)
        {
            return Err(OpFault::Value);
        }
        checker.numbers(self.state, Some(self.x.len))
    }

    pub(super) fn run(&self, batch: &mut Batch<'_, '_>) -> Option<()> {
        batch.each_with_state(self.state, |_, mut frame, summary, position| {
            let weight = match self.kind {
                // Beyond 2^24 steps the count no longer fits: the mean turns into a very slow moving average.
                PoolKind::Mean => 1.0 / (position.min(1 << 24) as u32 + 1) as f32,
                PoolKind::Ema { .. } if position == 0 => 1.0,
                PoolKind::Ema { alpha } => alpha,
            };
            for (x, summary) in frame.get(self.x)?.iter_mut().zip(summary) {
                *summary += weight * (*x - *summary);
                *x = *summary;
            }
            Some(())
        })
    }

    pub(super) fn macs(&self, _: &Artifact<'_>) -> u64 {
        u64::from(self.x.len)
    }
}
