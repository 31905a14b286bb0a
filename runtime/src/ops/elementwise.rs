//! Sums and gated products of vectors.

use super::check::{Checker, finite};
use super::run::Batch;
use super::{Access, Span};
use crate::artifact::Artifact;
use crate::error::OpFault;
use serde::{Deserialize, Serialize};

/// `x <- silu(x) * y`: the gated MLP, and Mamba-2's gate without a norm.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct SiluMultiply<V = Span> {
    /// Goes through SiLU, receives the product.
    pub x: V,
    /// As wide.
    pub y: V,
}

impl<V> SiluMultiply<V> {
    pub(super) fn map<W>(self, place: &mut impl FnMut(V, Access) -> W) -> SiluMultiply<W> {
        SiluMultiply { x: place(self.x, Access::Update), y: place(self.y, Access::Read) }
    }
}

impl SiluMultiply {
    pub(super) fn check(&self, _: &mut Checker<'_, '_>) -> Result<(), OpFault> {
        if self.x.len == self.y.len { Ok(()) } else { Err(OpFault::Shape) }
    }

    pub(super) fn run(&self, batch: &mut Batch<'_, '_>) -> Option<()> {
        batch.each(|kernels, mut frame| {
            let [x, y] = frame.split([self.x, self.y])?;
            kernels.silu_multiply(x, y);
            Some(())
        })
    }

    pub(super) fn macs(&self, _: &Artifact<'_>) -> u64 {
        u64::from(self.x.len)
    }
}

/// `x <- x + scale * y`: the residual.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Add<V = Span> {
    /// Receives the sum.
    pub x: V,
    /// As wide.
    pub y: V,
    /// Factor of `y`.
    pub scale: f32,
}

impl<V> Add<V> {
    pub(super) fn map<W>(self, place: &mut impl FnMut(V, Access) -> W) -> Add<W> {
        Add { x: place(self.x, Access::Update), y: place(self.y, Access::Read), scale: self.scale }
    }
}

impl Add {
    pub(super) fn check(&self, _: &mut Checker<'_, '_>) -> Result<(), OpFault> {
        finite(self.scale)?;
        if self.x.len == self.y.len { Ok(()) } else { Err(OpFault::Shape) }
    }

    pub(super) fn run(&self, batch: &mut Batch<'_, '_>) -> Option<()> {
        batch.each(|_, mut frame| {
            let [x, y] = frame.split([self.x, self.y])?;
            for (x, y) in x.iter_mut().zip(y) {
                *x += self.scale * *y;
            }
            Some(())
        })
    }

    pub(super) fn macs(&self, _: &Artifact<'_>) -> u64 {
        u64::from(self.x.len)
    }
}
