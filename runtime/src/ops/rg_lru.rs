//! Real-gated linear recurrent unit (Griffin), one step.

use super::check::Checker;
use super::run::Batch;
use super::{Access, SlotId, Span, TensorId};
use crate::artifact::Artifact;
use crate::error::OpFault;
use crate::kernels;
use serde::{Deserialize, Serialize};

/// Real-gated linear recurrent unit. The sigmoids of the gates are inside; the products that make the gates are not.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct RgLru<V = Span> {
    /// (width): becomes the state.
    pub x: V,
    /// (width), before its sigmoid: how much of `x` enters.
    pub input_gate: V,
    /// (width), before its sigmoid: how fast the state fades.
    pub recurrence_gate: V,
    /// Array (width), not positive: the logarithm of what is left of the state after a step with an open gate.
    pub decay: TensorId,
    /// (width)
    pub state: SlotId,
}

impl<V> RgLru<V> {
    pub(super) fn map<W>(self, place: &mut impl FnMut(V, Access) -> W) -> RgLru<W> {
        RgLru {
            x: place(self.x, Access::Update),
            input_gate: place(self.input_gate, Access::Read),
            recurrence_gate: place(self.recurrence_gate, Access::Read),
            decay: self.decay,
            state: self.state,
        }
    }
}

impl RgLru {
    pub(super) fn check(&self, checker: &mut Checker<'_, '_>) -> Result<(), OpFault> {
        let width = self.x.len;
        checker.array(self.decay, width)?;
        if self.input_gate.len != width || self.recurrence_gate.len != width {
            return Err(OpFault::Shape);
        }
        checker.numbers(self.state, Some(width))
    }

    pub(super) fn run(&self, batch: &mut Batch<'_, '_>) -> Option<()> {
        let decay = batch.tensors.array(self.decay)?;
        batch.each_with_state(self.state, |kernels, mut frame, h, position| {
            let [x, input_gate, recurrence_gate] = frame.split([self.x, self.input_gate, self.recurrence_gate])?;
            kernels.rg_lru_step(&kernels::RgLru { input_gate, recurrence_gate, decay, is_first: position == 0 }, h, x);
            Some(())
        })
    }

    pub(super) fn macs(&self, _: &Artifact<'_>) -> u64 {
        3 * u64::from(self.x.len)
    }
}
