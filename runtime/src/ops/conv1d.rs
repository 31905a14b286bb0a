//! Causal depthwise convolution, one step.

use super::check::Checker;
use super::run::Batch;
use super::{Access, SlotId, Span, TensorId};
use crate::artifact::Artifact;
use crate::error::OpFault;
use crate::kernels;
use serde::{Deserialize, Serialize};

/// Causal depthwise convolution, in place.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Conv1d<V = Span> {
    /// Array (taps, channels), oldest tap first.
    pub weight: TensorId,
    /// Array (channels).
    pub bias: Option<TensorId>,
    /// Width of the window.
    pub taps: u32,
    /// Whether SiLU follows.
    pub silu: bool,
    /// (channels)
    pub x: V,
    /// (taps - 1, channels): the last inputs.
    pub state: SlotId,
}

impl<V> Conv1d<V> {
    pub(super) fn map<W>(self, place: &mut impl FnMut(V, Access) -> W) -> Conv1d<W> {
        Conv1d {
            weight: self.weight,
            bias: self.bias,
            taps: self.taps,
            silu: self.silu,
            x: place(self.x, Access::Update),
            state: self.state,
        }
    }
}

impl Conv1d {
    pub(super) fn check(&self, checker: &mut Checker<'_, '_>) -> Result<(), OpFault> {
        let channels = self.x.len;
        let kept = self.taps.checked_sub(1).ok_or(OpFault::Value)?;
        checker.array(self.weight, self.taps.checked_mul(channels).ok_or(OpFault::Shape)?)?;
        checker.maybe_array(self.bias, channels)?;
        checker.numbers(self.state, kept.checked_mul(channels))
    }

    pub(super) fn run(&self, batch: &mut Batch<'_, '_>) -> Option<()> {
        let conv = kernels::Conv1d {
            weight: batch.artifact.array(self.weight)?,
            bias: Batch::maybe_array(batch.artifact, self.bias)?,
            taps: self.taps as usize,
            silu: self.silu,
        };
        batch.each_with_state(self.state, |kernels, mut frame, state, _| {
            kernels.conv1d_step(&conv, state, frame.get(self.x)?);
            Some(())
        })
    }

    pub(super) fn macs(&self, _: &Artifact<'_>) -> u64 {
        u64::from(self.taps) * u64::from(self.x.len)
    }
}
