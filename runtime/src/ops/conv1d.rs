//! Causal depthwise convolution, one step.

use super::check::Checker;
use super::run::{Batch, LANES, Stretch, WORTH_SHARING};
use super::{Access, SlotId, Span, TensorId};
use crate::artifact::Artifact;
use crate::error::OpFault;
use crate::kernels::{self, Rows};
use crate::team::shares;
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
        let tensors = batch.tensors;
        let (channels, taps, silu) = (self.x.len as usize, self.taps as usize, self.silu);
        let weight = Rows::new(tensors.array(self.weight)?, taps, channels, channels)?;
        let bias = Batch::maybe_array(tensors, self.bias)?;
        batch.each_stretch(self.state, channels, |Stretch { kernels, team, frames, states, .. }| {
            let [mut rows] = frames.columns([self.x.range()])?;
            #[cfg(feature = "std")]
            if states.len() > 1 && kernels.conv1d_streams(&kernels::Conv1d { weight, bias, taps, silu }, states, &mut rows) {
                return Some(());
            }
            let tokens = rows.rows().checked_div(states.len())?;
            for state in states {
                let (mut x, mut state) = (rows.take_rows(tokens)?, state.reborrow().into_f32()?);
                let size = if tokens * channels < WORTH_SHARING { 1 } else { team.size() };
                let parts = shares(channels.div_ceil(LANES), size).map(|part| {
                    let range = part.start * LANES..channels.min(part.end * LANES);
                    let bias = match bias {
                        Some(bias) => Some(bias.get(range.clone())?),
                        None => None,
                    };
                    let conv = kernels::Conv1d { weight: weight.columns(range.clone())?, bias, taps, silu };
                    Some((conv, state.take_columns(range.len())?, x.take_columns(range.len())?))
                });
                team.share(parts, |(conv, state, x)| kernels.conv1d(&conv, state, x))?;
            }
            Some(())
        })
    }

    pub(super) fn macs(&self, _: &Artifact<'_>) -> u64 {
        u64::from(self.taps) * u64::from(self.x.len)
    }
}
