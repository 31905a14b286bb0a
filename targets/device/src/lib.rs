//! What a device needs around the runtime: streams and models kept in NOR flash across power cuts, a boot that proves itself,
//! models that change while they run, and a watch over the numbers.
//!
//! - [`SnapshotStore`] saves a stream and restores it. Power may go at any time.
//! - [`ModelStore`] keeps two models, changes from one to the other, and takes a bad one back.
//! - [`wake`] gives a stream to continue with after a boot or a change: restored, handed on, or warmed up from [`Recent`] frames.
//! - [`Health`] counts what goes wrong and says what to do.
//!
//! A boot is two calls, [`ModelStore::boot`] and [`wake`]; `examples/06_flash.rs` has them all. `docs/firmware-flash.md` has
//! sizes, lifetimes, and what is guaranteed.
//!
//! Flash is anything that implements `embedded_storage::nor_flash::NorFlash`: the drivers of most hardware crates do. Nothing here
//! takes memory; the largest buffer on the stack is one word of the flash, 64 bytes.
#![no_std]
#![forbid(unsafe_code)]
#![warn(missing_docs)]

#[cfg(test)]
extern crate std;

mod download;
mod error;
mod health;
mod models;
mod recent;
mod record;
mod region;
mod ring;
mod snapshots;
mod status;
mod wake;

pub use download::{Download, Downloaded};
pub use embedded_storage;
pub use error::{Error, LayoutFault, ModelFault, Refused};
pub use health::{Counters, Fault, Healed, Health, Limits, Remedy, Verdict};
pub use models::{Bench, Booted, ModelLayout, ModelStore, Source};
pub use recent::Recent;
pub use record::Record;
pub use region::{MOST_WORD_BYTES, MappedFlash, Region};
pub use snapshots::{Refusal, Restored, Saved, SnapshotStore};
pub use status::Slot;
pub use wake::{Way, Woken, wake};
