//! What each format of each matrix costs: its divergence alone in an otherwise float model.
//!
//! Rounding errors of different matrices are independent, so that what they cost adds up. Small models are measured in every format; of large ones
//! a few formats of a few sets of matrices are, and the rest follows from how far rounding moves the weights.

use super::effort::Effort;
use crate::error::Error;
use crate::fit::candidates::Unit;
use crate::graph::{Graph, Values};
use crate::methods::{self, ACTIVATION_ERROR};
use brooklet::kernels::quant::Format;
use std::collections::BTreeMap;

/// Rows of a matrix that tell how far a format moves its weights.
const SAMPLED_ROWS: usize = 64;
/// Stands for answers that are no numbers, in nats.
const BROKEN: f64 = 1e3;
/// The least that a matrix is taken to cost in proportion to its squared error: one without any influence on the stream still goes last, not nowhere.
const LEAST: f64 = 1e-9;

/// Squared relative error of what a matrix gives, by format: from its weights and, where they are rounded too, its activations.
type Errors = Vec<(Format, f64)>;

/// The loss of every format of every unit, (units, formats); `divergence` measures one set of units in a format, all others in float.
pub(super) fn losses(
    graph: &Graph<'_>,
    units: &[Unit],
    formats: &[Format],
    effort: &Effort,
    mut divergence: impl FnMut(&[usize], Format, usize) -> Result<f64, Error>,
) -> Result<Vec<Vec<f64>>, Error> {
    let errors: Vec<Errors> =
        units.iter().map(|unit| squared_errors(graph, unit, formats, &effort.anchors)).collect::<Result<_, Error>>()?;
    let bands = bands(graph, units, effort.bands);
    let mut measured: Vec<Errors> = vec![Vec::new(); units.len()];
    let mut to_come = bands.len() * effort.anchors.len();
    for band in &bands {
        for &anchor in &effort.anchors {
            let loss = divergence(band, anchor, to_come)?;
            to_come -= 1;
            let loss = if loss.is_finite() { loss } else { BROKEN };
            let share = |unit: usize| error_at(&errors[unit], anchor);
            let all: f64 = band.iter().map(|&unit| share(unit)).sum();
            for &unit in band {
                measured[unit].push((anchor, if all > 0.0 { loss * share(unit) / all } else { 0.0 }));
            }
        }
    }
    Ok(errors.iter().zip(&measured).map(|(errors, measured)| of_all_formats(errors, measured)).collect())
}

fn error_at(errors: &Errors, format: Format) -> f64 {
    errors.iter().find(|(f, _)| *f == format).map_or(0.0, |(_, error)| *error)
}

/// The losses of all formats, from those of some: a power law of the error between two that were measured, in proportion to it beyond.
fn of_all_formats(errors: &Errors, measured: &Errors) -> Vec<f64> {
    // (error, loss) by falling error.
    let points: Vec<(f64, f64)> = measured.iter().map(|&(format, loss)| (error_at(errors, format).max(1e-30), loss)).collect();
    let at = |error: f64| {
        let least = LEAST * error;
        let coarser = points.iter().copied().filter(|p| p.0 >= error).min_by(|a, b| a.0.total_cmp(&b.0));
        let finer = points.iter().copied().filter(|p| p.0 <= error).max_by(|a, b| a.0.total_cmp(&b.0));
        match (coarser, finer) {
            (Some(a), Some(b)) if a.0 > b.0 && a.1 > 0.0 && b.1 > 0.0 => {
                let share = (error / b.0).ln() / (a.0 / b.0).ln();
                (b.1.ln() + share * (a.1 / b.1).ln()).exp().max(least)
            }
            (_, Some(near)) | (Some(near), None) => (near.1 * error / near.0).max(least),
            (None, None) => least,
        }
    };
    let mut all: Vec<f64> = errors.iter().map(|&(_, error)| at(error)).collect();
    // A format of a smaller error that measured worse did so by chance. Mostly that is a finer one; but half floats hold neither 1e5 nor 1e-8.
    let mut by_error: Vec<usize> = (0..all.len()).rev().collect();
    by_error.sort_by(|&a, &b| errors[a].1.total_cmp(&errors[b].1));
    for (&less, &more) in by_error.iter().zip(by_error.iter().skip(1)) {
        all[more] = all[more].max(all[less]);
    }
    all
}

/// Rounds some rows of the unit's first matrix to each format, unless the checkpoint holds what it must be told by anyway.
fn squared_errors(graph: &Graph<'_>, unit: &Unit, formats: &[Format], anchors: &[Format]) -> Result<Errors, Error> {
    let rounded: Vec<Format> = formats.iter().copied().chain(anchors.iter().copied().filter(|f| !formats.contains(f))).collect();
    let decl = &graph.tensors[unit.tensors[0]];
    let Values::Matrix(_, load) = &decl.values else { return Ok(rounded.iter().map(|&f| (f, 0.0)).collect()) };
    let weights = load()?;
    let rows = decl.rows.min(SAMPLED_ROWS);
    let sample: Vec<f32> = (0..rows).flat_map(|i| &weights[decl.rows * i / rows * decl.cols..][..decl.cols]).copied().collect();
    drop(weights);
    let error = |&format: &Format| {
        let of_weights = f64::from(methods::pack(format, rows, decl.cols, &sample).relative_error).powi(2);
        (format, of_weights + if format.is_quantized() { ACTIVATION_ERROR.powi(2) } else { 0.0 })
    };
    Ok(rounded.iter().map(error).collect())
}

/// Units by number, in at most about `most` sets: alone, or with their like in neighbouring layers.
fn bands(graph: &Graph<'_>, units: &[Unit], most: usize) -> Vec<Vec<usize>> {
    if units.len() <= most {
        return (0..units.len()).map(|unit| vec![unit]).collect();
    }
    // Matrices of one kind have the same shape, and names that differ in the layer's number.
    let mut kinds: BTreeMap<(String, usize, usize), Vec<usize>> = BTreeMap::new();
    for (number, unit) in units.iter().enumerate() {
        let decl = &graph.tensors[unit.tensors[0]];
        kinds.entry((decl.name.replace(|c: char| c.is_ascii_digit(), ""), decl.rows, decl.cols)).or_default().push(number);
    }
    let each = (most / kinds.len().max(1)).max(1);
    kinds.into_values().flat_map(|kind| kind.chunks(kind.len().div_ceil(each)).map(<[usize]>::to_vec).collect::<Vec<_>>()).collect()
}

#[cfg(test)]
mod tests {
    use super::of_all_formats;
    use brooklet::kernels::quant::Format;

    #[test]
    fn formats_between_measured_ones_follow_a_power_law() {
        let errors = vec![(Format::Q3, 4e-2), (Format::Q4, 1e-2), (Format::Q5, 2.5e-3), (Format::Q8, 1e-4), (Format::F16, 1e-8)];
        let losses = of_all_formats(&errors, &vec![(Format::Q4, 3e-3), (Format::Q8, 3e-5)]);
        let expected = [1.2e-2, 3e-3, 7.5e-4, 3e-5, 3e-9];
        assert!(losses.iter().zip(expected).all(|(got, want)| (got / want - 1.0).abs() < 1e-9), "{losses:?}");
    }

    #[test]
    fn no_format_costs_more_than_a_coarser_one() {
        let errors = vec![(Format::Q3, 4e-2), (Format::Q4, 1e-2), (Format::Q8, 1e-4)];
        let losses = of_all_formats(&errors, &errors.iter().map(|e| e.0).zip([1.0, 2.0, 0.0]).collect());
        assert_eq!(losses[..2], [2.0, 2.0]);
        assert!(losses[2] > 0.0 && losses[2] < 1e-10);
        assert!(of_all_formats(&errors, &Vec::new()).iter().all(|&loss| loss > 0.0));
    }

    #[test]
    fn half_floats_that_cannot_hold_the_weights_cost_what_they_lose_and_nobody_else() {
        // Of weights beyond the range of half floats, and of some whose measurement went wrong by chance.
        for f16_error in [0.1, 1.0] {
            let errors = vec![(Format::Q3, 4e-2), (Format::Q4, 1e-2), (Format::Q8, 1e-4), (Format::F16, f16_error), (Format::F32, 0.0)];
            for measured in [[4e-3, 1e-3, 1e-5], [4e-3, 6e-3, 1e-5]] {
                let losses = of_all_formats(&errors, &errors.iter().map(|e| e.0).zip(measured).collect());
                let expected = [measured[0].max(measured[1]), measured[1], measured[2]];
                assert!(losses.iter().zip(expected).all(|(got, want)| (got / want - 1.0).abs() < 1e-9), "{losses:?}");
                assert!(losses[3] >= losses[0] && losses[4] < losses[2], "{losses:?}");
            }
        }
    }
}
