//! Embeddings and heads in pieces: rows that a matrix's section does not have are in the sections behind it, each in a format of its own. Rows of
//! frequent tokens matter more than others, and can be kept finer. Where rows are not in the order of ids, a section of places in front of the
//! first piece says which is whose.

use super::check::Checker;
use super::{Op, TensorId};
use crate::artifact::{Artifact, Content, InputSpec, Places};
use crate::error::OpFault;
use core::ops::Range;

/// Whether this build reads them.
pub(super) const READ: bool = cfg!(feature = "pieces");

impl<'a> Artifact<'a> {
    /// The sections that hold the first `rows` rows of the matrix that begins in section `first`: one, or some that follow each other.
    pub fn pieces(&self, first: TensorId, rows: u32) -> Range<TensorId> {
        let (mut end, mut held) = (first.saturating_add(1), self.section(first).map_or(0, |section| section.rows));
        while READ && held < rows {
            let Some(section) = self.section(end) else { break };
            (end, held) = (end + 1, held.saturating_add(section.rows));
        }
        first..end
    }

    /// Where each row lies of the matrix that begins in section `first`, counted through its pieces: the section in front of it, if that holds places.
    pub fn places_of(&self, first: TensorId) -> Option<Places<'a>> {
        if READ { self.places(first.checked_sub(1)?) } else { None }
    }
}

impl Op {
    /// Whether the rows of its matrix are in several sections: what a runtime of its own must know before it takes the first for all.
    pub fn is_in_pieces(&self, artifact: &Artifact<'_>) -> bool {
        let vocab = if let InputSpec::Tokens { vocab, .. } = artifact.header().input { vocab } else { 0 };
        match self {
            Op::Embed(embed) => artifact.pieces(embed.table, vocab).len() > 1,
            op => op.head().is_some_and(|head| head.pieces(artifact).len() > 1),
        }
    }
}

impl Checker<'_, '_> {
    /// The matrix of at least `rows` rows that begins at `first`, which must have `cols` columns; gives back all its rows.
    pub(super) fn pieces(&self, first: TensorId, rows: u32, cols: u32) -> Result<u32, OpFault> {
        let mut held = 0u32;
        for id in self.artifact().pieces(first, rows) {
            let section = self.artifact().section(id).ok_or(OpFault::Tensor)?;
            self.matrix(id, section.rows, cols)?;
            held = held.checked_add(section.rows).ok_or(OpFault::Shape)?;
        }
        // A build that does not read them must not take the rows to be in order.
        let in_front = first.checked_sub(1).and_then(|id| self.artifact().section(id));
        if in_front.is_some_and(|section| section.content == Content::Places) {
            let places = self.artifact().places_of(first).ok_or(OpFault::Shape)?;
            let fits = places.len() == held as usize && places.iter().all(|place| place < held);
            fits.then_some(()).ok_or(OpFault::Shape)?;
        }
        if held >= rows { Ok(held) } else { Err(OpFault::Shape) }
    }
}
