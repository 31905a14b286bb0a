//! Sensor input: `out = (sample - mean) * inv_std`, per channel.

use super::check::Checker;
use super::run::{Batch, Inputs};
use super::{Access, Span, TensorId};
use crate::artifact::{Artifact, InputSpec, line_count};
use crate::error::OpFault;
use serde::{Deserialize, Serialize};

/// A sensor frame, normalised.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Frame<V = Span> {
    /// Array (channels).
    pub mean: TensorId,
    /// Array (channels): one over the standard deviation.
    pub inv_std: TensorId,
    /// (channels)
    pub out: V,
}

impl<V> Frame<V> {
    pub(super) fn map<W>(self, place: &mut impl FnMut(V, Access) -> W) -> Frame<W> {
        Frame { mean: self.mean, inv_std: self.inv_std, out: place(self.out, Access::Write) }
    }
}

impl Frame {
    pub(super) fn check(&self, checker: &mut Checker<'_, '_>) -> Result<(), OpFault> {
        checker.array(self.mean, self.out.len)?;
        checker.array(self.inv_std, self.out.len)?;
        match checker.artifact().header().input {
            InputSpec::Frames { channels, .. } if line_count(channels) as u64 == u64::from(self.out.len) => Ok(()),
            _ => Err(OpFault::Shape),
        }
    }

    pub(super) fn run(&self, batch: &mut Batch<'_, '_>) -> Option<()> {
        let (mean, inv_std) = (batch.tensors.array(self.mean)?, batch.tensors.array(self.inv_std)?);
        match batch.inputs {
            Inputs::Frames(samples) => self.normalise(batch, samples, mean, inv_std, |x| x),
            Inputs::StoredFrames(samples) => self.normalise(batch, samples, mean, inv_std, f32::from_le_bytes),
            Inputs::Tokens(_) => None,
        }
    }

    fn normalise<T: Copy + Sync>(
        &self,
        batch: &mut Batch<'_, '_>,
        samples: &[T],
        mean: &[f32],
        inv_std: &[f32],
        number: impl Fn(T) -> f32 + Sync,
    ) -> Option<()> {
        let channels = mean.len();
        batch.each(|_, mut frame, row| {
            let sample = samples.get(row.checked_mul(channels)?..)?.get(..channels)?;
            for (((out, &x), mean), inv_std) in frame.get(self.out)?.iter_mut().zip(sample).zip(mean).zip(inv_std) {
                *out = (number(x) - mean) * inv_std;
            }
            Some(())
        })
    }

    pub(super) fn macs(&self, _: &Artifact<'_>) -> u64 {
        u64::from(self.out.len)
    }
}
