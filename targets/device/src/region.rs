//! Places in flash, and reads and writes of any length in a flash that knows whole words alone.

use crate::error::LayoutFault;
use embedded_storage::nor_flash::{NorFlash, ReadNorFlash};

/// Largest word (the bytes a driver reads or writes at once) that is supported.
pub const MOST_WORD_BYTES: usize = 64;

/// A part of a flash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Region {
    /// Its first byte, counted from the flash's start.
    pub start: u32,
    /// Its bytes.
    pub len_bytes: u32,
}

impl Region {
    /// `len_bytes` from `start`; both whole erase blocks.
    pub const fn new(start: u32, len_bytes: u32) -> Self {
        Region { start, len_bytes }
    }

    /// Checks that the region lies in `flash` and on its erase blocks.
    pub(crate) fn check<F: NorFlash>(self, flash: &F) -> Result<(), LayoutFault> {
        const { check_geometry::<F>() };
        let end = self.start.checked_add(self.len_bytes).ok_or(LayoutFault::OutOfBounds)?;
        if end as usize > flash.capacity() {
            return Err(LayoutFault::OutOfBounds);
        }
        if !(self.start as usize).is_multiple_of(F::ERASE_SIZE) || !(self.len_bytes as usize).is_multiple_of(F::ERASE_SIZE) {
            return Err(LayoutFault::NotOnEraseBlocks);
        }
        if self.len_bytes == 0 { Err(LayoutFault::TooSmall) } else { Ok(()) }
    }

    pub(crate) fn overlaps(self, other: Region) -> bool {
        let end = |r: Region| u64::from(r.start) + u64::from(r.len_bytes);
        u64::from(self.start) < end(other) && u64::from(other.start) < end(self)
    }
}

/// Flash that the processor reads like memory: models run from where they lie.
///
/// A driver's `&mut` handle writes; this one reads, of the region asked for alone. While a model runs from one region, the store
/// writes to the other. On a device it is a type without fields around the address where the flash begins:
///
/// ```
/// use brooklet_device::{MappedFlash, Region};
///
/// struct Mapped(&'static [u8]); // On a device: made from an address, in one `unsafe` line.
///
/// impl MappedFlash for Mapped {
///     fn bytes_of(&self, region: Region) -> Option<&[u8]> {
///         self.0.get(region.start as usize..)?.get(..region.len_bytes as usize)
///     }
/// }
/// ```
///
/// If reads go through a cache, `bytes_of` must show what was written last: invalidate the cache here, or in the driver.
pub trait MappedFlash {
    /// The bytes of `region`; `None` if it is not mapped.
    fn bytes_of(&self, region: Region) -> Option<&[u8]>;
}

impl MappedFlash for [u8] {
    fn bytes_of(&self, region: Region) -> Option<&[u8]> {
        self.get(region.start as usize..)?.get(..region.len_bytes as usize)
    }
}

/// Refuses, when the program is compiled, drivers whose sizes do not fit into each other.
pub(crate) const fn check_geometry<F: NorFlash>() {
    assert!(F::WRITE_SIZE.is_power_of_two() && F::WRITE_SIZE <= MOST_WORD_BYTES, "WRITE_SIZE must be a power of two up to 64");
    assert!(F::READ_SIZE.is_power_of_two() && F::READ_SIZE <= MOST_WORD_BYTES, "READ_SIZE must be a power of two up to 64");
    assert!(F::ERASE_SIZE > 0 && F::ERASE_SIZE.is_multiple_of(F::WRITE_SIZE), "ERASE_SIZE must be a multiple of WRITE_SIZE");
    assert!(F::ERASE_SIZE.is_multiple_of(F::READ_SIZE), "ERASE_SIZE must be a multiple of READ_SIZE");
}

/// One word. Some drivers hand it to a DMA unit, so it is aligned.
#[repr(C, align(16))]
pub(crate) struct Word(pub(crate) [u8; MOST_WORD_BYTES]);

impl Word {
    /// As erased flash reads.
    pub(crate) const ERASED: Word = Word([0xff; MOST_WORD_BYTES]);
}

/// Reads `bytes` from `at`, which must be the start of a word.
pub(crate) fn read<F: ReadNorFlash>(flash: &mut F, at: u32, bytes: &mut [u8]) -> Result<(), F::Error> {
    let whole_bytes = bytes.len() - bytes.len() % F::READ_SIZE;
    let (whole, rest) = bytes.split_at_mut(whole_bytes);
    if !whole.is_empty() {
        flash.read(at, whole)?;
    }
    if !rest.is_empty() {
        let mut word = Word::ERASED;
        flash.read(at + whole_bytes as u32, &mut word.0[..F::READ_SIZE])?;
        rest.copy_from_slice(&word.0[..rest.len()]);
    }
    Ok(())
}

/// Writes `bytes` to `at`, which must be the start of a word; the last word is filled up as erased flash reads.
pub(crate) fn write<F: NorFlash>(flash: &mut F, at: u32, bytes: &[u8]) -> Result<(), F::Error> {
    let whole_bytes = bytes.len() - bytes.len() % F::WRITE_SIZE;
    let (whole, rest) = bytes.split_at(whole_bytes);
    if !whole.is_empty() {
        flash.write(at, whole)?;
    }
    if !rest.is_empty() {
        let mut word = Word::ERASED;
        word.0[..rest.len()].copy_from_slice(rest);
        flash.write(at + whole_bytes as u32, &word.0[..F::WRITE_SIZE])?;
    }
    Ok(())
}

/// CRC-32 of `len_bytes` bytes from `at`, the start of a word.
pub(crate) fn crc32_of<F: ReadNorFlash>(flash: &mut F, at: u32, len_bytes: u32) -> Result<u32, F::Error> {
    let mut crc = crc32fast::Hasher::new();
    let mut word = Word::ERASED;
    let mut done = 0;
    while done < len_bytes {
        let piece = &mut word.0[..((len_bytes - done) as usize).min(MOST_WORD_BYTES)];
        read(flash, at + done, piece)?;
        crc.update(piece);
        done += piece.len() as u32;
    }
    Ok(crc.finalize())
}
