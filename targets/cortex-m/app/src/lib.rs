//! A streaming sensor classifier, free of any board.
#![no_std]
#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod replay;

pub use replay::{Fingerprint, Replay};

/// Bytes on the 64-byte boundary that a model's file needs.
#[repr(C, align(64))]
pub struct Aligned<T>(
    /// The bytes.
    pub T,
);
