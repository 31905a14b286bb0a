//! Gated delta rule (Gated DeltaNet), one step.

use super::check::{Checker, divide, finite};
use super::run::{Batch, Stretch};
use super::{Access, SlotId, Span, TensorId};
use crate::artifact::Artifact;
use crate::error::OpFault;
use crate::kernels;
use serde::{Deserialize, Serialize};

/// Gated delta rule. The lengths of queries and keys, the softplus of `a` and the sigmoid of `b` are inside.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct GatedDelta<V = Span> {
    /// (key_heads, key_dim)
    pub q: V,
    /// (key_heads, key_dim)
    pub k: V,
    /// (heads, value_dim)
    pub v: V,
    /// (heads): the decay's step size, before bias and softplus.
    pub a: V,
    /// (heads): the share of the correction, before sigmoid.
    pub b: V,
    /// (heads, value_dim)
    pub out: V,
    /// Array (heads), negative.
    pub decay: TensorId,
    /// Array (heads).
    pub dt_bias: TensorId,
    /// Heads of queries and keys, each shared by neighbouring heads of values.
    pub key_heads: u32,
    /// Factor of the queries.
    pub scale: f32,
    /// Factor of the share of the correction: 1, or 2 where the memory may turn a value's sign.
    pub beta_scale: f32,
    /// Added to the squared lengths of queries and keys.
    pub eps: f32,
    /// (heads, key_dim, value_dim)
    pub state: SlotId,
}

impl<V> GatedDelta<V> {
    pub(super) fn map<W>(self, place: &mut impl FnMut(V, Access) -> W) -> GatedDelta<W> {
        GatedDelta {
            q: place(self.q, Access::Read),
            k: place(self.k, Access::Read),
            v: place(self.v, Access::Read),
            a: place(self.a, Access::Read),
            b: place(self.b, Access::Read),
            out: place(self.out, Access::Write),
            decay: self.decay,
            dt_bias: self.dt_bias,
            key_heads: self.key_heads,
            scale: self.scale,
            beta_scale: self.beta_scale,
            eps: self.eps,
            state: self.state,
        }
    }
}

impl GatedDelta {
    pub(super) fn check(&self, checker: &mut Checker<'_, '_>) -> Result<(), OpFault> {
        let heads = self.a.len;
        divide(self.v.len, heads)?;
        divide(heads, self.key_heads)?;
        let key_dim = divide(self.k.len, self.key_heads)?;
        for tensor in [self.decay, self.dt_bias] {
            checker.array(tensor, heads)?;
        }
        for number in [self.scale, self.beta_scale, self.eps] {
            finite(number)?;
        }
        if self.q.len != self.k.len || self.b.len != heads || self.out.len != self.v.len || self.eps < 0.0 {
            return Err(OpFault::Shape);
        }
        checker.state(self.state, self.v.len.checked_mul(key_dim))
    }

    pub(super) fn run(&self, batch: &mut Batch<'_, '_>) -> Option<()> {
        let tensors = batch.tensors;
        let (decay, dt_bias) = (tensors.array(self.decay)?, tensors.array(self.dt_bias)?);
        let (key_heads, scale, beta_scale, eps) = (self.key_heads as usize, self.scale, self.beta_scale, self.eps);
        let head_cells =
            (self.v.len as usize).checked_div(self.a.len as usize)?.checked_mul((self.k.len as usize).checked_div(key_heads)?)?;
        batch.each_stretch(self.state, head_cells, |Stretch { kernels, frames, states, .. }| {
            let [q, k, v, a, b, mut out] = frames.columns([self.q, self.k, self.v, self.a, self.b, self.out].map(Span::range))?;
            let tokens = q.rows().checked_div(states.len())?;
            for t in 0..q.rows() {
                let state = states.get_mut(t.checked_div(tokens)?)?;
                let [q, k, v, a, b] = [&q, &k, &v, &a, &b].map(|rows| rows.row(t));
                let delta = kernels::GatedDelta { q, k, v, a, b, decay, dt_bias, key_heads, scale, beta_scale, eps };
                kernels.gated_delta_step(&delta, state.reborrow(), out.row_mut(t));
            }
            Some(())
        })
    }

    pub(super) fn macs(&self, _: &Artifact<'_>) -> u64 {
        4 * u64::from(self.v.len) * u64::from(self.k.len / self.key_heads.max(1))
    }
}
