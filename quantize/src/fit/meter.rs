//! How far a file's answers are from the float model's: the mean Kullback-Leibler divergence per step, by running both.

use super::calibration::{Calibration, SEGMENT_STEPS};
use crate::error::Error;
use brooklet::kernels;
use brooklet::mem::Line;
use brooklet::{Model, Session, State};
use rayon::prelude::*;
use std::ops::Range;
use std::path::Path;

/// Segments that are run side by side.
const AT_ONCE: usize = 4;

/// Holds the float model's answers.
pub(super) struct Meter<'c> {
    calibration: &'c Calibration,
    segments: Vec<Range<usize>>,
    /// The float model's outputs of every segment, each (steps, outputs).
    reference: Vec<Vec<f32>>,
}

impl<'c> Meter<'c> {
    /// Runs the float model over up to `count` segments of the stream, none longer than the context; `out` is the file that
    /// errors name.
    pub(super) fn new(calibration: &'c Calibration, float: &Model<'_>, count: usize, context: usize, out: &Path) -> Result<Self, Error> {
        let segments = calibration.segments(float.channels().unwrap_or(1), count, context);
        if segments.is_empty() {
            return Err(Error::invalid(out, "calibration", "holds no steps; give a longer stream"));
        }
        let reference = segments.par_iter().map(|segment| outputs(float, calibration, segment)).collect::<Result<_, Error>>()?;
        Ok(Meter { calibration, segments, reference })
    }

    /// Steps that are measured.
    pub(super) fn steps(&self) -> usize {
        self.segments.iter().map(Range::len).sum()
    }

    /// Divergence from the float model's answers.
    pub(super) fn divergence(&self, model: &Model<'_>) -> Result<Divergence, Error> {
        let unlimited = Divergence { mean: f64::INFINITY, worst: f64::INFINITY };
        Ok(self.divergence_within(model, unlimited)?.unwrap_or(unlimited))
    }

    /// Divergence from the float model's answers; `None`, and most of the work saved, if it is beyond `most`.
    pub(super) fn divergence_within(&self, model: &Model<'_>, most: Divergence) -> Result<Option<Divergence>, Error> {
        let (mut sum, mut worst) = (0.0, 0.0f64);
        // A few segments at a time: enough for the threads, few enough to stop soon.
        for (segments, references) in self.segments.chunks(AT_ONCE).zip(self.reference.chunks(AT_ONCE)) {
            let sums = segments.par_iter().zip(references).map(|(segment, reference)| self.sum(model, segment, reference));
            for (sum_of_one, segment) in sums.collect::<Result<Vec<f64>, Error>>()?.into_iter().zip(segments) {
                sum += sum_of_one;
                worst = worst.max(sum_of_one / segment.len() as f64);
            }
            // Sums only grow. Answers that are no numbers are beyond everything.
            if sum.is_nan() || sum / self.steps() as f64 > most.mean || worst > most.worst {
                return Ok(None);
            }
        }
        Ok(Some(Divergence { mean: sum / self.steps() as f64, worst }))
    }

    /// Divergence summed over one segment.
    fn sum(&self, model: &Model<'_>, segment: &Range<usize>, reference: &[f32]) -> Result<f64, Error> {
        let got = outputs(model, self.calibration, segment)?;
        let steps = reference.chunks_exact(model.outputs()).zip(got.chunks_exact(model.outputs()));
        Ok(steps.map(|(p, q)| divergence(p, q)).sum())
    }
}

/// How far answers are from the float model's, in nats per step.
#[derive(Clone, Copy, Debug)]
pub(super) struct Divergence {
    /// Mean over all segments.
    pub(super) mean: f64,
    /// Mean over the worst segment.
    pub(super) worst: f64,
}

impl Divergence {
    /// Whether both means are within those of `most`.
    pub(super) fn is_within(self, most: Divergence) -> bool {
        self.mean <= most.mean && self.worst <= most.worst
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
