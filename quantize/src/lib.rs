//! Brooklet's quantizer: from an ordinary checkpoint to one `.brook` file.
//!
//! The road: [`checkpoint`] reads names and bytes, [`families`] turns a config into a [`graph`] of the runtime's operations,
//! [`methods`] chooses codes and scales for each matrix, [`lower`] lays operands, state and sections out and writes the file.
//! [`passes`] turn a graph into one that loses less when it is rounded. [`allocate`] chooses a format for each matrix under a budget;
//! [`fit`] keeps matrices finer until the file's answers are as close to the float model's as was asked.
//! Model families are known here and nowhere else.

pub mod allocate;
pub mod calibrate;
pub mod checkpoint;
mod destination;
mod error;
pub mod families;
pub mod fit;
pub mod graph;
pub mod lower;
pub mod methods;
pub mod passes;
mod recipe;
pub mod report;
pub mod shapes;

pub use checkpoint::Checkpoint;
pub use destination::{Destination, remove_unfinished};
pub use error::Error;
pub use lower::{Progress, Report, TensorReport, quantize};
pub use recipe::{Cache, CacheFormat, Recipe, StateFormat};
