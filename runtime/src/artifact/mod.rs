//! The `.brook` file: `prelude | postcard header | 64-byte aligned sections`. `docs/artifact-format.md` has every byte.
//!
//! Reader and writer live side by side here, so they cannot drift. The reader takes no memory: tables are decoded where they
//! lie, records that are looked up by number have a fixed size.

mod header;
mod places;
mod read;
mod table;
#[cfg(feature = "alloc")]
mod write;

pub(crate) use header::line_count;
pub use header::{Card, Content, Golden, Header, InputSpec, Keep, OutputSpec, Section, Slot, SlotKind};
pub use places::Places;
pub use read::Artifact;
#[cfg(not(feature = "alloc"))]
pub(crate) use table::Records;
pub use table::{Record, Table};
#[cfg(feature = "alloc")]
pub use write::{SectionSource, write};

/// First four bytes of a file.
pub const MAGIC: [u8; 4] = *b"BROK";
/// Version of the format that this build reads and writes.
pub const VERSION: u32 = 1;
/// Bytes before the header: magic, version, header length, CRC-32 of the header.
pub const PRELUDE_BYTES: usize = 16;
/// Sections start on multiples of this.
pub const SECTION_ALIGN: usize = 64;

/// Most operations in a program.
pub const MAX_OPS: u32 = 1 << 16;
/// Most sections in a file.
pub const MAX_SECTIONS: u32 = 1 << 16;
/// Most state slots.
pub const MAX_SLOTS: u32 = 1 << 14;
/// Most numbers in one token's frame.
pub const MAX_FRAME: u32 = 1 << 24;
/// Most positions in an attention cache.
pub const MAX_CONTEXT: u32 = 1 << 24;
/// Most channels of a sensor frame.
pub const MAX_CHANNELS: usize = 4096;
