//! Falcon-Mamba (`model_type` "falcon_mamba"): Mamba with weightless norms of the low-rank step size, B and C in every mixer.

use super::mamba::build_with;
use super::mixer::StepNorms;
use crate::checkpoint::Checkpoint;
use crate::error::Error;
use crate::graph::Graph;

pub(super) fn build(checkpoint: &Checkpoint) -> Result<Graph<'_>, Error> {
    let eps = checkpoint.config.number_or("mixer_rms_eps", 1e-6)? as f32;
    build_with(checkpoint, StepNorms::Weightless(eps))
}
