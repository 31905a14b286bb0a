//! What a file is fitted to.

use crate::error::Error;
use crate::graph::{Graph, Output};
use std::path::Path;

/// What the best file is sought under.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Goal {
    /// At most so many bytes, everything included.
    Bytes(u64),
    /// At most so many bytes of flash, with the firmware's code.
    Flash {
        /// All of it.
        bytes: u64,
        /// What the firmware takes besides the file.
        code_bytes: u64,
    },
    /// At most so many bits in the file, everything included, for each number of the checkpoint.
    BitsPerWeight(f64),
    /// The smallest file whose perplexity on the calibration text is at most so many times the float model's.
    PerplexityRatio(f64),
}

impl Goal {
    /// The bytes that the file may take, if the goal says so.
    pub(super) fn limit_bytes(self, graph: &Graph<'_>) -> Option<u64> {
        match self {
            Goal::Bytes(bytes) => Some(bytes),
            Goal::Flash { bytes, code_bytes } => Some(bytes.saturating_sub(code_bytes)),
            Goal::BitsPerWeight(bits) => Some((bits * parameters(graph) as f64 / 8.0) as u64),
            Goal::PerplexityRatio(_) => None,
        }
    }

    /// Refuses what means nothing; `out` is the file that was to be written.
    pub(super) fn check(self, graph: &Graph<'_>, out: &Path) -> Result<(), Error> {
        let problem = match self {
            Goal::BitsPerWeight(bits) if !(bits > 0.0 && bits <= 64.0) => format!("is {bits}, expected bits per weight, such as 4.25"),
            Goal::PerplexityRatio(ratio) if !(ratio > 1.0 && ratio.is_finite()) => {
                format!("is {ratio}, expected a ratio above 1, such as 1.02")
            }
            Goal::PerplexityRatio(_) if !matches!(graph.output, Output::Logits(_)) => {
                "guessing the next token has a perplexity, and this model does not; give a size with --fit, or a bound with --max-kl"
                    .to_owned()
            }
            _ => return Ok(()),
        };
        Err(Error::invalid(out, self.option(), problem))
    }

    /// What was asked for when not even the finest file reaches it.
    pub(super) fn out_of_reach(self, out: &Path) -> Error {
        let problem = "not even every matrix in its finest format stays below it on this text; choose a larger ratio, or --cache f32";
        Error::invalid(out, self.option(), problem)
    }

    /// What was asked for when the stream has nothing that could be foretold.
    pub(super) fn unmeasured(self, out: &Path) -> Error {
        Error::invalid(
            out,
            self.option(),
            "the calibration text has no token behind another, so that there is no perplexity; give a longer one",
        )
    }

    /// The option that sets it, for errors.
    pub(super) fn option(self) -> &'static str {
        match self {
            Goal::Bytes(_) => "option --fit",
            Goal::Flash { .. } => "option --flash",
            Goal::BitsPerWeight(_) => "option --bits",
            Goal::PerplexityRatio(_) => "option --max-ppl-ratio",
        }
    }
}

/// Numbers in the checkpoint's tensors.
pub fn parameters(graph: &Graph<'_>) -> u64 {
    graph.tensors.iter().map(|tensor| tensor.rows as u64 * tensor.cols as u64).sum()
}
