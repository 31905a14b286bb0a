//! The outputs: `scale * (w * x + bias)`, of the last token of a batch; with a cap also `cap * tanh(outputs / cap)`.

use super::activate::Activation;
use super::check::{Checker, finite};
use super::linear::multiply_at;
use super::pieces::READ;
use super::run::Batch;
use super::{Access, Op, Span, TensorId};
use crate::artifact::{Artifact, OutputSpec, Places, line_count};
use crate::error::OpFault;
use crate::mem::{copy, take};
use core::ops::Range;
use serde::{Deserialize, Serialize};

/// The outputs: the last operation.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Head<V = Span> {
    /// Matrix (outputs, d_model).
    pub w: TensorId,
    /// Array (outputs), in the order of the matrix's rows.
    pub bias: Option<TensorId>,
    /// (d_model)
    pub x: V,
    /// Factor of every output.
    pub scale: f32,
}

/// The outputs, softly bounded: `cap * tanh(outputs / cap)` of what [`Head`] gives. The last operation, in its place.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct CappedHead<V = Span> {
    /// The outputs before the bound.
    pub head: Head<V>,
    /// Bound, above 0.
    pub cap: f32,
}

impl<V> Head<V> {
    pub(super) fn map<W>(self, place: &mut impl FnMut(V, Access) -> W) -> Head<W> {
        Head { w: self.w, bias: self.bias, x: place(self.x, Access::Read), scale: self.scale }
    }
}

impl Head {
    pub(super) fn check(&self, checker: &mut Checker<'_, '_>) -> Result<(), OpFault> {
        finite(self.scale)?;
        let outputs = outputs(checker.artifact());
        if checker.pieces(self.w, outputs, self.x.len)? != outputs {
            return Err(OpFault::Shape);
        }
        checker.maybe_array(self.bias, outputs)
    }

    pub(super) fn run(&self, batch: &mut Batch<'_, '_>) -> Option<()> {
        let (first, rows) = last_rows(batch)?;
        self.run_on(batch, first, rows)
    }

    /// The sections of its matrix.
    pub fn pieces(&self, artifact: &Artifact<'_>) -> Range<TensorId> {
        artifact.pieces(self.w, outputs(artifact))
    }

    /// The outputs of some rows of the batch.
    fn run_on(&self, batch: &mut Batch<'_, '_>, first: usize, rows: usize) -> Option<()> {
        let bias = Batch::maybe_array(batch.tensors, self.bias)?;
        let mut at = multiply_at(batch, self.w, self.x, first, rows, None, 0)?;
        if READ {
            let outputs = batch.output.len().checked_div(rows)?;
            let mut piece = self.w;
            while at < outputs {
                piece += 1;
                at = multiply_at(batch, piece, self.x, first, rows, None, at)?;
            }
        }
        if let Some(bias) = bias {
            for output in batch.output.chunks_exact_mut(bias.len().max(1)) {
                for (out, bias) in output.iter_mut().zip(bias) {
                    *out += bias;
                }
            }
        }
        // Outputs of many streams are far more than the caches hold: a host does not go through them for nothing.
        if !cfg!(feature = "std") || self.scale != 1.0 {
            for out in batch.output.iter_mut() {
                *out *= self.scale;
            }
        }
        match batch.tensors.places_of(self.w) {
            None => Some(()),
            Some(Places::Short(places)) => into_order(batch, places),
            Some(Places::Long(places)) => into_order(batch, places),
        }
    }

    pub(super) fn macs(&self, artifact: &Artifact<'_>) -> u64 {
        let rows_of = |piece| artifact.section(piece).map_or(0, |s| u64::from(s.rows));
        u64::from(self.x.len) * self.pieces(artifact).map(rows_of).sum::<u64>()
    }
}

/// Puts every output where it belongs: output `i` is where row `i` lies.
fn into_order<P: Copy + Into<u32>>(batch: &mut Batch<'_, '_>, places: &[P]) -> Option<()> {
    let mut room: &mut [u8] = &mut *batch.packed;
    let made: &mut [f32] = take(&mut room, places.len())?;
    for output in batch.output.chunks_exact_mut(places.len().max(1)) {
        copy(made, output)?;
        for (out, &place) in output.iter_mut().zip(places) {
            *out = *made.get(place.into() as usize)?;
        }
    }
    Some(())
}

/// Numbers that a step gives. Names lie in the header, so that there are not as many as a `u32` counts.
fn outputs(artifact: &Artifact<'_>) -> u32 {
    match artifact.header().output {
        OutputSpec::Logits { count } => count,
        OutputSpec::Classes { names } | OutputSpec::Values { names, .. } => u32::try_from(line_count(names)).unwrap_or(u32::MAX),
    }
}

/// The rows whose outputs are wanted, and their number: the last token of one stream, or the only tokens of several.
fn last_rows(batch: &Batch<'_, '_>) -> Option<(usize, usize)> {
    match batch.streams.len() {
        1 => Some((batch.tokens.checked_sub(1)?, 1)),
        streams => Some((0, streams)),
    }
}

impl<V> CappedHead<V> {
    pub(super) fn map<W>(self, place: &mut impl FnMut(V, Access) -> W) -> CappedHead<W> {
        CappedHead { head: self.head.map(place), cap: self.cap }
    }
}

impl CappedHead {
    pub(super) fn check(&self, checker: &mut Checker<'_, '_>) -> Result<(), OpFault> {
        self.bound().check()?;
        self.head.check(checker)
    }

    pub(super) fn run(&self, batch: &mut Batch<'_, '_>) -> Option<()> {
        let (first, rows) = last_rows(batch)?;
        self.run_on(batch, first, rows)
    }

    fn run_on(&self, batch: &mut Batch<'_, '_>, first: usize, rows: usize) -> Option<()> {
        self.head.run_on(batch, first, rows)?;
        self.bound().apply(batch.output);
        Some(())
    }

    fn bound(&self) -> Activation {
        Activation::SoftCap { cap: self.cap }
    }

    pub(super) fn macs(&self, artifact: &Artifact<'_>) -> u64 {
        self.head.macs(artifact)
    }
}

impl<V> Op<V> {
    /// The head that makes the outputs, if this is the last operation of a program.
    pub fn head(&self) -> Option<&Head<V>> {
        match self {
            Op::Head(head) => Some(head),
            Op::CappedHead(capped) => Some(&capped.head),
            _ => None,
        }
    }
}

impl Op {
    /// The outputs of token `token` of the batch; nothing if this makes none.
    pub(crate) fn outputs_of(&self, batch: &mut Batch<'_, '_>, token: usize) -> Option<()> {
        match self {
            Op::Head(head) => head.run_on(batch, token, 1),
            Op::CappedHead(capped) => capped.run_on(batch, token, 1),
            _ => None,
        }
    }
}
