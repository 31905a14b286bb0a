//! A model on its way into a slot: pieces of any length, erased and written as they come.

use crate::error::Error;
use crate::models::ModelStore;
use crate::region::{Region, Word, crc32_of};
use crate::status::Slot;
use embedded_storage::nor_flash::NorFlash;

/// A download into the slot that is not running. Dropping it leaves the running model as it is.
pub struct Download<'s, F: NorFlash> {
    store: &'s mut ModelStore<F>,
    slot: Slot,
    region: Region,
    file_bytes: u32,
    crc32: u32,
    /// Bytes accepted: those in flash, and those in `word`.
    got_bytes: u32,
    /// Bytes of the region that are erased.
    erased_bytes: u32,
    word: Word,
    word_len: usize,
    failed: bool,
}

/// A model that lies in its slot, whole, and is not installed yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Downloaded {
    pub(crate) slot: Slot,
    pub(crate) file_bytes: u32,
}

impl<'s, F: NorFlash> Download<'s, F> {
    pub(crate) fn new(store: &'s mut ModelStore<F>, slot: Slot, region: Region, file_bytes: u32, crc32: u32) -> Self {
        Download { store, slot, region, file_bytes, crc32, got_bytes: 0, erased_bytes: 0, word: Word::ERASED, word_len: 0, failed: false }
    }

    /// Takes the next bytes. Erases a block whenever the bytes reach one: that is the longest a call takes per block.
    pub fn write(&mut self, piece: &[u8]) -> Result<(), Error<F::Error>> {
        if self.failed {
            return Err(Error::DownloadFailed);
        }
        let written = self.write_all(piece);
        self.failed = written.is_err();
        written
    }

    fn write_all(&mut self, mut piece: &[u8]) -> Result<(), Error<F::Error>> {
        let got_bytes = u32::try_from(piece.len()).ok().and_then(|len| self.got_bytes.checked_add(len)).unwrap_or(u32::MAX);
        if got_bytes > self.file_bytes {
            return Err(Error::DownloadLength { announced_bytes: self.file_bytes, got_bytes });
        }
        while !piece.is_empty() {
            if self.word_len == 0 && piece.len() >= F::WRITE_SIZE {
                // Whole words need no copy.
                let at = self.got_bytes;
                self.erase_up_to(at + 1)?;
                let room = (self.erased_bytes - at) as usize;
                let len = (piece.len() - piece.len() % F::WRITE_SIZE).min(room);
                let (words, rest) = piece.split_at(len);
                self.store.flash_mut().write(self.region.start + at, words).map_err(Error::Flash)?;
                self.got_bytes += len as u32;
                piece = rest;
            } else {
                let free = self.word.0.get_mut(self.word_len..F::WRITE_SIZE).unwrap_or_default();
                let (now, rest) = piece.split_at(piece.len().min(free.len()));
                free[..now.len()].copy_from_slice(now);
                self.word_len += now.len();
                self.got_bytes += now.len() as u32;
                piece = rest;
                if self.word_len >= F::WRITE_SIZE {
                    self.flush()?;
                }
            }
        }
        Ok(())
    }

    /// Writes the word that was gathered; its rest is as erased.
    fn flush(&mut self) -> Result<(), Error<F::Error>> {
        let at = self.got_bytes - self.word_len as u32;
        self.erase_up_to(at + 1)?;
        self.store.flash_mut().write(self.region.start + at, &self.word.0[..F::WRITE_SIZE]).map_err(Error::Flash)?;
        self.word = Word::ERASED;
        self.word_len = 0;
        Ok(())
    }

    fn erase_up_to(&mut self, end: u32) -> Result<(), Error<F::Error>> {
        while self.erased_bytes < end {
            let from = self.region.start + self.erased_bytes;
            self.store.flash_mut().erase(from, from + F::ERASE_SIZE as u32).map_err(Error::Flash)?;
            self.erased_bytes += F::ERASE_SIZE as u32;
        }
        Ok(())
    }

    /// Bytes that have come so far.
    pub fn got_bytes(&self) -> u32 {
        self.got_bytes
    }

    /// Ends the download and compares what lies in flash with the CRC-32 announced. [`ModelStore::install`] comes next.
    pub fn finish(mut self) -> Result<Downloaded, Error<F::Error>> {
        if self.failed {
            return Err(Error::DownloadFailed);
        }
        if self.got_bytes != self.file_bytes {
            return Err(Error::DownloadLength { announced_bytes: self.file_bytes, got_bytes: self.got_bytes });
        }
        if self.word_len > 0 {
            self.flush()?;
        }
        let got = crc32_of(self.store.flash_mut(), self.region.start, self.file_bytes).map_err(Error::Flash)?;
        if got != self.crc32 {
            return Err(Error::DownloadChecksum { want: self.crc32, got });
        }
        Ok(Downloaded { slot: self.slot, file_bytes: self.file_bytes })
    }
}
