//! How much of the divergence each unit is to blame for, and so what a finer format of it would bring.

use super::Measurements;
use super::candidates::{Unit, all_at_least};
use super::selection::Step;
use crate::error::Error;
use crate::graph::Graph;
use brooklet::kernels::quant::Format;

/// Divergence that a format leaves, over that of another format, about. Weights rounded to 4 bits are off by 7 % (to 2, 3, 5 and 6
/// bits by 33, 15, 3.5 and 1.7 %), to 8 bits by 0.5 %, as are activations; half floats are off by 0.02 %, and float activations by nothing. Squares of these add up to a
/// divergence. Only an order of steps follows from it, so it need not be measured.
fn relative_share(format: Format) -> f64 {
    match format {
        Format::T2 => 22.0,
        Format::Q3 => 4.4,
        Format::Q4 => 1.0,
        Format::Q5 => 0.25,
        Format::Q6 => 6.5e-2,
        Format::Q8 => 1e-2,
        Format::F16 => 1e-5,
        Format::F32 => 0.0,
    }
}

/// Every step that a unit can take, from its own format to the finest, unit by unit.
///
/// `divergence` measures a file of these formats of all tensors. A unit's share is the divergence when it alone is rounded, in
/// an otherwise float model: rounding errors of different units are independent, so that shares about add up, and a small one is
/// not lost in the noise of the others.
pub(super) fn gains(
    graph: &Graph<'_>,
    plain: &[Option<Format>],
    units: &[Unit],
    measurements: &mut Measurements<'_>,
    mut divergence: impl FnMut(&[Option<Format>]) -> Result<f64, Error>,
) -> Result<Vec<Step>, Error> {
    let float = all_at_least(plain, Format::F32);
    measurements.to_come = units.len();
    let mut steps = Vec::new();
    for (number, unit) in units.iter().enumerate() {
        measurements.begin("each matrix alone");
        let mut formats = float.clone();
        unit.tensors.iter().for_each(|&tensor| formats[tensor] = plain[tensor]);
        let share = divergence(&formats)?;

        let mut own = plain.to_vec();
        let (coarsest, finer) = unit.formats(plain);
        let (mut left, mut bytes) = (share, unit.bytes(graph, plain));
        for &format in finer {
            unit.set(&mut own, plain, format);
            let less = share * relative_share(format) / relative_share(coarsest);
            let larger = unit.bytes(graph, &own);
            steps.push(Step { unit: number, format, gain: left - less, bytes: larger.saturating_sub(bytes) });
            (left, bytes) = (less, larger);
        }
    }
    Ok(steps)
}
