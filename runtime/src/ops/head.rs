//! The outputs: `scale * (w * x + bias)`, of the last token of a batch.

use super::check::{Checker, finite};
use super::linear::multiply;
use super::run::Batch;
use super::{Access, Span, TensorId};
use crate::artifact::{Artifact, OutputSpec};
use crate::error::OpFault;
use serde::{Deserialize, Serialize};

/// The outputs: always the last operation.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Head<V = Span> {
    /// Matrix (outputs, d_model).
    pub w: TensorId,
    /// Array (outputs).
    pub bias: Option<TensorId>,
    /// (d_model)
    pub x: V,
    /// Factor of every output.
    pub scale: f32,
}

impl<V> Head<V> {
    pub(super) fn map<W>(self, place: &mut impl FnMut(V, Access) -> W) -> Head<W> {
        Head { w: self.w, bias: self.bias, x: place(self.x, Access::Read), scale: self.scale }
    }
}

impl Head {
    pub(super) fn check(&self, checker: &mut Checker<'_, '_>) -> Result<(), OpFault> {
        finite(self.scale)?;
        let outputs = match checker.artifact().header().output {
            OutputSpec::Logits { count } => count,
            OutputSpec::Classes { names } | OutputSpec::Values { names, .. } => {
                u32::try_from(names.lines().count()).map_err(|_| OpFault::Shape)?
            }
        };
        checker.matrix(self.w, outputs, self.x.len)?;
        checker.maybe_array(self.bias, outputs)
    }

    pub(super) fn run(&self, batch: &mut Batch<'_, '_>) -> Option<()> {
        let last = batch.tokens.checked_sub(1)?;
        self.run_on(batch, last)
    }

    /// The outputs of token `token` of the batch.
    pub(crate) fn run_on(&self, batch: &mut Batch<'_, '_>, token: usize) -> Option<()> {
        let bias = Batch::maybe_array(batch.artifact, self.bias)?;
        multiply(batch, self.w, self.x, token, 1, None)?;
        for (out, bias) in batch.output.iter_mut().zip(bias.unwrap_or_default()) {
            *out += bias;
        }
        for out in batch.output.iter_mut() {
            *out *= self.scale;
        }
        Some(())
    }

    pub(super) fn macs(&self, artifact: &Artifact<'_>) -> u64 {
        let rows = artifact.section(self.w).map_or(0, |s| s.rows);
        u64::from(self.x.len) * u64::from(rows)
    }
}
