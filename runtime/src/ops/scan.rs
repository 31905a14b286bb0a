//! Selective scan (Mamba), one step.

use super::check::{Checker, divide};
use super::run::Batch;
use super::{Access, SlotId, Span, TensorId};
use crate::artifact::Artifact;
use crate::error::OpFault;
use crate::kernels;
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
        checker.numbers(self.state, cells)
    }

    pub(super) fn run(&self, batch: &mut Batch<'_, '_>) -> Option<()> {
        let artifact = batch.artifact;
        let (a, d, dt_bias) = (artifact.array(self.a)?, artifact.array(self.d)?, artifact.array(self.dt_bias)?);
        batch.each_with_state_and_gap(self.state, |kernels, mut frame, h, gap| {
            let heads = self.heads as usize;
            let scan = kernels::Scan { x: &[], dt: &[], dt_bias, a, b: &[], c: &[], d, z: None, heads, gap };
            match self.z {
                Some(z) => {
                    let [x, dt, b, c, z, out] = frame.split([self.x, self.dt, self.b, self.c, z, self.out])?;
                    kernels.scan_step(&kernels::Scan { x, dt, b, c, z: Some(z), ..scan }, h, out);
                }
                None => {
                    let [x, dt, b, c, out] = frame.split([self.x, self.dt, self.b, self.c, self.out])?;
                    kernels.scan_step(&kernels::Scan { x, dt, b, c, ..scan }, h, out);
                }
            }
            Some(())
        })
    }

    pub(super) fn macs(&self, _: &Artifact<'_>) -> u64 {
        3 * u64::from(self.x.len) * u64::from(self.b.len / self.heads.max(1))
    }
}
