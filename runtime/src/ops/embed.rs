//! Embedding: `out = scale * table[token]`.

use super::check::{Checker, finite};
use super::pieces::READ;
use super::run::{Batch, Inputs};
use super::{Access, Span, TensorId};
use crate::artifact::{Artifact, InputSpec};
use crate::error::OpFault;
use serde::{Deserialize, Serialize};

/// A token's row of the embedding.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Embed<V = Span> {
    /// Matrix (vocab, d_model).
    pub table: TensorId,
    /// Factor of every element.
    pub scale: f32,
    /// (d_model)
    pub out: V,
}

impl<V> Embed<V> {
    pub(super) fn map<W>(self, place: &mut impl FnMut(V, Access) -> W) -> Embed<W> {
        Embed { table: self.table, scale: self.scale, out: place(self.out, Access::Write) }
    }
}

impl Embed {
    pub(super) fn check(&self, checker: &mut Checker<'_, '_>) -> Result<(), OpFault> {
        finite(self.scale)?;
        match checker.artifact().header().input {
            InputSpec::Tokens { vocab, .. } if vocab > 0 => checker.pieces(self.table, vocab, self.out.len).map(drop),
            _ => Err(OpFault::Shape),
        }
    }

    pub(super) fn run(&self, batch: &mut Batch<'_, '_>) -> Option<()> {
        let Inputs::Tokens(tokens) = batch.inputs else { return None };
        let tensors = batch.tensors;
        let (first, _) = tensors.matrix(self.table)?;
        let places = tensors.places_of(self.table);
        batch.each(|_, mut frame, row| {
            let out = frame.get(self.out)?;
            let token = *tokens.get(row)? as usize;
            let row = if let Some(places) = places { places.get(token)? as usize } else { token };
            let (mut table, mut row, mut piece) = (first, row, self.table);
            while READ && row >= table.rows {
                (row, piece) = (row - table.rows, piece + 1);
                (table, _) = tensors.matrix(piece)?;
            }
            table.unpack_row(row, out);
            for x in out {
                *x *= self.scale;
            }
            Some(())
        })
    }

    pub(super) fn macs(&self, _: &Artifact<'_>) -> u64 {
        0
    }
}
