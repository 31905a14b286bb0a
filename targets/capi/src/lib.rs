//! Brooklet for C and C++: one library, one header (`include/brooklet.h`, generated from this crate).
//!
//! The caller owns all memory: there is no heap and no global. A `brooklet_model` is a checked file, a `brooklet_stream` one
//! stream over it; both are plain structs of fixed size that the caller places where it likes. Every function checks what can
//! be checked of its pointers and answers with a [`Status`].
//!
//! - [`model`]: open a file, ask what it takes and gives;
//! - [`stream`]: init, step, reset, save, load;
//! - [`status`]: the error codes and their texts.
//!
//! Without the operating system: `--no-default-features --features panic-handler`.
#![no_std]
#![warn(missing_docs)]

#[cfg(feature = "std")]
extern crate std;

pub mod model;
#[cfg(all(feature = "panic-handler", not(feature = "std")))]
mod panic;
mod pointers;
pub mod status;
pub mod stream;

pub use status::Status;
