//! Smoothing: where a few channels are much larger than the others of what a matrix multiplies, they take the precision of their groups when activations
//! are rounded to 8 bits; so do the columns behind them when weights are. A factor for each channel goes from one to the other.
//!
//! The channels are made smaller where that costs nothing: in the gain of the norm that writes them, or in the rows of the matrix that a gate multiplies.

use super::uses::{Around, MatrixUse, blocks, change, each_tensor, matrix_uses, overlap, read_by_matrices, touches};
use crate::calibrate::mean_squares;
use crate::error::Error;
use crate::fit::Calibration;
use crate::graph::{Graph, Operand, Role, TensorDecl, Values};
use brooklet::ops::{Access, Linear, Multiply, Op, SiluMultiply, TensorId};
use std::collections::HashSet;

/// Steps of the stream that tell how large a channel is.
const STEPS: usize = 1024;
/// Power of a channel's mean square, over its columns' squares, that it is divided by. With independent channels a quarter would make the product of both
/// errors smallest; the largest of a group are less independent than that.
const POWER: f64 = 0.2;
/// Share of the mean below which no channel counts as small: it may be large on another stream.
const LEAST_SHARE: f64 = 1e-3;

/// Where channels can be divided, and the matrices that make up for it.
struct Place {
    divide: Divide,
    readers: Vec<MatrixUse>,
}

/// What is divided.
enum Divide {
    /// The gain and the bias of the norm at this operation.
    Gain(usize),
    /// The rows from `at` on of a matrix that is used once, and of its bias.
    Rows { matrix: TensorId, bias: Option<TensorId>, at: usize },
}

/// Evens out channels by what `calibration`, or reproducible noise, makes of them. Returns at how many places.
pub(super) fn smooth(graph: &mut Graph<'_>, calibration: Option<&Calibration>) -> Result<usize, Error> {
    let places = places(graph);
    let noise = calibration.is_none().then(|| Calibration::noise(graph, false, STEPS));
    let Some(stream) = calibration.or(noise.as_ref()).filter(|_| !places.is_empty()) else { return Ok(0) };
    let wanted: HashSet<usize> = places.iter().flat_map(|place| &place.readers).map(|u| u.matrix as usize).collect();
    let heard = mean_squares(graph, &wanted, stream, STEPS)?;
    let mut done = 0;
    for place in places {
        // Experts hear a part of the stream: the reader that heard most.
        let Some((_, activations)) = place.readers.iter().filter_map(|u| heard.get(&(u.matrix as usize))).max_by_key(|(steps, _)| *steps)
        else {
            continue;
        };
        let factors = factors(activations, &columns(graph, &place.readers, activations.len())?);
        if factors.iter().any(|factor| !factor.is_normal()) {
            continue;
        }
        divide(graph, &place.divide, &factors);
        for u in &place.readers {
            let factors = factors.clone();
            change(graph, u.matrix, move |data| {
                data.chunks_exact_mut(factors.len()).for_each(|row| row.iter_mut().zip(&factors).for_each(|(w, s)| *w *= s));
            });
        }
        done += 1;
    }
    Ok(done)
}

/// Squares of the columns of all readers, as if each were as large as the others.
fn columns(graph: &Graph<'_>, readers: &[MatrixUse], cols: usize) -> Result<Vec<f64>, Error> {
    let mut all = vec![0.0; cols];
    for u in readers {
        let Values::Matrix(role, load) = &graph.tensors[u.matrix as usize].values else { continue };
        // What stays in float is not rounded.
        if *role == Role::Router {
            continue;
        }
        let mut own = vec![0.0; cols];
        for row in load()?.chunks_exact(cols) {
            own.iter_mut().zip(row).for_each(|(sum, w)| *sum += f64::from(*w).powi(2));
        }
        let sum: f64 = own.iter().sum();
        all.iter_mut().zip(own).for_each(|(all, own)| *all += own / sum.max(f64::MIN_POSITIVE));
    }
    Ok(all)
}

/// What each channel is divided by; their geometric mean is 1.
fn factors(activations: &[f64], columns: &[f64]) -> Vec<f32> {
    let floor = |x: &[f64]| LEAST_SHARE * x.iter().sum::<f64>() / x.len().max(1) as f64;
    let (least_activation, least_column) = (floor(activations), floor(columns));
    let ratios = activations.iter().zip(columns).map(|(a, c)| (a + least_activation) / (c + least_column));
    let logs: Vec<f64> = ratios.map(|ratio| POWER * ratio.ln()).collect();
    let mean = logs.iter().sum::<f64>() / logs.len().max(1) as f64;
    logs.iter().map(|log| (log - mean).exp() as f32).collect()
}

fn divide(graph: &mut Graph<'_>, what: &Divide, factors: &[f32]) {
    match *what {
        Divide::Gain(at) => {
            let Op::Norm(mut norm) = graph.ops[at] else { return };
            let ones = || vec![1.0; factors.len()];
            norm.weight = Some(divided(graph, norm.weight, ones, factors));
            norm.bias = norm.bias.map(|bias| divided(graph, Some(bias), ones, factors));
            graph.ops[at] = Op::Norm(norm);
        }
        Divide::Rows { matrix, bias, at } => {
            let cols = graph.tensors[matrix as usize].cols;
            let own = factors.to_vec();
            change(graph, matrix, move |data| {
                data[at * cols..].chunks_exact_mut(cols).zip(&own).for_each(|(row, s)| row.iter_mut().for_each(|w| *w /= s));
            });
            if let Some(Values::Array(bias)) = bias.map(|bias| &mut graph.tensors[bias as usize].values) {
                bias[at..].iter_mut().zip(factors).for_each(|(x, s)| *x /= s);
            }
        }
    }
}

/// An array divided by `factors`: itself, or another one where several operations use it or there is none yet.
fn divided(graph: &mut Graph<'_>, array: Option<TensorId>, ones: impl Fn() -> Vec<f32>, factors: &[f32]) -> TensorId {
    let shared = array.is_some_and(|id| used(graph, id) > 1);
    let before = array.map(|id| &mut graph.tensors[id as usize]);
    if let (Some(id), Some(TensorDecl { values: Values::Array(data), .. }), false) = (array, before, shared) {
        data.iter_mut().zip(factors).for_each(|(x, s)| *x /= s);
        return id;
    }
    let (mut data, name) = match array.map(|id| &graph.tensors[id as usize]) {
        Some(TensorDecl { values: Values::Array(data), name, .. }) => (data.clone(), format!("{name}.smoothed{}", graph.tensors.len())),
        _ => (ones(), format!("smoothed{}", graph.tensors.len())),
    };
    data.iter_mut().zip(factors).for_each(|(x, s)| *x /= s);
    graph.array(name, data)
}

/// How many times operations name a tensor.
fn used(graph: &Graph<'_>, id: TensorId) -> usize {
    let mut count = 0;
    graph.ops.iter().for_each(|op| each_tensor(&mut op.clone(), &mut |other| count += usize::from(*other == id)));
    count
}

/// Norms whose output only matrices read, and gates of the same kind.
fn places(graph: &Graph<'_>) -> Vec<Place> {
    let uses = matrix_uses(graph);
    let around = Around { touches: touches(graph), blocks: blocks(graph), uses: &uses };
    let used_once = |matrix: TensorId| uses.iter().filter(|u| u.matrix == matrix).count() == 1;
    let mut found = Vec::new();
    for (i, op) in graph.ops.iter().enumerate() {
        let (divide, readers) = match op {
            Op::Norm(norm) => (Some(Divide::Gain(i)), read_by_matrices(i, norm.out, norm.x == norm.out, &around)),
            Op::SiluMultiply(SiluMultiply { x, y }) | Op::Multiply(Multiply { x, y }) => {
                (rows_of(graph, i, *y, &around), read_by_matrices(i, *x, true, &around))
            }
            _ => continue,
        };
        let (Some(divide), Some(readers)) = (divide, readers) else { continue };
        let rounded = |u: &MatrixUse| matches!(graph.tensors[u.matrix as usize].values, Values::Matrix(..)) && used_once(u.matrix);
        if readers.iter().all(rounded) {
            found.push(Place { divide, readers });
        }
    }
    found
}

/// The rows of the matrix that writes `y`, if nothing but operation `i` reads it.
fn rows_of(graph: &Graph<'_>, i: usize, y: Operand, around: &Around<'_>) -> Option<Divide> {
    let mut others = around.touches[y.value].iter().filter(|touch| touch.op != i && overlap(touch.operand, y));
    let writer = others.next().filter(|touch| touch.op < i && touch.access == Access::Write)?;
    let (Op::Linear(Linear { w, bias, out, .. }), None) = (&graph.ops[writer.op], others.next()) else { return None };
    let once = around.uses.iter().filter(|u| u.matrix == *w).count() == 1 && bias.is_none_or(|bias| used(graph, bias) == 1);
    let whole = out.at <= y.at && y.at + y.len <= out.at + out.len;
    let same_step = around.blocks[writer.op] == around.blocks[i];
    (once && whole && same_step).then(|| Divide::Rows { matrix: *w, bias: *bias, at: (y.at - out.at) as usize })
}

#[cfg(test)]
mod tests {
    use super::factors;

    #[test]
    fn large_channels_are_divided_by_more_and_small_ones_not_blown_up() {
        let mut activations = vec![1.0; 64];
        (activations[3], activations[5]) = (100.0, 0.0);
        let all = factors(&activations, &[1.0; 64]);
        let mean: f64 = all.iter().map(|&x| f64::from(x).ln()).sum();
        assert!(mean.abs() < 1e-4, "{mean}");
        assert!((all[3] / all[0] - 100.0f32.powf(0.2)).abs() < 0.01 && all[5] > 0.25 * all[0], "{all:?}");
        // Columns that are larger where channels are smaller already: nothing is to be done.
        let even = factors(&[4.0, 1.0], &[4.0, 1.0]);
        assert!(even.iter().all(|x| (x - 1.0).abs() < 1e-3), "{even:?}");
        // Where nothing was heard, nothing can be told: such places are left as they are.
        assert!(factors(&[0.0; 8], &[0.0; 8]).iter().all(|x| x.is_nan()));
    }
}
