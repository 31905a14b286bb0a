//! One stream's memory.

use crate::artifact::{Slot, SlotKind};
use crate::error::Error;
use crate::mem::{aligned, numbers};
use crate::model::Model;
use crate::ops::{COUNT_NUMBERS, Op, cache_scale_bytes};
use crate::plan::slot_bytes;

/// One stream's memory: convolution windows, recurrent states, attention caches. Its size never changes.
#[derive(Debug)]
pub struct State<'b> {
    pub(crate) model_hash: u64,
    /// Steps taken since the stream began.
    pub(crate) position: u64,
    pub(crate) bytes: &'b mut [u8],
}

impl<'b> State<'b> {
    /// An empty stream in `bytes`: at least [`Model::state_bytes`] of them, on a 16-byte boundary.
    pub fn new(model: &Model<'_>, bytes: &'b mut [u8]) -> Result<Self, Error> {
        let bytes = aligned("state", bytes, model.state_bytes())?;
        let mut state = State { model_hash: model.artifact().hash(), position: 0, bytes };
        state.reset();
        Ok(state)
    }

    /// Begins the stream anew.
    pub fn reset(&mut self) {
        self.position = 0;
        self.bytes.fill(0);
    }

    /// Steps taken since the stream began.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Hands a stream of `from` to `to`, whose slots must be the same. That the numbers mean the same in both is for the caller
    /// to know: weights in another format, say, or a head that was trained further.
    pub fn adopt(mut self, from: &Model<'_>, to: &Model<'_>) -> Result<Self, Error> {
        if self.model_hash != from.artifact().hash() || !from.same_slots(to) {
            return Err(Error::OtherModel);
        }
        self.model_hash = to.artifact().hash();
        Ok(self)
    }

    /// The `f32` in the state, slot by slot: windows, recurrent states, caches or their scales. None, for a state of another model.
    pub fn numbers<'s>(&'s self, model: &'s Model<'_>) -> impl Iterator<Item = &'s [f32]> {
        self.slots(model).filter_map(move |(index, slot, bytes)| numbers(bytes.get(..number_bytes(model, index, &slot)?)?))
    }

    /// The bits of what the state keeps in half precision, slot by slot: recurrent states of a model that was made so. All are finite; what
    /// was beyond the largest half, 65504, is that. None, for a state of another model.
    pub fn halves<'s>(&'s self, model: &'s Model<'_>) -> impl Iterator<Item = &'s [u16]> {
        // Without the feature there are none, and the compiler knows it.
        let slots = self.slots(model).take(if cfg!(feature = "narrow-states") { usize::MAX } else { 0 });
        slots.filter_map(|(_, slot, bytes)| if slot.kind == SlotKind::NumbersF16 { numbers(bytes) } else { None })
    }

    /// Slots with their numbers and bytes.
    fn slots<'s>(&'s self, model: &'s Model<'_>) -> impl Iterator<Item = (u32, Slot, &'s [u8])> {
        let slots = &model.header().slots;
        let count = if self.model_hash == model.artifact().hash() { slots.count } else { 0 };
        (0..count).filter_map(move |index| {
            let slot = slots.get(index)?;
            let bytes = self.bytes.get(usize::try_from(slot.at).ok()?..)?;
            Some((index, slot, bytes.get(..usize::try_from(slot_bytes(&slot)?).ok()?)?))
        })
    }
}

/// Bytes at the start of slot `index` that are `f32`.
fn number_bytes(model: &Model<'_>, index: u32, slot: &Slot) -> Option<usize> {
    let bytes = match slot.kind {
        SlotKind::CacheInt8 => cache_scale_bytes(slot)?,
        SlotKind::CacheF32 => slot_bytes(slot)?,
        SlotKind::NumbersF16 | SlotKind::CacheInt4 => 0,
        SlotKind::Numbers => {
            // A route's count of tokens is an integer in a slot of numbers.
            let counts = |op: Option<Op>| matches!(op, Some(Op::Route(route)) if route.count == index);
            let is_count = slot.capacity == COUNT_NUMBERS && model.header().program.iter().any(counts);
            (!is_count).then_some(slot_bytes(slot)?)?
        }
    };
    usize::try_from(bytes).ok()
}
