//! Slots in a ring: each write goes to a slot that does not hold the newest valid body, and its record is written last.
//!
//! A write erases a slot, writes the body, reads it back, then writes the record. Whenever power goes, the newest body that was
//! complete before is untouched. Nothing but what failed is kept in memory: every write looks at the flash first.

use crate::error::{Error, LayoutFault, Refused};
use crate::record::{RECORD_BYTES, Record};
use crate::region::{Region, crc32_of, read, write};
use embedded_storage::nor_flash::NorFlash;

/// Where slots lie.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ring {
    magic: [u8; 4],
    start: u32,
    slot_bytes: u32,
    slots: u32,
    /// Slots whose writes failed since power-on, one bit each (beyond 64, shared): a bad block must not be chosen for ever.
    failed: u64,
}

/// What the next write will do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Turn {
    pub(crate) slot: u32,
    pub(crate) sequence: u64,
    pub(crate) erases: u32,
}

/// What a body belongs to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Owner {
    pub(crate) model_hash: u64,
    pub(crate) position: u64,
}

impl Ring {
    /// Divides `region` of `flash` into `slots` slots.
    pub(crate) fn new<F: NorFlash>(flash: &F, region: Region, slots: u32, magic: [u8; 4]) -> Result<Self, LayoutFault> {
        region.check(flash)?;
        if slots < 2 {
            return Err(LayoutFault::TooFewSlots);
        }
        let slot_bytes = region.len_bytes / slots;
        if !(slot_bytes as usize).is_multiple_of(F::ERASE_SIZE) || !region.len_bytes.is_multiple_of(slots) {
            return Err(LayoutFault::NotOnEraseBlocks);
        }
        if (slot_bytes as usize) < Self::record_bytes::<F>() {
            return Err(LayoutFault::TooSmall);
        }
        Ok(Ring { magic, start: region.start, slot_bytes, slots, failed: 0 })
    }

    /// Bytes before a body.
    pub(crate) fn record_bytes<F: NorFlash>() -> usize {
        RECORD_BYTES.next_multiple_of(F::WRITE_SIZE).next_multiple_of(F::READ_SIZE)
    }

    /// Bytes that a body may have.
    pub(crate) fn body_capacity_bytes<F: NorFlash>(&self) -> usize {
        self.slot_bytes as usize - Self::record_bytes::<F>()
    }

    pub(crate) fn slots(&self) -> u32 {
        self.slots
    }

    fn at(&self, slot: u32) -> u32 {
        self.start + slot * self.slot_bytes
    }

    fn body_at<F: NorFlash>(&self, slot: u32) -> u32 {
        self.at(slot) + Self::record_bytes::<F>() as u32
    }

    /// The record of a slot; `None` if it has none and never began to.
    pub(crate) fn record<F: NorFlash>(&self, flash: &mut F, slot: u32) -> Result<Option<Record>, Refused> {
        let mut bytes = [0; RECORD_BYTES];
        read(flash, self.at(slot), &mut bytes).map_err(|_| Refused::Unreadable)?;
        let record = Record::decode(&bytes, self.magic)?;
        match record {
            Some(r) if r.body_bytes as usize > self.body_capacity_bytes::<F>() => Err(Refused::Length { have_bytes: r.body_bytes }),
            _ => Ok(record),
        }
    }

    /// Checks a slot's body against its record.
    pub(crate) fn check_body<F: NorFlash>(&self, flash: &mut F, slot: u32, record: &Record) -> Result<(), Refused> {
        let crc32 = crc32_of(flash, self.body_at::<F>(slot), record.body_bytes).map_err(|_| Refused::Unreadable)?;
        if crc32 == record.body_crc32 { Ok(()) } else { Err(Refused::Damaged) }
    }

    /// Reads a slot's body into `body`, which has its length, and checks it.
    pub(crate) fn read_body<F: NorFlash>(&self, flash: &mut F, slot: u32, record: &Record, body: &mut [u8]) -> Result<(), Refused> {
        read(flash, self.body_at::<F>(slot), body).map_err(|_| Refused::Unreadable)?;
        if crc32fast::hash(body) == record.body_crc32 { Ok(()) } else { Err(Refused::Damaged) }
    }

    /// The readable record with the highest sequence below `below` (any, if `None`).
    pub(crate) fn newest_below<F: NorFlash>(&self, flash: &mut F, below: Option<u64>) -> Option<(u32, Record)> {
        (0..self.slots)
            .filter_map(|slot| Some((slot, self.record(flash, slot).ok()??)))
            .filter(|(_, record)| below.is_none_or(|below| record.sequence < below))
            .max_by_key(|(_, record)| record.sequence)
    }

    /// The newest slot of those `wanted` whose body is whole.
    pub(crate) fn newest_valid<F: NorFlash>(&self, flash: &mut F, wanted: impl Fn(&Record) -> bool) -> Option<(u32, Record)> {
        let mut below = None;
        loop {
            let (slot, record) = self.newest_below(flash, below)?;
            if wanted(&record) && self.check_body(flash, slot, &record).is_ok() {
                return Some((slot, record));
            }
            below = Some(record.sequence);
        }
    }

    /// Where the next write goes: the slot that holds nothing, or else the oldest, never the newest valid one of those to `keep`.
    pub(crate) fn turn<F: NorFlash>(&mut self, flash: &mut F, keep: impl Fn(&Record) -> bool) -> Turn {
        let latest = self.newest_below(flash, None);
        let kept = self.newest_valid(flash, keep).map(|(slot, _)| slot);
        let behind = latest.map_or(0, |(slot, _)| slot + 1);
        if (0..self.slots).all(|slot| Some(slot) == kept || self.failed & bit(slot) != 0) {
            // All have failed: again from the start.
            self.failed = 0;
        }
        let mut most_erases = 0;
        let mut oldest = None;
        for i in 0..self.slots {
            let slot = behind.wrapping_add(i).checked_rem(self.slots).unwrap_or(0);
            let record = self.record(flash, slot);
            let (sequence, erases) = record.ok().flatten().map_or((0, 0), |r| (r.sequence, r.erases));
            most_erases = most_erases.max(erases);
            let may_be = Some(slot) != kept && self.failed & bit(slot) == 0;
            if may_be && oldest.is_none_or(|(_, s, _)| sequence < s) {
                oldest = Some((slot, sequence, record));
            }
        }
        let (slot, _, record) = oldest.unwrap_or((0, 0, Ok(None)));
        let erases = match record {
            Ok(Some(record)) => record.erases,
            // Slots take turns: one that is due was erased once less than those before it.
            Ok(None) => most_erases.saturating_sub(1),
            // Its last erase came to nothing.
            Err(_) => most_erases,
        };
        Turn { slot, sequence: latest.map_or(1, |(_, record)| record.sequence.saturating_add(1)), erases: erases.saturating_add(1) }
    }

    /// Erases the slot whose turn it is.
    pub(crate) fn erase<F: NorFlash>(&mut self, flash: &mut F, turn: Turn) -> Result<(), Error<F::Error>> {
        let at = self.at(turn.slot);
        flash.erase(at, at + self.slot_bytes).map_err(|error| {
            self.failed |= bit(turn.slot);
            Error::Flash(error)
        })
    }

    /// Writes `body`, which [`Ring::check_fits`] let pass, and its record to the erased slot whose turn it is.
    pub(crate) fn fill<F: NorFlash>(&mut self, flash: &mut F, turn: Turn, owner: Owner, body: &[u8]) -> Result<Record, Error<F::Error>> {
        let record = Record {
            sequence: turn.sequence,
            model_hash: owner.model_hash,
            position: owner.position,
            body_bytes: body.len() as u32,
            erases: turn.erases,
            body_crc32: crc32fast::hash(body),
        };
        let written = self.write_all(flash, turn.slot, &record, body);
        if written.is_err() {
            self.failed |= bit(turn.slot);
        }
        written.map(|()| record)
    }

    /// Refuses bodies that no slot can hold.
    pub(crate) fn check_fits<F: NorFlash>(&self, what: &'static str, body_bytes: usize) -> Result<(), Error<F::Error>> {
        let have_bytes = self.body_capacity_bytes::<F>() as u64;
        let needed_bytes = body_bytes as u64;
        if needed_bytes > have_bytes { Err(Error::TooLarge { what, needed_bytes, have_bytes }) } else { Ok(()) }
    }

    fn write_all<F: NorFlash>(&self, flash: &mut F, slot: u32, record: &Record, body: &[u8]) -> Result<(), Error<F::Error>> {
        write(flash, self.body_at::<F>(slot), body).map_err(Error::Flash)?;
        self.check_body(flash, slot, record).map_err(|_| Error::NotWritten)?;
        write(flash, self.at(slot), &record.encode(self.magic)).map_err(Error::Flash)?;
        if self.record(flash, slot) == Ok(Some(*record)) { Ok(()) } else { Err(Error::NotWritten) }
    }
}

fn bit(slot: u32) -> u64 {
    1 << (slot % 64)
}
