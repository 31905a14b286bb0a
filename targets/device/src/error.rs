//! What can go wrong, and what to do about it.

use core::fmt;

/// An error of a store over a flash whose driver fails with `E`.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum Error<E> {
    /// The flash driver failed. What was valid in flash still is.
    Flash(E),
    /// What was written reads back otherwise: a worn-out block, or a driver that does not write.
    NotWritten,
    /// More bytes than there is room for.
    TooLarge {
        /// What is.
        what: &'static str,
        /// Bytes it needs.
        needed_bytes: u64,
        /// Bytes there are.
        have_bytes: u64,
    },
    /// A download ended before all its bytes came, or brings more than it said.
    DownloadLength {
        /// Bytes that were announced.
        announced_bytes: u32,
        /// Bytes that came.
        got_bytes: u32,
    },
    /// A download whose bytes are not those that were announced.
    DownloadChecksum {
        /// CRC-32 that was announced.
        want: u32,
        /// CRC-32 of what is in flash.
        got: u32,
    },
    /// A download that failed before, or one whose slot runs by now.
    DownloadFailed,
    /// A model is on trial, and the other slot is what to go back to.
    OnTrial,
    /// The downloaded model is refused.
    Refused(ModelFault),
    /// Neither slot holds a model that works here, and there is no built-in one.
    NoModel {
        /// Why each slot is refused; `None` for one that holds nothing.
        slots: [Option<ModelFault>; 2],
        /// Why the built-in one is refused; `None` if there is none.
        built_in: Option<ModelFault>,
    },
}

/// Why a region cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LayoutFault {
    /// It reaches beyond the flash.
    OutOfBounds,
    /// A region or a slot does not start and end with an erase block.
    NotOnEraseBlocks,
    /// A region has no bytes, or a slot not enough for a record.
    TooSmall,
    /// One slot cannot hold the old and the new.
    TooFewSlots,
    /// Two regions share bytes.
    Overlap,
}

/// Why a slot is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Refused {
    /// No valid record, but not blank either: a write was cut short, or the record is damaged.
    Unfinished,
    /// Of a version this build does not read.
    Version {
        /// Its version.
        found: u32,
    },
    /// Of another model.
    OtherModel {
        /// Its model.
        model_hash: u64,
    },
    /// Not as long as a state of the model, or longer than a slot.
    Length {
        /// Bytes it has.
        have_bytes: u32,
    },
    /// Its CRC-32 does not match: bits have changed.
    Damaged,
    /// The driver cannot read it.
    Unreadable,
}

/// Why a model in flash is not run.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum ModelFault {
    /// The flash that holds it is not mapped.
    NotMapped,
    /// It is no whole `.brook` file, does not fit the memory given, or this device does not reproduce its outputs.
    Runtime(brooklet::Error),
    /// A valid file, but not the one that was installed.
    OtherModel,
    /// It was on trial and not confirmed in as many boots as it had.
    NotConfirmed,
    /// It is on trial and this boot could not be counted: the flash does not take the status.
    NotCounted,
}

impl From<brooklet::Error> for ModelFault {
    fn from(error: brooklet::Error) -> Self {
        ModelFault::Runtime(error)
    }
}

impl<E: fmt::Debug> fmt::Display for Error<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Flash(error) => write!(f, "the flash driver failed ({error:?}); what was stored before is still there, try again"),
            Error::NotWritten => {
                write!(f, "flash reads back other bytes than were written; the block is worn out, or the driver does not write")
            }
            Error::TooLarge { what, needed_bytes, have_bytes } => {
                write!(f, "the {what} takes {needed_bytes} bytes and its slot has {have_bytes}; give the region more erase blocks")
            }
            Error::DownloadLength { announced_bytes, got_bytes } => {
                write!(f, "the download has {got_bytes} bytes where {announced_bytes} were announced; begin it again")
            }
            Error::DownloadChecksum { want, got } => {
                write!(f, "the download has CRC-32 {got:08x} where {want:08x} was announced; begin it again")
            }
            Error::DownloadFailed => write!(f, "this download failed before, or its slot is in use by now; begin it again"),
            Error::OnTrial => {
                write!(f, "a model is on trial and the other slot is what to go back to; confirm or reject it before the next download")
            }
            Error::Refused(fault) => write!(f, "the downloaded model is refused: {fault}"),
            Error::NoModel { slots, built_in } => {
                write!(f, "no model to run")?;
                for (slot, fault) in slots.iter().enumerate() {
                    match fault {
                        Some(fault) => write!(f, "; slot {slot}: {fault}")?,
                        None => write!(f, "; slot {slot} is empty")?,
                    }
                }
                match built_in {
                    Some(fault) => write!(f, "; built-in: {fault}"),
                    None => write!(f, "; none is built in"),
                }
            }
        }
    }
}

impl fmt::Display for LayoutFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            LayoutFault::OutOfBounds => "the region reaches beyond the flash",
            LayoutFault::NotOnEraseBlocks => "regions and slots must be whole erase blocks; use multiples of ERASE_SIZE",
            LayoutFault::TooSmall => "the region is too small to hold anything",
            LayoutFault::TooFewSlots => "a ring needs at least two slots: one keeps the old while the other takes the new",
            LayoutFault::Overlap => "two regions share bytes",
        })
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refused::Unfinished => write!(f, "it has no valid record: a write was cut short, or it is damaged"),
            Refused::Version { found } => write!(f, "its version {found} is not one this build reads"),
            Refused::OtherModel { model_hash } => write!(f, "it belongs to model {model_hash:016x}"),
            Refused::Length { have_bytes } => write!(f, "its {have_bytes} bytes are not the model's state"),
            Refused::Damaged => write!(f, "it is damaged (its checksum does not match)"),
            Refused::Unreadable => write!(f, "the flash driver cannot read it"),
        }
    }
}

impl fmt::Display for ModelFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ModelFault::NotMapped => write!(f, "its flash is not mapped into memory; check the MappedFlash"),
            ModelFault::Runtime(error) => write!(f, "{error}"),
            ModelFault::OtherModel => write!(f, "it is not the model that was installed"),
            ModelFault::NotConfirmed => write!(f, "it was not confirmed in as many boots as it had"),
            ModelFault::NotCounted => write!(f, "its trial could not be counted: the flash does not take the status"),
        }
    }
}

impl<E: fmt::Debug> core::error::Error for Error<E> {}
impl core::error::Error for LayoutFault {}
impl core::error::Error for ModelFault {}
