//! Matrix times vector: `out = w * x + bias`.

use super::check::Checker;
use super::pieces::READ;
use super::run::{Batch, WORTH_SHARING};
use super::{Access, Span, TensorId};
use crate::artifact::Artifact;
use crate::error::OpFault;
use crate::kernels::quant::{Format, GROUP};
use crate::kernels::{Activations, RowsMut};
#[cfg(feature = "std")]
use crate::kernels::{KernelTable, Rows};
use crate::mem::{copy, take};
#[cfg(feature = "std")]
use crate::team::Crew;
use crate::team::shares;
use serde::{Deserialize, Serialize};

/// Matrix times vector.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Linear<V = Span> {
    /// Matrix (outputs, inputs).
    pub w: TensorId,
    /// Array (outputs).
    pub bias: Option<TensorId>,
    /// (inputs)
    pub x: V,
    /// (outputs)
    pub out: V,
}

impl<V> Linear<V> {
    pub(super) fn map<W>(self, place: &mut impl FnMut(V, Access) -> W) -> Linear<W> {
        Linear { w: self.w, bias: self.bias, x: place(self.x, Access::Read), out: place(self.out, Access::Write) }
    }
}

/// Bytes that the packed inputs of one token take, each part rounded up so that the next is aligned.
pub(crate) fn packed_bytes(format: Format, cols: u32, tokens: usize) -> Option<usize> {
    let padded = (cols as usize).checked_next_multiple_of(GROUP)?;
    let round = |bytes: usize| bytes.checked_next_multiple_of(crate::mem::BUFFER_ALIGN);
    if format.is_quantized() {
        let codes = round(padded.checked_mul(tokens)?)?;
        let per_group = round((padded / GROUP).checked_mul(tokens)?.checked_mul(4)?)?;
        codes.checked_add(per_group.checked_mul(2)?)
    } else {
        round(padded.checked_mul(tokens)?.checked_mul(4)?)
    }
}

impl Linear {
    pub(super) fn check(&self, checker: &mut Checker<'_, '_>) -> Result<(), OpFault> {
        checker.matrix(self.w, self.out.len, self.x.len)?;
        checker.maybe_array(self.bias, self.out.len)
    }

    pub(super) fn run(&self, batch: &mut Batch<'_, '_>) -> Option<()> {
        let bias = Batch::maybe_array(batch.tensors, self.bias)?;
        multiply(batch, self.w, self.x, 0, batch.rows(), Some(self.out))?;
        let Some(bias) = bias else { return Some(()) };
        batch.each(|_, mut frame, _| {
            for (out, bias) in frame.get(self.out)?.iter_mut().zip(bias) {
                *out += bias;
            }
            Some(())
        })
    }

    pub(super) fn macs(&self, _: &Artifact<'_>) -> u64 {
        u64::from(self.x.len) * u64::from(self.out.len)
    }
}

/// Multiplies matrix `w` with operand `x` of `tokens` frames from `first` on. The products go to operand `out` of the same
/// frames, or without one to the batch's output.
pub(super) fn multiply(batch: &mut Batch<'_, '_>, w: TensorId, x: Span, first: usize, tokens: usize, out: Option<Span>) -> Option<()> {
    multiply_at(batch, w, x, first, tokens, out, 0).map(drop)
}

/// Like [`multiply`]; products that go to the batch's output begin at column `at` there. Gives back the column behind them.
pub(super) fn multiply_at(
    batch: &mut Batch<'_, '_>,
    w: TensorId,
    x: Span,
    first: usize,
    tokens: usize,
    out: Option<Span>,
    at: usize,
) -> Option<usize> {
    let (matrix, format) = batch.tensors.matrix(w)?;
    let (kernels, team) = (batch.kernels, batch.team);
    let stride = batch.stride.get();
    let groups = matrix.groups().max(1);
    let padded = groups.saturating_mul(GROUP);
    let mut packed: &mut [u8] = &mut *batch.packed;
    let frames = &*batch.frames;
    let input = |row: usize| frames.get((first + row).checked_mul(stride)?..)?.get(x.range());
    let activations = if format.is_quantized() {
        let codes: &mut [i8] = take(&mut packed, padded * tokens)?;
        let scales: &mut [f32] = take(&mut packed, groups * tokens)?;
        let sums: &mut [i32] = take(&mut packed, groups * tokens)?;
        #[cfg(feature = "std")]
        {
            let x_rows = frames.get(first.checked_mul(stride)?.checked_add(x.at as usize)?..)?;
            quantize_rows(kernels, team, Rows::new(x_rows, tokens, x.len as usize, stride)?, codes, scales, sums)?;
        }
        // One row after the other: there are few, and what a device's program is short of is flash.
        #[cfg(not(feature = "std"))]
        {
            let parts = if tokens > 1 { team.size() } else { 1 };
            let mut rest = (&mut *codes, &mut *scales, &mut *sums);
            let rows = shares(tokens, parts).map(|part| {
                let count = part.len();
                Some((part, cut(&mut rest.0, count * padded)?, cut(&mut rest.1, count * groups)?, cut(&mut rest.2, count * groups)?))
            });
            team.share(rows, |(part, codes, scales, sums)| {
                // Not zipped: `zip` asks chunks for their number, and the division in it may end up where nothing shows it is not by zero.
                let mut rows =
                    (codes.chunks_exact_mut(padded.max(1)), scales.chunks_exact_mut(groups.max(1)), sums.chunks_exact_mut(groups.max(1)));
                for row in part {
                    let (Some(codes), Some(scales), Some(sums)) = (rows.0.next(), rows.1.next(), rows.2.next()) else { return };
                    kernels.quantize_activations(input(row).unwrap_or_default(), codes, scales, sums);
                }
            })?;
        }
        Activations::Int8 { codes, scales, sums }
    } else {
        let rows: &mut [f32] = take(&mut packed, padded * tokens)?;
        for (row, to) in rows.chunks_exact_mut(padded.max(1)).enumerate() {
            let x = input(row)?;
            let (values, padding) = to.split_at_mut_checked(x.len())?;
            copy(values, x)?;
            padding.fill(0.0);
        }
        Activations::Float { x: rows, stride: padded }
    };
    let width = matrix.rows;
    let mut out = match out {
        Some(out) => RowsMut::new(batch.frames.get_mut(first * stride + out.at as usize..)?, tokens, width, stride)?,
        // One row holds the output of one stream.
        None => {
            let stride = if READ { batch.output.len().checked_div(tokens)? } else { width };
            RowsMut::new(batch.output.get_mut(at..)?, tokens, width, stride)?
        }
    };
    let worth_it = groups * tokens * matrix.rows >= WORTH_SHARING;
    if team.size() == 1 || !worth_it {
        kernels.matmul(&matrix, activations, out);
        return Some(at + width);
    }
    let products = shares(matrix.tile_rows(), team.size()).map(|part| {
        let matrix = matrix.part(part)?;
        Some((matrix, out.take_columns(matrix.rows)?))
    });
    team.share(products, |(matrix, out)| kernels.matmul(&matrix, activations, out))?;
    Some(at + width)
}

/// Rounds the rows of `x` to int8, on as many threads as there are.
#[cfg(feature = "std")]
#[inline]
fn quantize_rows(kernels: &KernelTable, team: Crew<'_>, x: Rows<'_>, codes: &mut [i8], scales: &mut [f32], sums: &mut [i32]) -> Option<()> {
    if team.size() == 1 || x.rows() == 1 {
        kernels.quantize_rows(x, codes, scales, sums);
        return Some(());
    }
    let groups = x.width().div_ceil(GROUP);
    let mut rest = (codes, scales, sums);
    let rows = shares(x.rows(), team.size()).map(|part| {
        let count = part.len() * groups;
        Some((x.some_rows(part)?, cut(&mut rest.0, count * GROUP)?, cut(&mut rest.1, count)?, cut(&mut rest.2, count)?))
    });
    team.share(rows, |(x, codes, scales, sums)| kernels.quantize_rows(x, codes, scales, sums))
}

/// Takes the first `count` things away from `rest`.
pub(super) fn cut<'s, T>(rest: &mut &'s mut [T], count: usize) -> Option<&'s mut [T]> {
    let (first, after) = core::mem::take(rest).split_at_mut_checked(count)?;
    *rest = after;
    Some(first)
}
