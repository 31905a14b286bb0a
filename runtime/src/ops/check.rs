//! What operations ask of a file while it is checked.

use super::{Op, Span};
use crate::artifact::{Artifact, Slot, SlotKind};
use crate::error::OpFault;

/// Checks one operation after the other; remembers which state slot comes next, since each belongs to one operation.
pub(crate) struct Checker<'c, 'a> {
    artifact: &'c Artifact<'a>,
    next_slot: u32,
}

impl<'c, 'a> Checker<'c, 'a> {
    pub(crate) fn new(artifact: &'c Artifact<'a>) -> Self {
        Checker { artifact, next_slot: 0 }
    }

    /// Slots handed out so far.
    pub(crate) fn slots_used(&self) -> u32 {
        self.next_slot
    }

    /// Checks that `op` reads and writes inside the frame, and that what it writes overlaps nothing else.
    pub(crate) fn operands(&self, op: &Op) -> Result<(), OpFault> {
        let frame_len = self.artifact.header().frame_len;
        // Only a norm may write where it reads.
        let mut operands = Operands { frame_len, in_place: matches!(op, Op::Norm(_)), spans: [None; 8], fault: Ok(()) };
        let _ = op.map(|span, _| operands.add(span));
        operands.fault
    }

    /// The array `id`, which must have `len` numbers.
    pub(crate) fn array(&self, id: u32, len: u32) -> Result<&'a [f32], OpFault> {
        let array = self.artifact.array(id).ok_or(OpFault::Tensor)?;
        if array.len() as u64 == u64::from(len) { Ok(array) } else { Err(OpFault::Shape) }
    }

    /// How many numbers the array `id` has.
    pub(crate) fn array_len(&self, id: u32) -> Result<u32, OpFault> {
        let array = self.artifact.array(id).ok_or(OpFault::Tensor)?;
        u32::try_from(array.len()).map_err(|_| OpFault::Shape)
    }

    /// An optional array.
    pub(crate) fn maybe_array(&self, id: Option<u32>, len: u32) -> Result<(), OpFault> {
        id.map_or(Ok(()), |id| self.array(id, len).map(|_| ()))
    }

    /// The matrix `id`, which must be (rows, cols).
    pub(crate) fn matrix(&self, id: u32, rows: u32, cols: u32) -> Result<(), OpFault> {
        let section = self.artifact.section(id).ok_or(OpFault::Tensor)?;
        section.content.format().ok_or(OpFault::Tensor)?;
        if (section.rows, section.cols) == (rows, cols) { Ok(()) } else { Err(OpFault::Shape) }
    }

    /// The rotary turns `id`.
    pub(crate) fn turns(&self, id: u32) -> Result<&'a [u64], OpFault> {
        self.artifact.turns(id).ok_or(OpFault::Tensor)
    }

    /// The vocabulary, if tokens go in.
    pub(crate) fn artifact(&self) -> &'c Artifact<'a> {
        self.artifact
    }

    /// The next slot, which must be number `id`.
    pub(crate) fn slot(&mut self, id: u32) -> Result<Slot, OpFault> {
        if id != self.next_slot {
            return Err(OpFault::Slot);
        }
        self.next_slot += 1;
        self.artifact.header().slots.get(id).ok_or(OpFault::Slot)
    }

    /// The next slot, which must be `count` plain numbers.
    pub(crate) fn numbers(&mut self, id: u32, count: Option<u32>) -> Result<(), OpFault> {
        let slot = self.slot(id)?;
        if slot.kind == SlotKind::Numbers && Some(slot.capacity) == count { Ok(()) } else { Err(OpFault::Slot) }
    }

    /// The next slot, which must be `count` numbers of a recurrent state, in single or half precision.
    pub(crate) fn state(&mut self, id: u32, count: Option<u32>) -> Result<(), OpFault> {
        let slot = self.slot(id)?;
        match slot.kind {
            _ if Some(slot.capacity) != count => Err(OpFault::Slot),
            SlotKind::Numbers => Ok(()),
            SlotKind::NumbersF16 if cfg!(feature = "narrow-states") => Ok(()),
            SlotKind::NumbersF16 => Err(OpFault::NarrowState),
            _ => Err(OpFault::Slot),
        }
    }
}

/// An operation's operands, one after the other.
struct Operands {
    frame_len: u32,
    /// Whether two operands may be the same span.
    in_place: bool,
    spans: [Option<Span>; 8],
    fault: Result<(), OpFault>,
}

impl Operands {
    /// Once in flash, not once per operand of every operation.
    #[inline(never)]
    fn add(&mut self, span: Span) {
        if span.len == 0 || span.at.checked_add(span.len).is_none_or(|end| end > self.frame_len) {
            self.fault = Err(OpFault::Span);
        }
        for place in &mut self.spans {
            let Some(other) = place else {
                *place = Some(span);
                return;
            };
            let apart = span.at >= other.at.saturating_add(other.len) || other.at >= span.at.saturating_add(span.len);
            let same = self.in_place && span == *other;
            if !(apart || same) {
                self.fault = self.fault.and(Err(OpFault::Overlap));
            }
        }
        self.fault = Err(OpFault::Encoding);
    }
}

/// `whole / parts` when that comes out even.
pub(crate) fn divide(whole: u32, parts: u32) -> Result<u32, OpFault> {
    if parts != 0 && whole.is_multiple_of(parts) { Ok(whole / parts) } else { Err(OpFault::Shape) }
}

/// Passes finite numbers.
pub(crate) fn finite(x: f32) -> Result<(), OpFault> {
    if x.is_finite() { Ok(()) } else { Err(OpFault::Value) }
}
