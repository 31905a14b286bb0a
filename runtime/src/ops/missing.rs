//! Samples that a sensor did not deliver: what stands in for a NaN among a frame's numbers.

use super::check::Checker;
use super::run::Batch;
use super::{Access, SlotId, Span, TensorId};
use crate::artifact::Artifact;
use crate::error::OpFault;
use serde::{Deserialize, Serialize};

/// What stands in for a missing sample. Files store the variant's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Policy {
    /// The channel's last sample; before its first, its mean.
    Hold {
        /// (channels): the last numbers. Zeros of an empty state are means.
        last: SlotId,
    },
    /// The channel's mean, which is 0 here.
    Mean,
    /// 0 in the channel's unit.
    Zero {
        /// Array (channels): where that lies after normalisation.
        zeros: TensorId,
    },
}

impl Policy {
    /// As a checkpoint's config writes it.
    pub fn name(&self) -> &'static str {
        match self {
            Policy::Hold { .. } => "hold",
            Policy::Mean => "mean",
            Policy::Zero { .. } => "zero",
        }
    }
}

/// Replaces what is missing in a normalised frame: directly behind [`super::Frame`], so that nothing else meets a NaN.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Missing<V = Span> {
    /// What stands in.
    pub policy: Policy,
    /// (channels): the frame.
    pub x: V,
}

impl<V> Missing<V> {
    pub(super) fn map<W>(self, place: &mut impl FnMut(V, Access) -> W) -> Missing<W> {
        Missing { policy: self.policy, x: place(self.x, Access::Update) }
    }
}

impl Missing {
    pub(super) fn check(&self, checker: &mut Checker<'_, '_>) -> Result<(), OpFault> {
        match self.policy {
            Policy::Hold { last } => checker.numbers(last, Some(self.x.len)),
            Policy::Mean => Ok(()),
            Policy::Zero { zeros } => checker.array(zeros, self.x.len).map(|_| ()),
        }
    }

    pub(super) fn run(&self, batch: &mut Batch<'_, '_>) -> Option<()> {
        match self.policy {
            Policy::Hold { last } => batch.each_with_state(last, |_, mut frame, last, _| {
                for (x, last) in frame.get(self.x)?.iter_mut().zip(last) {
                    if x.is_nan() {
                        *x = *last;
                    }
                    *last = *x;
                }
                Some(())
            }),
            Policy::Mean => batch.each(|_, mut frame, _| {
                frame.get(self.x)?.iter_mut().filter(|x| x.is_nan()).for_each(|x| *x = 0.0);
                Some(())
            }),
            Policy::Zero { zeros } => {
                let zeros = batch.tensors.array(zeros)?;
                batch.each(|_, mut frame, _| {
                    frame.get(self.x)?.iter_mut().zip(zeros).filter(|(x, _)| x.is_nan()).for_each(|(x, zero)| *x = *zero);
                    Some(())
                })
            }
        }
    }

    pub(super) fn macs(&self, _: &Artifact<'_>) -> u64 {
        0
    }
}
