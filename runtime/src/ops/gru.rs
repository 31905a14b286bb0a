//! Gated recurrent unit, one step.

use super::check::Checker;
use super::linear::multiply;
use super::run::Batch;
use super::{Access, SlotId, Span, TensorId};
use crate::artifact::Artifact;
use crate::error::OpFault;
use crate::kernels;
use crate::mem::copy;
use serde::{Deserialize, Serialize};

/// Gated recurrent unit. The input's product comes from a [`super::Linear`] over all tokens of a batch; the product of the
/// previous output is made here, token by token. Parts are ordered r, z, n; r multiplies n's recurrent product and its bias.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Gru<V = Span> {
    /// (3, hidden): the input's product, with every bias but the one below.
    pub input: V,
    /// (3, hidden): working space.
    pub recurrent: V,
    /// (hidden)
    pub out: V,
    /// Matrix (3 * hidden, hidden).
    pub w: TensorId,
    /// Array (hidden): added to the recurrent product of n.
    pub bias: Option<TensorId>,
    /// (hidden): the output.
    pub state: SlotId,
}

impl<V> Gru<V> {
    pub(super) fn map<W>(self, place: &mut impl FnMut(V, Access) -> W) -> Gru<W> {
        Gru {
            input: place(self.input, Access::Read),
            recurrent: place(self.recurrent, Access::Write),
            out: place(self.out, Access::Write),
            w: self.w,
            bias: self.bias,
            state: self.state,
        }
    }
}

impl Gru {
    pub(super) fn check(&self, checker: &mut Checker<'_, '_>) -> Result<(), OpFault> {
        let hidden = self.out.len;
        let parts = hidden.checked_mul(3).ok_or(OpFault::Shape)?;
        if self.input.len != parts || self.recurrent.len != parts {
            return Err(OpFault::Shape);
        }
        checker.matrix(self.w, parts, hidden)?;
        checker.maybe_array(self.bias, hidden)?;
        checker.numbers(self.state, Some(hidden))
    }

    pub(super) fn run(&self, batch: &mut Batch<'_, '_>) -> Option<()> {
        let bias = Batch::maybe_array(batch.tensors, self.bias)?;
        for row in 0..batch.rows() {
            // A matrix takes its input from the frame: the previous output waits where the new one will be.
            let (_, mut frame, h) = batch.row_with_state(row, self.state)?;
            copy(frame.get(self.out)?, h)?;
            multiply(batch, self.w, self.out, row, 1, Some(self.recurrent))?;
            let (kernels, mut frame, h) = batch.row_with_state(row, self.state)?;
            let [input, recurrent, out] = frame.split([self.input, self.recurrent, self.out])?;
            kernels.gru_step(&kernels::Gru { input, recurrent, bias }, h);
            copy(out, h)?;
        }
        Some(())
    }

    pub(super) fn macs(&self, _: &Artifact<'_>) -> u64 {
        u64::from(self.input.len) * u64::from(self.out.len)
    }
}
