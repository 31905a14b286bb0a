//! Selective scan (Mamba), one step.

use super::check::{Checker, divide};
use super::run::{Batch, LANES, Stretch};
use super::{Access, SlotId, Span, TensorId};
use crate::artifact::Artifact;
use crate::error::OpFault;
use crate::kernels::{self, Rows, RowsMut};
use crate::team::shares;
use serde::{Deserialize, Serialize};

/// Selective scan. Bias and softplus of the step size are inside, and so are the skip `d * x` and the gate `silu(z)`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Scan<V = Span> {
    /// (d_inner)
    pub x: V,
    /// (d_inner)
    pub dt: V,
    /// (heads, d_state)
    pub b: V,
    /// (heads, d_state)
    pub c: V,
    /// (d_inner)
    pub z: Option<V>,
    /// (d_inner)
    pub out: V,
    /// Array (d_state, d_inner), negative.
    pub a: TensorId,
    /// Array (d_inner).
    pub d: TensorId,
    /// Array (d_inner).
    pub dt_bias: TensorId,
    /// Groups of channels with their own b and c.
    pub heads: u32,
    /// (d_state, d_inner)
    pub state: SlotId,
}

impl<V> Scan<V> {
    pub(super) fn map<W>(self, place: &mut impl FnMut(V, Access) -> W) -> Scan<W> {
        Scan {
            x: place(self.x, Access::Read),
            dt: place(self.dt, Access::Read),
            b: place(self.b, Access::Read),
            c: place(self.c, Access::Read),
            z: self.z.map(|z| place(z, Access::Read)),
            out: place(self.out, Access::Write),
            a: self.a,
            d: self.d,
            dt_bias: self.dt_bias,
            heads: self.heads,
            state: self.state,
        }
    }
}

impl Scan {
    pub(super) fn check(&self, checker: &mut Checker<'_, '_>) -> Result<(), OpFault> {
        let d_inner = self.x.len;
        let d_state = divide(self.b.len, self.heads)?;
        divide(d_inner, self.heads)?;
        let cells = d_inner.checked_mul(d_state);
        checker.array(self.a, cells.ok_or(OpFault::Shape)?)?;
        checker.array(self.d, d_inner)?;
        checker.array(self.dt_bias, d_inner)?;
        let fits = self.dt.len == d_inner && self.out.len == d_inner && self.c.len == self.b.len && self.z.is_none_or(|z| z.len == d_inner);
        if !fits {
            return Err(OpFault::Shape);
        }
        checker.state(self.state, cells)
    }

    pub(super) fn run(&self, batch: &mut Batch<'_, '_>) -> Option<()> {
        let tensors = batch.tensors;
        let (a, d, dt_bias) = (tensors.array(self.a)?, tensors.array(self.d)?, tensors.array(self.dt_bias)?);
        let (channels, heads) = (self.x.len as usize, self.heads as usize);
        let d_state = (self.b.len as usize).checked_div(heads)?;
        let a = Rows::new(a, d_state, channels, channels)?;
        // Heads have a b and c of their own; the channels of one head share them.
        let (units, unit) = if heads > 1 { (heads, channels.checked_div(heads)?) } else { (channels.div_ceil(LANES), LANES) };
        batch.each_stretch(self.state, channels, |Stretch { kernels, team, frames, states, gap }| {
            // Without a gate an empty operand stands for it.
            let z = self.z.map_or(0..0, Span::range);
            let [x, dt, b, c, z, mut out] =
                frames.columns([self.x.range(), self.dt.range(), self.b.range(), self.c.range(), z, self.out.range()])?;
            let all = [x, dt, b, c, z].map(RowsMut::into_rows);
            let tokens = out.rows().checked_div(states.len())?;
            let (mut stream, mut rest) = (0, states);
            while let Some((h, after)) = rest.split_first_mut() {
                let rows = stream * tokens..(stream + 1) * tokens;
                let [Some(x), Some(dt), Some(b), Some(c), Some(z)] = all.map(|all| all.some_rows(rows.clone())) else { return None };
                // Before the states of a stream are used up, those of the next are on their way.
                let behind_bytes = if cfg!(feature = "std") { after.first().map_or(0, |behind| h.bytes_to(behind)) } else { 0 };
                (stream, rest) = (stream + 1, after);
                let (mut h, mut y) = (h.reborrow(), out.take_rows(tokens)?);
                let parts = shares(units, team.size()).map(|part| {
                    let range = part.start * unit..channels.min(part.end * unit);
                    let per_head = if heads > 1 { part.start * d_state..part.end * d_state } else { 0..d_state };
                    let scan = kernels::Scan {
                        x: x.columns(range.clone())?,
                        dt: dt.columns(range.clone())?,
                        dt_bias: dt_bias.get(range.clone())?,
                        a: a.columns(range.clone())?,
                        b: b.columns(per_head.clone())?,
                        c: c.columns(per_head)?,
                        d: d.get(range.clone())?,
                        z: if self.z.is_some() { Some(z.columns(range.clone())?) } else { None },
                        heads: if heads > 1 { part.len() } else { 1 },
                        gap,
                        behind_bytes,
                    };
                    Some((scan, h.take_columns(range.len())?, y.take_columns(range.len())?))
                });
                team.share(parts, |(scan, h, y)| kernels.scan(&scan, h, y))?;
            }
            Some(())
        })
    }

    pub(super) fn macs(&self, _: &Artifact<'_>) -> u64 {
        3 * u64::from(self.x.len) * u64::from(self.b.len / self.heads.max(1))
    }
}
