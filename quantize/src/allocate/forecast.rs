//! What a file is foretold to lose: the sum of its parts, corrected by whole files where these agree that it is off, and how far a measurement may be
//! from that.
//!
//! Rounding errors of different matrices meet each other with random signs. Over many steps that cancels; where the loss sits in few stretches of the
//! stream, as in a short recording, it does not, and no sum of parts can know it.

use super::{Choice, Measured};

/// How far the sum of the parts may be from what a whole file measured before it is corrected.
const TRUSTED: f64 = 1.5;
/// Standard deviations of a forecast that are told: nine measurements of ten are within them.
const TOLD_DEVIATIONS: f64 = 2.0;
/// What changes that depend on each other make of their sum in one stretch of the stream, as a share of it: as 128 files of two small models showed.
const NOT_ADDITIVE: f64 = 0.45;

/// What sums of parts are to be multiplied with, by the bytes of whole files in one format and what each measured over the sum of its parts: what the two
/// files nearest to `aim_bytes` agree on. One alone may be off by chance.
pub(super) fn correction(off: &[(u64, f64)], aim_bytes: u64) -> f64 {
    let mut off: Vec<(u64, f64)> = off.iter().copied().filter(|(_, ratio)| ratio.is_finite() && *ratio > 0.0).collect();
    off.sort_by_key(|(bytes, _)| bytes.abs_diff(aim_bytes));
    let nearest = || off.iter().take(2).map(|(_, ratio)| *ratio);
    let (least, most) = (nearest().fold(f64::INFINITY, f64::min), nearest().fold(0.0, f64::max));
    if least > TRUSTED && least.is_finite() {
        least
    } else if most < 1.0 / TRUSTED && most > 0.0 {
        most
    } else {
        1.0
    }
}

/// What of each unit's loss is the rounding of its activations, which no codes change: its share of `activations_loss` is that of its finest quantized format.
pub(super) fn of_activations(choices: &[Vec<Choice>], activations_loss: f64) -> Vec<f64> {
    let finest = |choices: &Vec<Choice>| choices.iter().rev().find(|choice| choice.format.is_quantized()).map_or(0.0, |choice| choice.loss);
    let all: f64 = choices.iter().map(finest).sum();
    let share = |choices| if all > 0.0 { (activations_loss * finest(choices) / all).min(finest(choices)) } else { 0.0 };
    choices.iter().map(share).collect()
}

/// How a forecast was made.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum By {
    /// From the losses of all matrices, measured one by one.
    Losses,
    /// From what each matrix changes in the answers: how these changes meet is known.
    Changes,
}

/// The factor within which a measurement like `measured`, of `whole_steps`, is of its forecast over `steps` of them.
pub(super) fn within(measured: &Measured, by: By, steps: usize, whole_steps: usize) -> f64 {
    let stretches = measured.stretches.max(1) as f64;
    let variance = measured.relative_error.powi(2);
    // Stretches that would count as much if all were alike.
    let alike = 1.0 / (variance * (stretches - 1.0) / stretches + 1.0 / stretches);
    let of_one = match by {
        // The square of a random error has twice its square as variance.
        By::Losses => 2.0,
        By::Changes => NOT_ADDITIVE.powi(2),
    };
    let of_stream = if steps < whole_steps { variance * whole_steps as f64 / steps.max(1) as f64 } else { 0.0 };
    (TOLD_DEVIATIONS * (of_one / alike + of_stream).sqrt()).exp()
}

#[cfg(test)]
mod tests {
    use super::super::{Choice, Measured};
    use super::{By, correction, of_activations, within};
    use brooklet::kernels::quant::Format;

    #[test]
    fn only_what_two_files_agree_on_is_corrected() {
        let off = [(100, 3.0), (130, 2.0), (200, 0.1)];
        assert_eq!(correction(&off, 90), 2.0);
        assert_eq!(correction(&off, 180), 1.0);
        assert_eq!(correction(&[(1, 0.5), (2, 0.4), (9, f64::NAN)], 9), 0.5);
        assert_eq!(correction(&[(1, 3.0)], 1), 3.0);
        assert_eq!(correction(&[], 1), 1.0);
    }

    #[test]
    fn activations_cost_no_more_than_the_finest_of_their_format() {
        let of = |losses: [f64; 2]| {
            [Format::Q4, Format::Q8].iter().zip(losses).map(|(&format, loss)| Choice { format, bytes: 1, loss }).collect::<Vec<_>>()
        };
        let choices = [of([9.0, 3.0]), of([4.0, 1.0])];
        assert_eq!(of_activations(&choices, 2.0), [1.5, 0.5]);
        assert_eq!(of_activations(&choices, 40.0), [3.0, 1.0]);
    }

    #[test]
    fn a_forecast_is_as_good_as_its_stream_is_long() {
        let of = |by, stretches, relative_error| {
            within(&Measured { stretches, relative_error, ..Measured::default() }, by, 64 * stretches, 64 * stretches)
        };
        assert!(of(By::Losses, 128, 0.03) < 1.35 && of(By::Losses, 16, 0.1) < 2.5 && of(By::Losses, 8, 0.6) > 5.0);
        assert!(of(By::Changes, 128, 0.03) < 1.15 && of(By::Changes, 8, 0.6) < 2.0);
        let measured = Measured { stretches: 128, relative_error: 0.03, ..Measured::default() };
        assert!(within(&measured, By::Changes, 1024, 8192) > within(&measured, By::Changes, 8192, 8192));
    }
}
