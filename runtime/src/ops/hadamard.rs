//! Walsh-Hadamard transform of a vector, block by block, so that a few large numbers do not spoil the rounding of their
//! neighbours. The matrix behind it undoes it.

use super::check::{Checker, divide, finite};
use super::run::Batch;
use super::{Access, Span};
use crate::artifact::Artifact;
use crate::error::OpFault;
use serde::{Deserialize, Serialize};

/// `x <- scale * H * x` for each block of `x`.
///
/// H(i, j) is -1 where `i & j` has an odd number of ones, else 1. With `scale` = 1 / sqrt(block) the transform is its own inverse.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Hadamard<V = Span> {
    /// Changed in place.
    pub x: V,
    /// Numbers of a block, a power of two that divides `x`.
    pub block: u32,
    /// Factor of every number.
    pub scale: f32,
}

impl<V> Hadamard<V> {
    pub(super) fn map<W>(self, place: &mut impl FnMut(V, Access) -> W) -> Hadamard<W> {
        Hadamard { x: place(self.x, Access::Update), block: self.block, scale: self.scale }
    }
}

impl Hadamard {
    pub(super) fn check(&self, _: &mut Checker<'_, '_>) -> Result<(), OpFault> {
        if !cfg!(feature = "hadamard") {
            return Err(OpFault::LeftOut);
        }
        finite(self.scale)?;
        if !self.block.is_power_of_two() {
            return Err(OpFault::Value);
        }
        divide(self.x.len, self.block).map(|_| ())
    }

    #[cfg(feature = "hadamard")]
    pub(super) fn run(&self, batch: &mut Batch<'_, '_>) -> Option<()> {
        batch.each(|kernels, mut frame, _| {
            kernels.hadamard(frame.get(self.x)?, self.block as usize, self.scale);
            Some(())
        })
    }

    #[cfg(not(feature = "hadamard"))]
    pub(super) fn run(&self, _: &mut Batch<'_, '_>) -> Option<()> {
        None
    }

    pub(super) fn macs(&self, _: &Artifact<'_>) -> u64 {
        u64::from(self.x.len) * u64::from(self.block.max(1).ilog2())
    }
}
