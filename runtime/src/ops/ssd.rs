//! State-space dual recurrence (Mamba-2), one step.

use super::check::{Checker, divide};
use super::run::{Batch, Stretch};
use super::{Access, SlotId, Span, TensorId};
use crate::artifact::Artifact;
use crate::error::OpFault;
use crate::kernels::{self, RowsMut};
use crate::team::shares;
use core::ops::Range;
use serde::{Deserialize, Serialize};

/// State-space dual recurrence. Bias, softplus and bounds of the step size are inside, and so is the skip `d * x`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ssd<V = Span> {
    /// (heads, head_dim)
    pub x: V,
    /// (heads)
    pub dt: V,
    /// (groups, d_state)
    pub b: V,
    /// (groups, d_state)
    pub c: V,
    /// (heads, head_dim)
    pub out: V,
    /// Array (heads), negative.
    pub a: TensorId,
    /// Array (heads).
    pub d: TensorId,
    /// Array (heads).
    pub dt_bias: TensorId,
    /// Groups of heads that share b and c.
    pub groups: u32,
    /// Lower bound of the step size.
    pub dt_lo: f32,
    /// Upper bound of the step size; infinite for none.
    pub dt_hi: f32,
    /// (heads, d_state, head_dim)
    pub state: SlotId,
}

impl<V> Ssd<V> {
    pub(super) fn map<W>(self, place: &mut impl FnMut(V, Access) -> W) -> Ssd<W> {
        Ssd {
            x: place(self.x, Access::Read),
            dt: place(self.dt, Access::Read),
            b: place(self.b, Access::Read),
            c: place(self.c, Access::Read),
            out: place(self.out, Access::Write),
            a: self.a,
            d: self.d,
            dt_bias: self.dt_bias,
            groups: self.groups,
            dt_lo: self.dt_lo,
            dt_hi: self.dt_hi,
            state: self.state,
        }
    }
}

impl Ssd {
    pub(super) fn check(&self, checker: &mut Checker<'_, '_>) -> Result<(), OpFault> {
        let heads = self.dt.len;
        divide(self.x.len, heads)?;
        divide(heads, self.groups)?;
        let d_state = divide(self.b.len, self.groups)?;
        for tensor in [self.a, self.d, self.dt_bias] {
            checker.array(tensor, heads)?;
        }
        if self.out.len != self.x.len || self.c.len != self.b.len {
            return Err(OpFault::Shape);
        }
        if self.dt_lo.is_nan() || self.dt_hi.is_nan() {
            return Err(OpFault::Value);
        }
        checker.state(self.state, self.x.len.checked_mul(d_state))
    }

    pub(super) fn run(&self, batch: &mut Batch<'_, '_>) -> Option<()> {
        let tensors = batch.tensors;
        let (a, d, dt_bias) = (tensors.array(self.a)?, tensors.array(self.d)?, tensors.array(self.dt_bias)?);
        let (heads, groups) = (self.dt.len as usize, self.groups as usize);
        let head_dim = (self.x.len as usize).checked_div(heads)?;
        let head_cells = (self.b.len as usize).checked_div(groups)?.checked_mul(head_dim)?;
        let heads_per_group = heads.checked_div(groups)?;
        batch.each_stretch(self.state, head_cells, |Stretch { kernels, team, frames, states, gap }| {
            let [x, dt, b, c, mut y] = frames.columns([self.x, self.dt, self.b, self.c, self.out].map(Span::range))?;
            let [x, dt, b, c] = [x, dt, b, c].map(RowsMut::into_rows);
            let of_heads = |part: Range<usize>| {
                let range = part.start * head_dim..part.end * head_dim;
                Some(kernels::Ssd {
                    x: x.columns(range)?,
                    dt: dt.columns(part.clone())?,
                    dt_bias: dt_bias.get(part.clone())?,
                    a: a.get(part.clone())?,
                    b,
                    c,
                    d: d.get(part.clone())?,
                    groups,
                    heads_per_group,
                    first_head: part.start,
                    dt_lo: self.dt_lo,
                    dt_hi: self.dt_hi,
                    gap,
                })
            };
            match states {
                [state] if team.size() > 1 => {
                    let mut state = state.reborrow();
                    let parts = shares(heads, team.size()).map(|part| {
                        let width = part.len() * head_dim;
                        Some((of_heads(part.clone())?, state.take_rows(part.len())?, y.take_columns(width)?))
                    });
                    team.share(parts, |(ssd, state, y)| kernels.ssd(&ssd, &mut [state], y))
                }
                states => {
                    kernels.ssd(&of_heads(0..heads)?, states, y);
                    Some(())
                }
            }
        })
    }

    pub(super) fn macs(&self, _: &Artifact<'_>) -> u64 {
        3 * u64::from(self.x.len) * u64::from(self.b.len / self.groups.max(1))
    }
}
