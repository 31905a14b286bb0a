//! Sums, products and copies of vectors, and constants.

use super::check::{Checker, divide, finite};
use super::run::Batch;
use super::{Access, Span};
use crate::artifact::Artifact;
use crate::error::OpFault;
use crate::mem::copy;
use serde::{Deserialize, Serialize};

/// An operation that sets `x` from `x` and `y`, element by element.
macro_rules! pairwise {
    ($(#[$doc:meta])* $name:ident, $access:ident, |$kernels:ident, $x:ident, $y:ident| $run:expr) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
        pub struct $name<V = Span> {
            /// Receives the result.
            pub x: V,
            /// As wide.
            pub y: V,
        }

        impl<V> $name<V> {
            pub(super) fn map<W>(self, place: &mut impl FnMut(V, Access) -> W) -> $name<W> {
                $name { x: place(self.x, Access::$access), y: place(self.y, Access::Read) }
            }
        }

        impl $name {
            pub(super) fn check(&self, _: &mut Checker<'_, '_>) -> Result<(), OpFault> {
                if self.x.len == self.y.len { Ok(()) } else { Err(OpFault::Shape) }
            }

            pub(super) fn run(&self, batch: &mut Batch<'_, '_>) -> Option<()> {
                batch.each(|$kernels, mut frame, _| {
                    let [$x, $y] = frame.split([self.x, self.y])?;
                    $run;
                    Some(())
                })
            }

            pub(super) fn macs(&self, _: &Artifact<'_>) -> u64 {
                u64::from(self.x.len)
            }
        }
    };
}

pairwise! {
    /// `x <- silu(x) * y`: the gated MLP, and Mamba-2's gate without a norm.
    SiluMultiply, Update, |kernels, x, y| kernels.silu_multiply(x, y)
}

pairwise! {
    /// `x <- x * y`.
    Multiply, Update, |_kernels, x, y| x.iter_mut().zip(y).for_each(|(x, y)| *x *= *y)
}

pairwise! {
    /// `x <- y`: joins vectors, or keeps one for later.
    Copy, Write, |_kernels, x, y| copy(x, y)?
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
        batch.each(|_, mut frame, _| {
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

/// `x[i] <- x[i] * y[i / (width of x / width of y)]`: a gate per token, or per head.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct ScaleBy<V = Span> {
    /// Changed in place.
    pub x: V,
    /// Divides `x` into as many stretches.
    pub y: V,
}

impl<V> ScaleBy<V> {
    pub(super) fn map<W>(self, place: &mut impl FnMut(V, Access) -> W) -> ScaleBy<W> {
        ScaleBy { x: place(self.x, Access::Update), y: place(self.y, Access::Read) }
    }
}

impl ScaleBy {
    pub(super) fn check(&self, _: &mut Checker<'_, '_>) -> Result<(), OpFault> {
        divide(self.x.len, self.y.len).map(|_| ())
    }

    pub(super) fn run(&self, batch: &mut Batch<'_, '_>) -> Option<()> {
        let width = (self.x.len / self.y.len.max(1)).max(1) as usize;
        batch.each(|_, mut frame, _| {
            let [x, y] = frame.split([self.x, self.y])?;
            let mut y = y.iter();
            for x in x.chunks_exact_mut(width) {
                let y = y.next()?;
                x.iter_mut().for_each(|x| *x *= *y);
            }
            Some(())
        })
    }

    pub(super) fn macs(&self, _: &Artifact<'_>) -> u64 {
        u64::from(self.x.len)
    }
}

/// `out <- value`: zeros at the edge of what a convolution sees.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Fill<V = Span> {
    /// What every number becomes.
    pub value: f32,
    /// Filled.
    pub out: V,
}

impl<V> Fill<V> {
    pub(super) fn map<W>(self, place: &mut impl FnMut(V, Access) -> W) -> Fill<W> {
        Fill { value: self.value, out: place(self.out, Access::Write) }
    }
}

impl Fill {
    pub(super) fn check(&self, _: &mut Checker<'_, '_>) -> Result<(), OpFault> {
        finite(self.value)
    }

    pub(super) fn run(&self, batch: &mut Batch<'_, '_>) -> Option<()> {
        batch.each(|_, mut frame, _| {
            frame.get(self.out)?.fill(self.value);
            Some(())
        })
    }

    pub(super) fn macs(&self, _: &Artifact<'_>) -> u64 {
        0
    }
}
