//! How much of the divergence each unit is to blame for, and so what a finer format of it would bring.

use super::Measurements;
use super::candidates::{Unit, all_at_least};
use super::selection::Step;
use crate::error::Error;
use crate::graph::Graph;
use brooklet::kernels::quant::Format;

/// Divergence of half floats over that of 8 bits, about: three more bits of weights that are large in their group, and no
/// rounded activations. Only an order of steps follows from it, so it need not be measured.
const HALF_FLOAT_SHARE: f64 = 1e-3;

/// Every step that a unit can take, from its own format to the finest, unit by unit.
///
/// `divergence` measures the formats of all tensors in an otherwise float model: a unit's share is the divergence when it alone
/// is rounded. Rounding errors of different units are independent, so that shares about add up, and a small share is not lost
/// in the noise of the others.
pub(super) fn gains(
    graph: &Graph<'_>,
    plain: &[Option<Format>],
    units: &[Unit],
    measurements: &mut Measurements<'_>,
    mut divergence: impl FnMut(&[Option<Format>]) -> Result<f64, Error>,
) -> Result<Vec<Step>, Error> {
    let float = all_at_least(plain, Format::F32);
    let is_measured = |format: &&Format| format.is_quantized();
    measurements.to_come = units.iter().map(|unit| 1 + unit.finer_formats(plain).iter().filter(is_measured).count()).sum();
    let mut steps = Vec::new();
    for (number, unit) in units.iter().enumerate() {
        let mut share_of = |own: &[Option<Format>]| {
            measurements.begin("each matrix alone");
            let mut formats = float.clone();
            unit.tensors.iter().for_each(|&tensor| formats[tensor] = own[tensor]);
            divergence(&formats)
        };
        let mut own = plain.to_vec();
        let (mut share, mut bytes) = (share_of(&own)?, unit.bytes(graph, &own));
        for &format in unit.finer_formats(plain) {
            unit.set(&mut own, plain, format);
            let left = match format {
                Format::F32 => 0.0,
                Format::F16 => share * HALF_FLOAT_SHARE,
                Format::Q8 | Format::Q4 => share_of(&own)?,
            };
            let larger = unit.bytes(graph, &own);
            steps.push(Step { unit: number, format, gain: share - left, bytes: larger.saturating_sub(bytes) });
            (share, bytes) = (left, larger);
        }
    }
    Ok(steps)
}
