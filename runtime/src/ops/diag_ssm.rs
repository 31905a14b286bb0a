//! Diagonal state-space model (S4D, S5, Hyena's poles), one step.

use super::check::{Checker, divide};
use super::run::{Batch, Stretch};
use super::{Access, SlotId, Span, TensorId};
use crate::artifact::Artifact;
use crate::error::OpFault;
use crate::kernels;
use serde::{Deserialize, Serialize};

/// How the modes go from step to step: `s <- s + e s + ..` with a complex `e` from `a`. Files store the variant's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stepping {
    /// `a` is `e`, for the model's own rate alone; `s <- s + e s + x`.
    Fixed,
    /// `a` is a rate, re in nepers and im in turns per step of the model's own rate: `e = exp(gap a) - 1`;
    /// `s <- s + e (s + x)`, exact for an input that stays as it is between steps.
    Hold,
    /// `a` as before: `e = z / (1 - z/2)` with `z = gap a`; `s <- s + e (s + x)`.
    Bilinear,
    /// `a` as before: `e = exp(gap a) - 1`; `s <- s + e s + x`: the gap ages the state alone.
    Impulse,
}

/// Diagonal state-space model: every channel has complex modes of its own.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct DiagSsm<V = Span> {
    /// (channels), or (2, channels): real and imaginary parts.
    pub x: V,
    /// (channels), or (modes, 2, channels) without `c`.
    pub out: V,
    /// Array (modes, 2, channels).
    pub a: TensorId,
    /// Array (modes, 2, channels): the output is `Re(sum_n c s) + d x`; without it, the states.
    pub c: Option<TensorId>,
    /// Array (channels); only with `c`.
    pub d: Option<TensorId>,
    /// Channels.
    pub channels: u32,
    /// From `a` to the factor of a step.
    pub stepping: Stepping,
    /// (modes, 2, channels)
    pub state: SlotId,
}

impl<V> DiagSsm<V> {
    pub(super) fn map<W>(self, place: &mut impl FnMut(V, Access) -> W) -> DiagSsm<W> {
        DiagSsm {
            x: place(self.x, Access::Read),
            out: place(self.out, Access::Write),
            a: self.a,
            c: self.c,
            d: self.d,
            channels: self.channels,
            stepping: self.stepping,
            state: self.state,
        }
    }
}

impl DiagSsm {
    pub(super) fn check(&self, checker: &mut Checker<'_, '_>) -> Result<(), OpFault> {
        let channels = self.channels;
        let plane = channels.checked_mul(2).ok_or(OpFault::Shape)?;
        let cells = checker.array_len(self.a)?;
        if divide(cells, plane)? == 0 {
            return Err(OpFault::Shape);
        }
        checker.maybe_array(self.c, cells)?;
        checker.maybe_array(self.d, channels)?;
        let out_len = if self.c.is_some() { channels } else { cells };
        let fits = (self.x.len == channels || self.x.len == plane) && self.out.len == out_len && (self.d.is_none() || self.c.is_some());
        if !fits {
            return Err(OpFault::Shape);
        }
        checker.numbers(self.state, Some(cells))
    }

    pub(super) fn run(&self, batch: &mut Batch<'_, '_>) -> Option<()> {
        let ssm = kernels::DiagSsm {
            x: &[],
            a: batch.tensors.array(self.a)?,
            c: Batch::maybe_array(batch.tensors, self.c)?,
            d: Batch::maybe_array(batch.tensors, self.d)?,
            channels: self.channels as usize,
            stepping: match self.stepping {
                Stepping::Fixed => kernels::Stepping::Fixed,
                Stepping::Hold => kernels::Stepping::Hold,
                Stepping::Bilinear => kernels::Stepping::Bilinear,
                Stepping::Impulse => kernels::Stepping::Impulse,
            },
            gap: 1.0,
        };
        let cells = ssm.a.len();
        batch.each_stretch(self.state, cells, |Stretch { kernels, frames, states, gap, .. }| {
            let [x, mut out] = frames.columns([self.x.range(), self.out.range()])?;
            let tokens = x.rows().checked_div(states.len())?;
            for t in 0..x.rows() {
                let mut state = states.get_mut(t.checked_div(tokens)?)?.reborrow().into_f32()?;
                kernels.diag_step(&kernels::DiagSsm { x: x.row(t), gap, ..ssm }, state.row_mut(0), out.row_mut(t));
            }
            Some(())
        })
    }

    pub(super) fn macs(&self, artifact: &Artifact<'_>) -> u64 {
        // A complex product for the state, half of one for the output.
        3 * artifact.array(self.a).map_or(0, |a| a.len() as u64)
    }
}
