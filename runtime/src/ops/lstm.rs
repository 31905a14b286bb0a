//! Long short-term memory, one step.

use super::check::Checker;
use super::linear::multiply;
use super::run::Batch;
use super::{Access, SlotId, Span, TensorId};
use crate::artifact::Artifact;
use crate::error::OpFault;
use crate::kernels;
use crate::mem::copy;
use serde::{Deserialize, Serialize};

/// Long short-term memory. The input's product comes from a [`super::Linear`] over all tokens of a batch; the product of the
/// previous output is made here, token by token. Gates are ordered i, f, g, o.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Lstm<V = Span> {
    /// (4, hidden): the input's product, with every bias.
    pub input: V,
    /// (4, hidden): working space.
    pub recurrent: V,
    /// (hidden)
    pub out: V,
    /// Matrix (4 * hidden, hidden).
    pub w: TensorId,
    /// (2, hidden): the output h, then the cell c.
    pub state: SlotId,
}

impl<V> Lstm<V> {
    pub(super) fn map<W>(self, place: &mut impl FnMut(V, Access) -> W) -> Lstm<W> {
        Lstm {
            input: place(self.input, Access::Read),
            recurrent: place(self.recurrent, Access::Write),
            out: place(self.out, Access::Write),
            w: self.w,
            state: self.state,
        }
    }
}

impl Lstm {
    pub(super) fn check(&self, checker: &mut Checker<'_, '_>) -> Result<(), OpFault> {
        let hidden = self.out.len;
        let gates = hidden.checked_mul(4).ok_or(OpFault::Shape)?;
        if self.input.len != gates || self.recurrent.len != gates {
            return Err(OpFault::Shape);
        }
        checker.matrix(self.w, gates, hidden)?;
        checker.numbers(self.state, hidden.checked_mul(2))
    }

    pub(super) fn run(&self, batch: &mut Batch<'_, '_>) -> Option<()> {
        let hidden = self.out.len as usize;
        for row in 0..batch.rows() {
            // A matrix takes its input from the frame: the previous output waits where the new one will be.
            let (_, mut frame, state) = batch.row_with_state(row, self.state)?;
            copy(frame.get(self.out)?, state.get(..hidden)?)?;
            multiply(batch, self.w, self.out, row, 1, Some(self.recurrent))?;
            let (kernels, mut frame, state) = batch.row_with_state(row, self.state)?;
            let (h, c) = state.split_at_mut_checked(hidden)?;
            let [input, recurrent, out] = frame.split([self.input, self.recurrent, self.out])?;
            kernels.lstm_step(&kernels::Lstm { input, recurrent }, c, h);
            copy(out, h)?;
        }
        Some(())
    }

    pub(super) fn macs(&self, _: &Artifact<'_>) -> u64 {
        u64::from(self.input.len) * u64::from(self.out.len)
    }
}
