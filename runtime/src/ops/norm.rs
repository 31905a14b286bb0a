//! Norms, with the gate of Mamba-2.

use super::check::{Checker, divide, finite};
use super::run::Batch;
use super::{Access, Span, TensorId};
use crate::artifact::Artifact;
use crate::error::OpFault;
use crate::kernels;
#[cfg(feature = "std")]
use crate::kernels::{Rows, RowsMut};
use crate::mem::copy;
use serde::{Deserialize, Serialize};

/// Which statistics a norm divides by. Files store the variant's number: new ones go to the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum NormKind {
    /// `x / sqrt(mean(x^2) + eps)`
    Rms,
    /// `(x - mean(x)) / sqrt(variance(x) + eps)`
    Layer,
    /// `x / (sqrt(mean(x^2)) + eps)`
    RmsEpsOutside,
}

/// A gate on a norm: multiplies by `silu(z)`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Gate<V = Span> {
    /// As wide as the norm.
    pub z: V,
    /// Whether it comes before the norm (Mamba-2's default) or after.
    pub first: bool,
}

/// Root-mean-square or layer norm over groups of a vector.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Norm<V = Span> {
    /// Statistics.
    pub kind: NormKind,
    /// Input.
    pub x: V,
    /// Output: may be the input.
    pub out: V,
    /// Array as wide as the input.
    pub weight: Option<TensorId>,
    /// Array as wide as the input.
    pub bias: Option<TensorId>,
    /// Gate.
    pub gate: Option<Gate<V>>,
    /// Groups normalised on their own.
    pub groups: u32,
    /// Added to the mean square.
    pub eps: f32,
}

impl<V> Norm<V> {
    pub(super) fn map<W>(self, place: &mut impl FnMut(V, Access) -> W) -> Norm<W> {
        Norm {
            kind: self.kind,
            x: place(self.x, Access::Read),
            out: place(self.out, Access::Write),
            weight: self.weight,
            bias: self.bias,
            gate: self.gate.map(|g| Gate { z: place(g.z, Access::Read), first: g.first }),
            groups: self.groups,
            eps: self.eps,
        }
    }
}

#[cfg(feature = "std")]
fn some_rows(rows: RowsMut<'_>) -> Option<Rows<'_>> {
    (rows.width() > 0).then(|| rows.into_rows())
}

impl Norm {
    pub(super) fn check(&self, checker: &mut Checker<'_, '_>) -> Result<(), OpFault> {
        let width = self.x.len;
        checker.maybe_array(self.weight, width)?;
        checker.maybe_array(self.bias, width)?;
        divide(width, self.groups)?;
        finite(self.eps)?;
        let gate_fits = self.gate.is_none_or(|g| g.z.len == width && g.z != self.out && g.z != self.x);
        if self.out.len == width && gate_fits && self.eps >= 0.0 { Ok(()) } else { Err(OpFault::Shape) }
    }

    pub(super) fn run(&self, batch: &mut Batch<'_, '_>) -> Option<()> {
        let norm = kernels::Norm {
            kind: match self.kind {
                NormKind::Rms => kernels::NormKind::Rms,
                NormKind::Layer => kernels::NormKind::Layer,
                NormKind::RmsEpsOutside => kernels::NormKind::RmsEpsOutside,
            },
            weight: Batch::maybe_array(batch.tensors, self.weight)?,
            bias: Batch::maybe_array(batch.tensors, self.bias)?,
            groups: self.groups as usize,
            eps: self.eps,
            gate: None,
            gate_first: self.gate.is_some_and(|g| g.first),
        };
        #[cfg(feature = "std")]
        if batch.rows() > 1 {
            return batch.each_part(|kernels, frames, _| {
                // What is not there is an empty operand.
                let x = if self.x != self.out { self.x.range() } else { 0..0 };
                let gate = self.gate.map_or(0..0, |gate| gate.z.range());
                let [x, gate, out] = frames.columns([x, gate, self.out.range()])?;
                kernels.norm_rows(&norm, some_rows(x), some_rows(gate), out);
                Some(())
            });
        }
        batch.each(|kernels, mut frame, _| {
            if self.x != self.out {
                let [x, out] = frame.split([self.x, self.out])?;
                copy(out, x)?;
            }
            match self.gate {
                Some(gate) => {
                    let [out, z] = frame.split([self.out, gate.z])?;
                    kernels.norm(&kernels::Norm { gate: Some(z), ..norm }, out);
                }
                None => kernels.norm(&norm, frame.get(self.out)?),
            }
            Some(())
        })
    }

    pub(super) fn macs(&self, _: &Artifact<'_>) -> u64 {
        2 * u64::from(self.x.len)
    }
}
