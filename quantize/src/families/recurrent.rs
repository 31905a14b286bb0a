//! Gated recurrent layers with the tensor names and row order of PyTorch's nn.LSTM, nn.GRU and their cells.

use super::Names;
use crate::error::Error;
use crate::graph::{Graph, Operand, Role};

/// What a layer is made of.
#[derive(Clone, Copy)]
pub(super) enum Cell {
    /// Rows i, f, g, o.
    Lstm,
    /// Rows r, z, n.
    Gru,
}

impl Cell {
    /// One layer of `hidden` outputs; `suffix` ends the tensors' names: `_l0` of a stack, nothing of a lone cell. `role` is that of
    /// the matrix for `x`.
    pub(super) fn build<'a>(
        self,
        g: &mut Graph<'a>,
        names: &Names<'a>,
        suffix: &str,
        (role, x): (Role, Operand),
        hidden: usize,
        bias: bool,
    ) -> Result<Operand, Error> {
        let rows = hidden * if matches!(self, Cell::Lstm) { 4 } else { 3 };
        let w_ih = names.matrix(g, &format!("weight_ih{suffix}"), rows, x.len as usize, role)?;
        let w_hh = names.matrix(g, &format!("weight_hh{suffix}"), rows, hidden, Role::Projection)?;
        let (mut bias_in, mut bias_n) = (None, None);
        if bias {
            let mut sum = names.read(&format!("bias_ih{suffix}"), &[rows])?;
            let recurrent = names.read(&format!("bias_hh{suffix}"), &[rows])?;
            // Both biases are one, but for the part that a GRU multiplies with r.
            let shared = if matches!(self, Cell::Lstm) { rows } else { 2 * hidden };
            sum.iter_mut().zip(&recurrent).take(shared).for_each(|(sum, b)| *sum += b);
            bias_in = Some(g.array(names.full(&format!("bias_ih{suffix}")), sum));
            if matches!(self, Cell::Gru) {
                bias_n = Some(g.array(names.full(&format!("bias_hh{suffix}")), recurrent[shared..].to_vec()));
            }
        }
        let input = g.linear(w_ih, bias_in, x);
        Ok(match self {
            Cell::Lstm => g.lstm(input, w_hh),
            Cell::Gru => g.gru(input, w_hh, bias_n),
        })
    }
}
