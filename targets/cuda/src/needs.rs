//! What the kernels of a program need beside frames.

use crate::error::Error;
use crate::launch::{Attention, ENTRY_BYTES, MAX_EXPERTS, MAX_HEAD_DIM, Matmul};
use crate::model::CudaModel;
use crate::program::Node;
use crate::tensors::Tensors;
use brooklet::ops::Op;

/// What operations need beside frames, for each row of a batch.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Needs {
    /// Most numbers of the vectors that enter a product, padded to groups.
    pub(crate) rounded: u64,
    /// Numbers between an expert's matrices, all chosen experts.
    pub(crate) hidden: u64,
    /// Numbers behind them.
    pub(crate) experts: u64,
    /// Whether there are experts at all.
    pub(crate) has_experts: bool,
}

impl Needs {
    /// Adds what an operation needs; refuses what no kernel can do.
    pub(crate) fn add(&mut self, index: u32, op: &Op, tensors: &Tensors) -> Result<(), Error> {
        let padded = |cols: u32| u64::from(cols.next_multiple_of(32));
        let mut product = |w: u32, picks: u32| self.rounded = self.rounded.max(u64::from(picks) * padded(tensors.get(w).cols));
        let refuse = |what| Err(Error::Unsupported { index, what });
        match op {
            Op::Linear(op) => product(op.w, 1),
            Op::Lstm(op) => product(op.w, 1),
            Op::Gru(op) => product(op.w, 1),
            Op::Moe(op) => {
                if op.scores.len > MAX_EXPERTS {
                    return refuse("more than 2048 experts");
                }
                product(op.experts_at, 1);
                product(op.experts_at + 1, op.top_k);
                self.hidden = self.hidden.max(u64::from(op.top_k) * u64::from(op.hidden.len));
                self.experts = self.experts.max(u64::from(op.top_k) * u64::from(op.out.len));
                self.has_experts = true;
            }
            Op::Attention(op) if op.q.len / op.heads.max(1) > MAX_HEAD_DIM => return refuse("attention heads wider than 512"),
            _ => {
                if let Some(head) = op.head() {
                    product(head.w, 1);
                }
            }
        }
        Ok(())
    }
}

/// Bytes of a route's decision.
pub(crate) const ROUTE_BYTES: u64 = ENTRY_BYTES;

impl CudaModel<'_> {
    /// Bytes of working space for attention, in batches of up to `rows` rows.
    pub(crate) fn attention_bytes(&self, rows: u32) -> u64 {
        let of = |op: &Op| match op {
            Op::Attention(attention) => Attention::room_bytes(rows, &self.attention(attention)),
            _ => 0,
        };
        self.program.iter().flat_map(Node::ops).map(of).max().unwrap_or(0)
    }

    /// Bytes of working space for products, in batches of up to `rows` rows.
    pub(crate) fn spread_bytes(&self, rows: u32) -> u64 {
        let of = |op: &Op| match op {
            Op::Linear(op) if self.tensors.format(op.w).is_quantized() => {
                let matrix = self.tensors.get(op.w);
                Matmul::spread_bytes(rows, matrix.rows, matrix.cols)
            }
            _ => 0,
        };
        // A routed block takes row by row.
        let many = self.program.iter().filter(|node| !matches!(node, Node::Routed(..)));
        many.flat_map(Node::ops).map(of).max().unwrap_or(0)
    }
}
