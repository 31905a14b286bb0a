//! Embedding: `out = scale * table[token]`.

use super::check::{Checker, finite};
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
        let artifact = checker.artifact();
        let section = artifact.section(self.table).ok_or(OpFault::Tensor)?;
        match artifact.header().input {
            InputSpec::Tokens { vocab, .. } if (1..=section.rows).contains(&vocab) => {
                checker.matrix(self.table, section.rows, self.out.len)
            }
            _ => Err(OpFault::Shape),
        }
    }

    pub(super) fn run(&self, batch: &mut Batch<'_, '_>) -> Option<()> {
        let Inputs::Tokens(tokens) = batch.inputs else { return None };
        let (table, _) = batch.tensors.matrix(self.table)?;
        batch.each(|_, mut frame, row| {
            let out = frame.get(self.out)?;
            table.unpack_row(*tokens.get(row)? as usize, out);
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
