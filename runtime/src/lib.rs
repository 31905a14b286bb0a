//! Brooklet streams quantized recurrent and hybrid models: a token or a sensor frame goes in, an answer comes out, in memory
//! that never grows.
//!
//! The road through this crate:
//!
//! 1. [`Model::from_bytes`] checks a `.brook` file where it lies (flash, or a mapped file): [`artifact`] has the format.
//! 2. [`plan`] says how many bytes a stream's state and a session's scratch take; the caller brings them.
//! 3. [`State`] is one stream's memory; [`Session`] joins a model, a state, scratch and a table of kernels.
//! 4. [`Session::step`] walks the program: one file per operation in [`ops`].
//!
//! ```
//! use brooklet::{Input, Line, Model, Session, State, kernels};
//! # let lines = brooklet::mem::lines_from(include_bytes!("../../examples/models/watch.brook"));
//! # let file = &Line::bytes(&lines)[..include_bytes!("../../examples/models/watch.brook").len()];
//! let model = Model::from_bytes(file)?;
//! let mut state_lines = vec![Line::ZERO; model.state_bytes().div_ceil(64)];
//! let mut scratch_lines = vec![Line::ZERO; model.scratch_bytes(1).div_ceil(64)];
//! let mut state = State::new(&model, Line::bytes_mut(&mut state_lines))?;
//! let mut session = Session::new(&model, kernels::detect(), &mut state, Line::bytes_mut(&mut scratch_lines))?;
//! let logits = session.step(Input::Frame(&[0.1, -0.2, 9.8, 0.0, 0.0, 0.0]))?;
//! assert_eq!(logits.len(), model.outputs());
//! # Ok::<(), brooklet::Error>(())
//! ```
#![no_std]
#![deny(unsafe_code)]
#![warn(missing_docs)]

#[cfg(feature = "alloc")]
extern crate alloc;
#[cfg(any(test, feature = "std"))]
extern crate std;

#[cfg(target_endian = "big")]
compile_error!("Brooklet's files are little-endian and used where they lie: big-endian targets are not supported.");

pub mod artifact;
mod checks;
mod checksum;
mod engine;
mod error;
mod input;
pub mod mem;
mod model;
pub mod ops;
pub mod plan;
mod prepared;
mod selftest;
mod session;
mod snapshot;
mod state;
mod streams;
mod team;

pub use brooklet_kernels as kernels;
pub use error::{Error, HeaderFault, OpFault, SectionFault, SnapshotFault};
pub use input::{Input, softmax};
pub use mem::Line;
#[cfg(feature = "std")]
pub use mem::Pool;
pub use model::Model;
pub use selftest::{fingerprint, self_test};
pub use session::Session;
pub use snapshot::snapshot_bytes;
pub use state::State;
pub use streams::Streams;
pub use team::{Alone, Team};
