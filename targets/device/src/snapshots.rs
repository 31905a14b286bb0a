//! Streams in flash: saved from where they lie in memory, restored to where they lie, whatever happens to power in between.

use crate::error::{Error, LayoutFault, Refused};
use crate::record::Record;
use crate::region::Region;
use crate::ring::{Owner, Ring, Turn};
use brooklet::State;
use embedded_storage::nor_flash::NorFlash;

const MAGIC: [u8; 4] = *b"BRKF";

/// Snapshots of one stream in a ring of slots.
///
/// A save never touches the newest snapshot of the stream's model, so power may go at any time: a restore then gives the old
/// snapshot or the new one. No memory is taken, of any size.
///
/// ```
/// # use brooklet::{Line, Model, State};
/// # use embedded_storage::nor_flash::{ErrorType, NorFlash, NorFlashErrorKind, ReadNorFlash};
/// # struct Flash(Vec<u8>);
/// # impl ErrorType for Flash { type Error = NorFlashErrorKind; }
/// # impl ReadNorFlash for Flash {
/// #     const READ_SIZE: usize = 1;
/// #     fn read(&mut self, at: u32, out: &mut [u8]) -> Result<(), NorFlashErrorKind> { out.copy_from_slice(&self.0[at as usize..][..out.len()]); Ok(()) }
/// #     fn capacity(&self) -> usize { self.0.len() }
/// # }
/// # impl NorFlash for Flash {
/// #     const WRITE_SIZE: usize = 4;
/// #     const ERASE_SIZE: usize = 4096;
/// #     fn erase(&mut self, from: u32, to: u32) -> Result<(), NorFlashErrorKind> { self.0[from as usize..to as usize].fill(0xff); Ok(()) }
/// #     fn write(&mut self, at: u32, bytes: &[u8]) -> Result<(), NorFlashErrorKind> { self.0[at as usize..][..bytes.len()].copy_from_slice(bytes); Ok(()) }
/// # }
/// # let mut flash = Flash(vec![0xff; 65536]);
/// # let file = brooklet::mem::MappedFile::open(concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/models/watch.brook"))?;
/// # let model = Model::from_bytes(file.bytes())?;
/// # let mut memory = vec![Line::ZERO; model.state_bytes().div_ceil(64)];
/// # let mut state = State::new(&model, Line::bytes_mut(&mut memory))?;
/// use brooklet_device::{Region, Restored, SnapshotStore};
///
/// let mut store = SnapshotStore::new(&mut flash, Region::new(0, 32 * 1024))?;  // two slots of 16 KiB
/// assert!(store.save(&state)?.sequence == 1);
/// match store.restore(&mut state) {
///     Restored::Newest { position, .. } => println!("going on at step {position}"),
///     Restored::Older { refused, .. } => println!("a newer one was refused: {}", refused.reason),
///     Restored::Nothing { .. } => println!("a new stream"),
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct SnapshotStore<F> {
    flash: F,
    ring: Ring,
    erased: Option<Turn>,
}

/// A snapshot that was saved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Saved {
    /// Its slot.
    pub slot: u32,
    /// Its number among the ring's saves.
    pub sequence: u64,
    /// How often its slot was erased so far.
    pub erases: u32,
}

/// What a stream continues from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Restored {
    /// The newest snapshot.
    Newest {
        /// Its number among the ring's saves.
        sequence: u64,
        /// Steps that the stream had taken.
        position: u64,
    },
    /// The newest good snapshot; one that may be newer was refused.
    Older {
        /// Its number among the ring's saves.
        sequence: u64,
        /// Steps that the stream had taken.
        position: u64,
        /// The other one.
        refused: Refusal,
    },
    /// None is there for this model; the stream begins anew.
    Nothing {
        /// The newest of those that were refused, if any.
        refused: Option<Refusal>,
    },
}

/// A slot that was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The slot.
    pub slot: u32,
    /// Why.
    pub reason: Refused,
}

impl<F: NorFlash> SnapshotStore<F> {
    /// A store with two slots: each takes half of `region`. `&mut flash` is a flash too, for drivers that are shared.
    pub fn new(flash: F, region: Region) -> Result<Self, LayoutFault> {
        Self::ring(flash, region, 2)
    }

    /// A store with `slots` slots, of equal size. More slots spread the wear, and keep more to fall back on.
    ///
    /// What is in flash is found again only with the same region and the same number of slots.
    pub fn ring(flash: F, region: Region, slots: u32) -> Result<Self, LayoutFault> {
        let ring = Ring::new(&flash, region, slots, MAGIC)?;
        Ok(SnapshotStore { flash, ring, erased: None })
    }

    /// Bytes of a region of `slots` slots for a model whose state takes `state_bytes`.
    pub const fn region_bytes(state_bytes: usize, slots: u32) -> usize {
        let record_bytes = crate::record::RECORD_BYTES.next_multiple_of(F::WRITE_SIZE).next_multiple_of(F::READ_SIZE);
        (record_bytes + state_bytes).next_multiple_of(F::ERASE_SIZE) * slots as usize
    }

    /// Saves a stream. Takes as long as the flash needs to erase a slot ([`SnapshotStore::erase_ahead`] does that beforehand) and to
    /// write and read back the state.
    ///
    /// If this fails, the newest snapshot from before is still there. Save streams that are well ([`crate::Health::check_state`]).
    pub fn save(&mut self, state: &State<'_>) -> Result<Saved, Error<F::Error>> {
        self.ring.check_fits::<F>("snapshot", state.bytes().len())?;
        let turn = self.prepare(state)?;
        self.erased = None;
        let owner = Owner { model_hash: state.model_hash(), position: state.position() };
        let record = self.ring.fill(&mut self.flash, turn, owner, state.bytes())?;
        Ok(Saved { slot: turn.slot, sequence: record.sequence, erases: record.erases })
    }

    /// Erases the slot of the next save, so that the save itself is short: say, right after a save, or while a radio sleeps.
    pub fn erase_ahead(&mut self, state: &State<'_>) -> Result<(), Error<F::Error>> {
        self.prepare(state).map(|_| ())
    }

    fn prepare(&mut self, state: &State<'_>) -> Result<Turn, Error<F::Error>> {
        let model_hash = state.model_hash();
        let turn = self.ring.turn(&mut self.flash, |record| record.model_hash == model_hash);
        if let Some(erased) = self.erased
            && erased.slot == turn.slot
        {
            return Ok(Turn { erases: erased.erases, ..turn });
        }
        self.ring.erase(&mut self.flash, turn)?;
        self.erased = Some(turn);
        Ok(turn)
    }

    /// Restores the newest good snapshot of the state's model. Damaged and foreign ones are passed over; without a good one the
    /// stream begins anew.
    pub fn restore(&mut self, state: &mut State<'_>) -> Restored {
        let mut newer = None;
        let mut below = None;
        while let Some((slot, record)) = self.ring.newest_below(&mut self.flash, below) {
            match self.restore_slot(slot, &record, state) {
                Ok(()) => {
                    let (sequence, position) = (record.sequence, record.position);
                    return match newer.or_else(|| self.unreadable()) {
                        None => Restored::Newest { sequence, position },
                        Some(refused) => Restored::Older { sequence, position, refused },
                    };
                }
                Err(reason) => newer = newer.or(Some(Refusal { slot, reason })),
            }
            below = Some(record.sequence);
        }
        state.reset();
        Restored::Nothing { refused: newer.or_else(|| self.unreadable()) }
    }

    fn restore_slot(&mut self, slot: u32, record: &Record, state: &mut State<'_>) -> Result<(), Refused> {
        if record.model_hash != state.model_hash() {
            return Err(Refused::OtherModel { model_hash: record.model_hash });
        }
        if record.body_bytes as usize != state.bytes().len() {
            return Err(Refused::Length { have_bytes: record.body_bytes });
        }
        state.refill(record.position, |bytes| self.ring.read_body(&mut self.flash, slot, record, bytes))
    }

    /// Whether a good snapshot of the model is there.
    pub fn holds(&mut self, model_hash: u64) -> bool {
        self.ring.newest_valid(&mut self.flash, |record| record.model_hash == model_hash).is_some()
    }

    /// The first slot whose record cannot be read: what it held may have been newer.
    fn unreadable(&mut self) -> Option<Refusal> {
        (0..self.ring.slots()).find_map(|slot| Some(Refusal { slot, reason: self.ring.record(&mut self.flash, slot).err()? }))
    }

    /// What a slot holds, its body checked; `None` if it is blank. For diagnostics.
    pub fn inspect(&mut self, slot: u32) -> Result<Option<Record>, Refused> {
        if slot >= self.ring.slots() {
            return Ok(None);
        }
        let record = self.ring.record(&mut self.flash, slot)?;
        if let Some(record) = &record {
            self.ring.check_body(&mut self.flash, slot, record)?;
        }
        Ok(record)
    }

    /// Number of slots.
    pub fn slots(&self) -> u32 {
        self.ring.slots()
    }

    /// The flash, for other uses between the store's own. Whoever writes to the store's region makes a new store afterwards.
    pub fn flash_mut(&mut self) -> &mut F {
        &mut self.flash
    }

    /// Gives the flash back.
    pub fn into_flash(self) -> F {
        self.flash
    }
}
