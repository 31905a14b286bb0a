//! How far a file's answers are from the float model's: the mean Kullback-Leibler divergence per step, by running both.

use super::calibration::{Calibration, SEGMENT_STEPS};
use crate::error::Error;
use brooklet::kernels;
use brooklet::mem::Line;
use brooklet::{Model, Session, State};
use rayon::prelude::*;
use std::ops::Range;

/// Holds the float model's answers.
pub(super) struct Meter<'c> {
    calibration: &'c Calibration,
    segments: Vec<Range<usize>>,
    /// The float model's outputs of every segment, each (steps, outputs).
    reference: Vec<Vec<f32>>,
}

impl<'c> Meter<'c> {
    /// Runs the float model over up to `count` segments of the stream, none longer than the context.
    pub(super) fn new(calibration: &'c Calibration, float: &Model<'_>, count: usize, context: usize) -> Result<Self, Error> {
        let segments = calibration.segments(float.channels().unwrap_or(1), count, context);
        let reference = segments.par_iter().map(|segment| outputs(float, calibration, segment)).collect::<Result<_, Error>>()?;
        Ok(Meter { calibration, segments, reference })
    }

    /// Steps that are measured.
    pub(super) fn steps(&self) -> usize {
        self.segments.iter().map(Range::len).sum()
    }

    /// Mean divergence from the float model's answers, in nats per step.
    pub(super) fn kl(&self, model: &Model<'_>) -> Result<f64, Error> {
        let sums: Vec<f64> = (self.segments.par_iter().zip(&self.reference))
            .map(|(segment, reference)| {
                let got = outputs(model, self.calibration, segment)?;
                let steps = reference.chunks_exact(model.outputs()).zip(got.chunks_exact(model.outputs()));
                Ok(steps.map(|(p, q)| divergence(p, q)).sum())
            })
            .collect::<Result<_, Error>>()?;
        let mean = sums.iter().sum::<f64>() / self.steps().max(1) as f64;
        // Answers that are no numbers are as far away as can be.
        Ok(if mean.is_nan() { f64::INFINITY } else { mean })
    }
}

/// A segment's outputs from an empty state, (steps, outputs).
fn outputs(model: &Model<'_>, calibration: &Calibration, segment: &Range<usize>) -> Result<Vec<f32>, Error> {
    let lines = |bytes: usize| vec![Line::ZERO; bytes.div_ceil(size_of::<Line>())];
    let (mut state, mut scratch) = (lines(model.state_bytes()), lines(model.scratch_bytes(SEGMENT_STEPS)));
    let mut state = State::new(model, Line::bytes_mut(&mut state))?;
    let mut session = Session::new(model, kernels::detect(), &mut state, Line::bytes_mut(&mut scratch))?;
    let mut out = Vec::with_capacity(segment.len() * model.outputs());
    let mut each = |_: usize, y: &[f32]| out.extend_from_slice(y);
    match calibration {
        Calibration::Tokens(tokens) => session.prefill_tokens_each(&tokens[segment.clone()], &mut each)?,
        Calibration::Frames { samples, seconds } => {
            let channels = model.channels().unwrap_or(1);
            let frames = &samples[segment.start * channels..segment.end * channels];
            match seconds {
                Some(seconds) => session.prefill_frames_after_each(frames, &seconds[segment.clone()], &mut each)?,
                None => session.prefill_frames_each(frames, &mut each)?,
            }
        }
    }
    Ok(out)
}

/// Kullback-Leibler divergence of softmax(q) from softmax(p), in nats.
fn divergence(p: &[f32], q: &[f32]) -> f64 {
    let log_total = |x: &[f32]| {
        let max = x.iter().fold(f64::NEG_INFINITY, |m, &x| m.max(f64::from(x)));
        max + x.iter().map(|&x| (f64::from(x) - max).exp()).sum::<f64>().ln()
    };
    let (p_total, q_total) = (log_total(p), log_total(q));
    let term = |(&p, &q): (&f32, &f32)| {
        let p = f64::from(p) - p_total;
        p.exp() * (p - (f64::from(q) - q_total))
    };
    p.iter().zip(q).map(term).sum()
}

#[cfg(test)]
mod tests {
    use super::divergence;

    #[test]
    fn divergence_is_that_of_the_definition() {
        let (p, q) = ([0.5f32.ln(), 0.25f32.ln(), 0.25f32.ln()], [1.0f32, 1.0, 1.0]);
        let expected = 0.5 * (0.5f64 * 3.0).ln() + 0.5 * (0.25f64 * 3.0).ln();
        assert!((divergence(&p, &q) - expected).abs() < 1e-6);
        assert_eq!(divergence(&p, &p), 0.0);
        assert!(divergence(&p, &[f32::NAN, 0.0, 0.0]).is_nan());
    }
}
