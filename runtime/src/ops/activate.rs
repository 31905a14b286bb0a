//! Activation functions, element by element.

use super::check::Checker;
use super::run::Batch;
use super::{Access, Span};
use crate::artifact::Artifact;
use crate::error::OpFault;
use crate::kernels::portable::act;
use serde::{Deserialize, Serialize};

/// An activation function. Files store the variant's number: new ones go to the end.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub enum Activation {
    /// `x / (1 + e^-x)`
    Silu,
    /// `1 / (1 + e^-x)`
    Sigmoid,
    /// Hyperbolic tangent.
    Tanh,
    /// `max(x, 0)^2`
    ReluSquared,
    /// `x * Phi(x)`, by the error function.
    Gelu,
    /// GELU by its tanh formula.
    GeluTanh,
    /// `scale * x`
    Scale {
        /// Factor.
        scale: f32,
    },
    /// `cap * tanh(x / cap)`
    SoftCap {
        /// Bound.
        cap: f32,
    },
    /// `max(x, 0)`
    Relu,
    /// `x^2`
    Square,
    /// Square root of `max(x, 0)`.
    Sqrt,
}

/// `x <- f(x)`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Activate<V = Span> {
    /// Function.
    pub f: Activation,
    /// Changed in place.
    pub x: V,
}

impl<V> Activate<V> {
    pub(super) fn map<W>(self, place: &mut impl FnMut(V, Access) -> W) -> Activate<W> {
        Activate { f: self.f, x: place(self.x, Access::Update) }
    }
}

impl Activation {
    /// Refuses parameters that make no number.
    pub(super) fn check(self) -> Result<(), OpFault> {
        match self {
            Activation::Scale { scale } if !scale.is_finite() => Err(OpFault::Value),
            Activation::SoftCap { cap } if !(cap.is_finite() && cap > 0.0) => Err(OpFault::Value),
            _ => Ok(()),
        }
    }

    /// Applies the function in place.
    pub(super) fn apply(self, x: &mut [f32]) {
        match self {
            Activation::Silu => each(x, act::silu),
            Activation::Sigmoid => each(x, act::sigmoid),
            Activation::Tanh => each(x, act::tanh),
            Activation::ReluSquared => each(x, |x| if x > 0.0 { x * x } else { 0.0 }),
            Activation::Gelu => each(x, act::gelu),
            Activation::GeluTanh => each(x, act::gelu_tanh),
            Activation::Scale { scale } => each(x, |x| scale * x),
            Activation::SoftCap { cap } => each(x, |x| cap * act::tanh(x / cap)),
            Activation::Relu => each(x, |x| if x > 0.0 { x } else { 0.0 }),
            Activation::Square => each(x, |x| x * x),
            Activation::Sqrt => each(x, act::sqrt),
        }
    }
}

fn each(x: &mut [f32], f: impl Fn(f32) -> f32) {
    for x in x {
        *x = f(*x);
    }
}

impl Activate {
    pub(super) fn check(&self, _: &mut Checker<'_, '_>) -> Result<(), OpFault> {
        self.f.check()
    }

    pub(super) fn run(&self, batch: &mut Batch<'_, '_>) -> Option<()> {
        batch.each(|_, mut frame, _| {
            self.f.apply(frame.get(self.x)?);
            Some(())
        })
    }

    pub(super) fn macs(&self, _: &Artifact<'_>) -> u64 {
        u64::from(self.x.len)
    }
}
