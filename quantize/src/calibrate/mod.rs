//! Calibration: what each matrix multiplies when the model runs on a stream, collected layer by layer in bounded memory.
//!
//! The road: `stretch` cuts the program where little is alive; each stretch becomes a small model of its own whose input and output are
//! the live values (`small_model`); the ordinary runtime runs it, and `record` sees what its matrices multiply; `walk` goes from
//! stretch to stretch, with the matrices behind it already packed; `parts` keeps packed
//! matrices until the file is whole, and `calibrated` writes it.

mod calibrated;
mod parts;
mod record;
mod small_model;
mod stretch;
mod walk;

pub use calibrated::{CalibrateProgress, Options, suitable_steps, write_calibrated};
pub use parts::Parts;
pub(crate) use walk::mean_squares;
pub use walk::{Target, Visitor, WalkProgress, walk};
