//! Two model slots in flash: one runs, the other takes the next model. A change is one record; a model that fails its trial is
//! taken back.
//!
//! ```text
//!   download(..) ── write(piece).. ── finish() ── install(..) ──►  on trial ── boot(..), boot(..) .. ── confirm() ──►  confirmed
//!                 the running model goes on                           │ self-test fails, boots used up, reject()
//!                                                                     └──►  the model from before
//! ```

use crate::download::{Download, Downloaded};
use crate::error::{Error, LayoutFault, ModelFault, Refused};
use crate::region::{MappedFlash, Region};
use crate::ring::{Owner, Ring};
use crate::status::{Image, STATUS_BYTES, Slot, Status};
use brooklet::kernels::KernelTable;
use brooklet::{Model, self_test};
use embedded_storage::nor_flash::NorFlash;

const MAGIC: [u8; 4] = *b"BRKM";

/// Where a [`ModelStore`] keeps its things.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ModelLayout {
    /// Which slot is active: two erase blocks, or any even number of them.
    pub status: Region,
    /// Slot A; mapped, it starts on a 64-byte boundary.
    pub a: Region,
    /// Slot B, likewise.
    pub b: Region,
}

/// What a model is tried with: the memory of the stream it will run. Its contents are lost, so save the stream first.
#[derive(Debug)]
pub struct Bench<'m> {
    /// The kernels of this CPU.
    pub kernels: &'static KernelTable,
    /// [`Model::state_bytes`] of any model to be tried.
    pub state: &'m mut [u8],
    /// [`Model::scratch_bytes`] of one token.
    pub scratch: &'m mut [u8],
}

/// Two slots for models.
///
/// While a model borrowed from a slot runs, the store writes to the other slot alone, provided that it was booted with
/// [`ModelStore::boot`] of this store.
#[derive(Debug)]
pub struct ModelStore<F> {
    flash: F,
    layout: ModelLayout,
    ring: Ring,
    /// The slot that was booted, if it was one.
    running: Option<Slot>,
}

/// Where a model came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// A slot.
    Slot(Slot),
    /// The firmware.
    BuiltIn,
}

/// A model that reproduced its golden outputs on this device.
#[derive(Clone, Copy, Debug)]
pub struct Booted<'m> {
    /// The model.
    pub model: Model<'m>,
    /// Where it lies.
    pub source: Source,
    /// Boots left, this one not counted, until it must be [confirmed](ModelStore::confirm); `None` once it is.
    pub trial: Option<u8>,
    /// Why each slot was passed over; `None` for slots that were not looked at or hold nothing.
    pub refused: [Option<ModelFault>; 2],
    /// The model in the other slot, if one was installed: for [`crate::Way::Predecessor`].
    pub other: Option<Slot>,
}

impl<F: NorFlash> ModelStore<F> {
    /// A store over `flash`. `&mut flash` is a flash too, for drivers that are shared.
    pub fn new(flash: F, layout: ModelLayout) -> Result<Self, LayoutFault> {
        let ring = Ring::new(&flash, layout.status, 2, MAGIC)?;
        if ring.body_capacity_bytes::<F>() < STATUS_BYTES {
            return Err(LayoutFault::TooSmall);
        }
        for slot in [layout.a, layout.b] {
            slot.check(&flash)?;
        }
        if layout.status.overlaps(layout.a) || layout.status.overlaps(layout.b) || layout.a.overlaps(layout.b) {
            return Err(LayoutFault::Overlap);
        }
        Ok(ModelStore { flash, layout, ring, running: None })
    }

    /// Chooses the model to run: the active slot's, else the other's, else the built-in one; the first that is a whole file and
    /// reproduces its golden outputs here.
    ///
    /// A model on trial uses up one of its boots before it is touched, so that one that hangs or crashes is taken back too.
    pub fn boot<'m>(
        &mut self,
        map: &'m (impl MappedFlash + ?Sized),
        built_in: Option<&'m [u8]>,
        bench: &mut Bench<'_>,
    ) -> Result<Booted<'m>, Error<F::Error>> {
        let status = self.status();
        let mut refused = [None; 2];
        let mut trial = None;
        if let (Some(active), Some(boots)) = (status.active, status.trial) {
            let counted = boots.checked_sub(1).map(|left| (left, self.set_status(Status { trial: Some(left), ..status })));
            match counted {
                Some((left, Ok(()))) => trial = Some(left),
                Some((_, Err(_))) => *active.of_mut(&mut refused) = Some(ModelFault::NotCounted),
                None => *active.of_mut(&mut refused) = Some(ModelFault::NotConfirmed),
            }
        }
        for slot in status.active.into_iter().flat_map(|active| [active, active.other()]) {
            let (Some(image), None) = (slot.of(&status.images), slot.of(&refused)) else { continue };
            match self.check(map, slot, image.file_bytes, Some(image.hash), bench) {
                Ok(model) => {
                    self.running = Some(slot);
                    let is_active = status.active == Some(slot);
                    if !is_active {
                        // If this cannot be written, the next boot finds the same.
                        let _ = self.set_status(status.after_refusal(slot));
                    }
                    let other = slot.of_other(&status).filter(|other| other.of(&refused).is_none());
                    return Ok(Booted { model, source: Source::Slot(slot), trial: trial.filter(|_| is_active), refused, other });
                }
                Err(fault) => *slot.of_mut(&mut refused) = Some(fault),
            }
        }
        self.running = None;
        let built_in = built_in.map(|bytes| bench.try_model(bytes));
        if status.trial.is_some() {
            let _ = self.set_status(Status { active: None, ..status.without_trial() });
        }
        match built_in {
            Some(Ok(model)) => Ok(Booted { model, source: Source::BuiltIn, trial: None, refused, other: None }),
            Some(Err(fault)) => Err(Error::NoModel { slots: refused, built_in: Some(fault) }),
            None => Err(Error::NoModel { slots: refused, built_in: None }),
        }
    }

    /// Begins a download of `file_bytes` bytes with CRC-32 `crc32` into the slot that does not run.
    pub fn download(&mut self, file_bytes: u32, crc32: u32) -> Result<Download<'_, F>, Error<F::Error>> {
        let status = self.status();
        if status.trial.is_some() {
            return Err(Error::OnTrial);
        }
        let kept = self.running.or(status.active);
        let slot = kept.map_or(Slot::A, Slot::other);
        let region = self.region(slot);
        if file_bytes > region.len_bytes {
            let (needed_bytes, have_bytes) = (u64::from(file_bytes), u64::from(region.len_bytes));
            return Err(Error::TooLarge { what: "model", needed_bytes, have_bytes });
        }
        // From here on the slot holds nothing that a boot may choose.
        let mut cleared = Status { active: kept, ..status };
        *slot.of_mut(&mut cleared.images) = None;
        if cleared != status {
            self.set_status(cleared)?;
        }
        Ok(Download::new(self, slot, region, file_bytes, crc32))
    }

    /// Tries a downloaded model on this device and, if it is good, makes it the active one, on trial for `trial_boots` boots
    /// (0: confirmed at once). It runs from the next [`ModelStore::boot`] on: after a reset, or right away once the running
    /// session is dropped.
    pub fn install(
        &mut self,
        downloaded: Downloaded,
        map: &(impl MappedFlash + ?Sized),
        bench: &mut Bench<'_>,
        trial_boots: u8,
    ) -> Result<(), Error<F::Error>> {
        let Downloaded { slot, file_bytes } = downloaded;
        let mut status = self.status();
        if self.running == Some(slot) || status.active == Some(slot) {
            return Err(Error::DownloadFailed);
        }
        let model = self.check(map, slot, file_bytes, None, bench).map_err(Error::Refused)?;
        *slot.of_mut(&mut status.images) = Some(Image { file_bytes, hash: model.artifact().hash() });
        self.set_status(Status { active: Some(slot), trial: (trial_boots > 0).then_some(trial_boots), ..status })
    }

    /// Keeps the model on trial for good.
    pub fn confirm(&mut self) -> Result<(), Error<F::Error>> {
        let status = self.status();
        if status.trial.is_none() { Ok(()) } else { self.set_status(Status { trial: None, ..status }) }
    }

    /// Takes the model on trial back: the next [`ModelStore::boot`] chooses the one from before.
    pub fn reject(&mut self) -> Result<(), Error<F::Error>> {
        let status = self.status();
        let Some(active) = status.active.filter(|_| status.trial.is_some()) else { return Ok(()) };
        self.set_status(Status { active: active.of_other(&status), ..status.without_trial() })
    }

    /// The model in a slot, without the self-test of a boot: for a state to be handed on from.
    pub fn model<'m>(&mut self, map: &'m (impl MappedFlash + ?Sized), slot: Slot) -> Option<Model<'m>> {
        let image = (*slot.of(&self.status().images))?;
        Model::from_bytes(mapped(map, self.region(slot), image.file_bytes)?).ok().filter(|model| model.artifact().hash() == image.hash)
    }

    /// The flash, for other uses between the store's own.
    pub fn flash_mut(&mut self) -> &mut F {
        &mut self.flash
    }

    /// Gives the flash back.
    pub fn into_flash(self) -> F {
        self.flash
    }

    fn region(&self, slot: Slot) -> Region {
        match slot {
            Slot::A => self.layout.a,
            Slot::B => self.layout.b,
        }
    }

    fn check<'m>(
        &self,
        map: &'m (impl MappedFlash + ?Sized),
        slot: Slot,
        file_bytes: u32,
        hash: Option<u64>,
        bench: &mut Bench<'_>,
    ) -> Result<Model<'m>, ModelFault> {
        let bytes = mapped(map, self.region(slot), file_bytes).ok_or(ModelFault::NotMapped)?;
        let model = bench.try_model(bytes)?;
        if hash.is_some_and(|hash| hash != model.artifact().hash()) { Err(ModelFault::OtherModel) } else { Ok(model) }
    }

    fn status(&mut self) -> Status {
        self.read_status().unwrap_or(Status::EMPTY)
    }

    fn read_status(&mut self) -> Option<Status> {
        let (slot, record) = self.ring.newest_valid(&mut self.flash, |record| record.body_bytes as usize == STATUS_BYTES)?;
        let mut bytes = [0; STATUS_BYTES];
        self.ring.read_body(&mut self.flash, slot, &record, &mut bytes).ok()?;
        Status::decode(&bytes)
    }

    fn set_status(&mut self, status: Status) -> Result<(), Error<F::Error>> {
        let turn = self.ring.turn(&mut self.flash, |_| true);
        self.ring.erase(&mut self.flash, turn)?;
        self.ring.fill(&mut self.flash, turn, Owner { model_hash: 0, position: 0 }, &status.encode()).map(|_| ())
    }

    /// The status' newest record, for diagnostics: how often it was written, and its slot erased.
    pub fn inspect(&mut self) -> Result<Option<crate::Record>, Refused> {
        Ok(self.ring.newest_valid(&mut self.flash, |_| true).map(|(_, record)| record))
    }
}

fn mapped<M: MappedFlash + ?Sized>(map: &M, region: Region, file_bytes: u32) -> Option<&[u8]> {
    map.bytes_of(region)?.get(..file_bytes as usize)
}

impl Bench<'_> {
    /// Checks a model and lets it reproduce its golden outputs.
    pub fn try_model<'m>(&mut self, bytes: &'m [u8]) -> Result<Model<'m>, ModelFault> {
        let model = Model::from_bytes(bytes)?;
        self_test(&model, self.kernels, self.state, self.scratch)?;
        Ok(model)
    }
}

impl Slot {
    /// The other slot, if a model was installed there.
    fn of_other(self, status: &Status) -> Option<Slot> {
        self.other().of(&status.images).map(|_| self.other())
    }
}

impl Status {
    /// The active model was refused and `slot` runs: a model that was on trial is forgotten, a confirmed one may be tried again.
    fn after_refusal(self, slot: Slot) -> Status {
        Status { active: Some(slot), ..self.without_trial() }
    }

    /// Without the model on trial, if there is one.
    fn without_trial(mut self) -> Status {
        if let (Some(active), Some(_)) = (self.active, self.trial) {
            *active.of_mut(&mut self.images) = None;
        }
        Status { trial: None, ..self }
    }
}
