//! How far a file's answers are from the float model's, by running both: the mean Kullback-Leibler divergence per step; for models that
//! give measured values the squared error over the values' variance.

use super::calibration::{Calibration, SEGMENT_STEPS};
use crate::error::Error;
use brooklet::artifact::OutputSpec;
use brooklet::kernels::{self, KernelTable};
use brooklet::mem::Line;
use brooklet::{Model, Session, State};
use rayon::prelude::*;
use std::ops::Range;
use std::path::Path;

/// Segments that are run side by side.
const AT_ONCE: usize = 4;

/// Holds the float model's answers.
pub(crate) struct Meter {
    calibration: Calibration,
    segments: Vec<Range<usize>>,
    /// The float model's outputs of every segment, each (steps, outputs).
    reference: Vec<Vec<f32>>,
    /// What a squared error of each output counts, (outputs); `None` for models that give probabilities.
    weights: Option<Vec<f64>>,
}

impl Meter {
    /// Runs the float model over the segments of the stream; `out` is the file that errors name.
    pub(crate) fn new(calibration: Calibration, float: &Model<'_>, segments: Vec<Range<usize>>, out: &Path) -> Result<Self, Error> {
        if segments.is_empty() {
            return Err(Error::invalid(out, "calibration", "holds no steps; give a longer stream"));
        }
        let reference: Vec<Vec<f32>> =
            segments.par_iter().map(|segment| outputs(kernels::detect(), float, &calibration, segment)).collect::<Result<_, Error>>()?;
        let broken = |(segment, outputs): (&Range<usize>, &Vec<f32>)| {
            let at = outputs.iter().position(|y| !y.is_finite())?;
            Some(segment.start + at / float.outputs().max(1))
        };
        if let Some(step) = segments.iter().zip(&reference).find_map(broken) {
            let problem = format!(
                "the float model's own answers are no finite numbers from step {step} on: look for a sample or a weight that is beyond measure"
            );
            return Err(Error::invalid(out, "calibration", problem));
        }
        let gives_values = matches!(float.header().output, OutputSpec::Values { .. });
        let weights = gives_values.then(|| inverse_variances(&reference, float.outputs()));
        Ok(Meter { calibration, segments, reference, weights })
    }

    /// Steps that are measured.
    pub(crate) fn steps(&self) -> usize {
        self.segments.iter().map(Range::len).sum()
    }

    /// Divergence from the float model's answers.
    pub(crate) fn divergence(&self, model: &Model<'_>) -> Result<Divergence, Error> {
        let unlimited = Divergence { mean: f64::INFINITY, worst: f64::INFINITY };
        Ok(self.divergence_within(model, unlimited)?.unwrap_or(unlimited))
    }

    /// The same with other kernels than the usual.
    pub(crate) fn divergence_by(&self, table: &'static KernelTable, model: &Model<'_>) -> Result<f64, Error> {
        let sums = self.segments.par_iter().zip(&self.reference).map(|(segment, reference)| self.sum(table, model, segment, reference));
        Ok(sums.collect::<Result<Vec<f64>, Error>>()?.iter().sum::<f64>() / self.steps() as f64)
    }

    /// Divergence from the float model's answers; `None`, and most of the work saved, if it is beyond `most`.
    pub(crate) fn divergence_within(&self, model: &Model<'_>, most: Divergence) -> Result<Option<Divergence>, Error> {
        let table = kernels::detect();
        let (mut sum, mut worst) = (0.0, 0.0f64);
        // A few segments at a time: enough for the threads, few enough to stop soon.
        for (segments, references) in self.segments.chunks(AT_ONCE).zip(self.reference.chunks(AT_ONCE)) {
            let sums = segments.par_iter().zip(references).map(|(segment, reference)| self.sum(table, model, segment, reference));
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

    /// Begins a sum of what several files change in the float model's answers.
    pub(crate) fn superposition(&self) -> Superposition {
        Superposition { answers: self.reference.clone() }
    }

    /// Adds what a file changes; gives back its divergence.
    pub(crate) fn superpose(&self, sum: &mut Superposition, model: &Model<'_>) -> Result<f64, Error> {
        let each = self.segments.par_iter().zip(&self.reference).zip(&mut sum.answers).map(|((segment, reference), sum)| {
            let got = outputs(kernels::detect(), model, &self.calibration, segment)?;
            sum.iter_mut().zip(got.iter().zip(reference)).for_each(|(sum, (got, float))| *sum += got - float);
            Ok(self.between(reference, &got, model.outputs()))
        });
        Ok(each.collect::<Result<Vec<f64>, Error>>()?.iter().sum::<f64>() / self.steps() as f64)
    }

    /// Divergence of all changes together, as if none depended on another.
    pub(crate) fn together(&self, sum: &Superposition, outputs: usize) -> f64 {
        let each = self.reference.par_iter().zip(&sum.answers).map(|(reference, sum)| self.between(reference, sum, outputs));
        each.collect::<Vec<f64>>().iter().sum::<f64>() / self.steps() as f64
    }

    /// Divergence and perplexities over the positions of a segment.
    pub(crate) fn profile(&self, model: &Model<'_>) -> Result<Profile, Error> {
        let width = model.outputs();
        let of_segment = |(segment, reference): (&Range<usize>, &Vec<f32>)| {
            let got = outputs(kernels::detect(), model, &self.calibration, segment)?;
            let steps = reference.chunks_exact(width).zip(got.chunks_exact(width));
            let mut own = Profile::default();
            for ((p, q), at) in steps.zip(segment.clone()) {
                own.by_position.push(self.of_step(p, q));
                // Each step's answer guesses the next token of the stream.
                if let Calibration::Tokens(tokens) = &self.calibration
                    && let Some(&next) = tokens.get(at + 1)
                {
                    own.guessed += 1;
                    own.surprise += surprise(q, next);
                    own.float_surprise += surprise(p, next);
                }
            }
            own.stretches = own.by_position.chunks(SEGMENT_STEPS).map(|some| some.iter().sum()).collect();
            Ok(own)
        };
        let all = self.segments.par_iter().zip(&self.reference).map(of_segment).collect::<Result<Vec<Profile>, Error>>()?;
        // In the segments' order: the sums do not depend on the threads.
        let longest = all.iter().map(|p| p.by_position.len()).max().unwrap_or(0);
        let mut whole = Profile { by_position: vec![0.0; longest], ..Profile::default() };
        for one in &all {
            whole.stretches.extend(&one.stretches);
            whole.guessed += one.guessed;
            whole.surprise += one.surprise;
            whole.float_surprise += one.float_surprise;
            whole.by_position.iter_mut().zip(&one.by_position).for_each(|(sum, x)| *sum += x / all.len() as f64);
        }
        Ok(whole)
    }

    /// Divergence summed over one segment.
    fn sum(&self, table: &'static KernelTable, model: &Model<'_>, segment: &Range<usize>, reference: &[f32]) -> Result<f64, Error> {
        let got = outputs(table, model, &self.calibration, segment)?;
        Ok(self.between(reference, &got, model.outputs()))
    }

    /// Divergence summed over the steps of two answers, each (steps, outputs).
    fn between(&self, reference: &[f32], got: &[f32], outputs: usize) -> f64 {
        reference.chunks_exact(outputs).zip(got.chunks_exact(outputs)).map(|(p, q)| self.of_step(p, q)).sum()
    }

    fn of_step(&self, p: &[f32], q: &[f32]) -> f64 {
        match &self.weights {
            None => divergence(p, q),
            Some(weights) => p.iter().zip(q).zip(weights).map(|((p, q), w)| w * (f64::from(*p) - f64::from(*q)).powi(2)).sum(),
        }
    }
}

/// The float model's answers with what several files change in them, added up; by segment, each (steps, outputs).
pub(crate) struct Superposition {
    answers: Vec<Vec<f32>>,
}

/// How far answers are from the float model's, in nats per step.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Divergence {
    /// Mean over all segments.
    pub(crate) mean: f64,
    /// Mean over the worst segment.
    pub(crate) worst: f64,
}

impl Divergence {
    /// Whether both means are within those of `most`.
    pub(crate) fn is_within(self, most: Divergence) -> bool {
        self.mean <= most.mean && self.worst <= most.worst
    }
}

/// What a whole measurement says besides a mean.
#[derive(Clone, Debug, Default)]
pub(crate) struct Profile {
    /// Divergence at every position of a segment, the mean over segments.
    pub(crate) by_position: Vec<f64>,
    /// Divergence summed over stretches of [`SEGMENT_STEPS`].
    pub(crate) stretches: Vec<f64>,
    /// Tokens that were guessed.
    guessed: usize,
    /// Nats by which they surprised the file, summed.
    surprise: f64,
    /// Nats by which they surprised the float model, summed.
    float_surprise: f64,
}

impl Profile {
    /// Mean divergence per step.
    pub(crate) fn mean(&self) -> f64 {
        self.by_position.iter().sum::<f64>() / self.by_position.len().max(1) as f64
    }

    /// How far the mean is from that of an endless stream of this kind, as a share of itself: the standard error over stretches.
    pub(crate) fn relative_error(&self) -> f64 {
        let (count, sum) = (self.stretches.len() as f64, self.stretches.iter().sum::<f64>());
        let squares = self.stretches.iter().map(|x| x * x).sum::<f64>();
        if count < 2.0 || sum <= 0.0 {
            return 1.0;
        }
        ((squares / (sum * sum) - 1.0 / count) * count / (count - 1.0)).max(0.0).sqrt()
    }

    /// Perplexity of the stream, and over the float model's; `None` for streams of samples.
    pub(crate) fn perplexity(&self) -> Option<(f64, f64)> {
        let guessed = self.guessed as f64;
        (self.guessed > 0).then(|| ((self.surprise / guessed).exp(), ((self.surprise - self.float_surprise) / guessed).exp()))
    }
}

/// A segment's outputs from an empty state, (steps, outputs).
fn outputs(table: &'static KernelTable, model: &Model<'_>, calibration: &Calibration, segment: &Range<usize>) -> Result<Vec<f32>, Error> {
    let lines = |bytes: usize| vec![Line::ZERO; bytes.div_ceil(size_of::<Line>())];
    let (mut state, mut scratch) = (lines(model.state_bytes()), lines(model.scratch_bytes(SEGMENT_STEPS)));
    let mut state = State::new(model, Line::bytes_mut(&mut state))?;
    let mut session = Session::new(model, table, &mut state, Line::bytes_mut(&mut scratch))?;
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

/// Logarithm of the sum of exponentials.
fn log_total(x: &[f32]) -> f64 {
    let max = x.iter().fold(f64::NEG_INFINITY, |m, &x| m.max(f64::from(x)));
    max + x.iter().map(|&x| (f64::from(x) - max).exp()).sum::<f64>().ln()
}

/// Kullback-Leibler divergence of softmax(q) from softmax(p), in nats.
fn divergence(p: &[f32], q: &[f32]) -> f64 {
    let (p_total, q_total) = (log_total(p), log_total(q));
    let term = |(&p, &q): (&f32, &f32)| {
        let p = f64::from(p) - p_total;
        p.exp() * (p - (f64::from(q) - q_total))
    };
    p.iter().zip(q).map(term).sum()
}

/// Nats by which `token` surprises who holds these logits.
fn surprise(logits: &[f32], token: u32) -> f64 {
    logits.get(token as usize).map_or(0.0, |&x| log_total(logits) - f64::from(x))
}

/// One over each output's variance over all steps, and over the number of outputs; nothing for an output that never moves.
fn inverse_variances(reference: &[Vec<f32>], width: usize) -> Vec<f64> {
    let steps = reference.iter().map(|outputs| outputs.len() / width.max(1)).sum::<usize>().max(1) as f64;
    let mean_of = |output: usize, f: &dyn Fn(f64) -> f64| {
        reference.iter().flat_map(|all| all.iter().skip(output).step_by(width)).map(|&x| f(f64::from(x))).sum::<f64>() / steps
    };
    let weight = |output: usize| {
        let mean = mean_of(output, &|x| x);
        let variance = mean_of(output, &|x| (x - mean).powi(2));
        if variance > 0.0 { 1.0 / (variance * width as f64) } else { 0.0 }
    };
    (0..width).map(weight).collect()
}

#[cfg(test)]
mod tests {
    use super::{divergence, inverse_variances, surprise};

    #[test]
    fn divergence_is_that_of_the_definition() {
        let (p, q) = ([0.5f32.ln(), 0.25f32.ln(), 0.25f32.ln()], [1.0f32, 1.0, 1.0]);
        let expected = 0.5 * (0.5f64 * 3.0).ln() + 0.5 * (0.25f64 * 3.0).ln();
        assert!((divergence(&p, &q) - expected).abs() < 1e-6);
        assert_eq!(divergence(&p, &p), 0.0);
        assert!(divergence(&p, &[f32::NAN, 0.0, 0.0]).is_nan());
        assert!((surprise(&p, 1) - 4f64.ln()).abs() < 1e-6);
    }

    #[test]
    fn errors_of_values_are_relative_to_how_far_they_move() {
        // Two outputs over four steps: the first has variance 4, the second never moves.
        let weights = inverse_variances(&[vec![1.0, 7.0, 5.0, 7.0], vec![5.0, 7.0, 1.0, 7.0]], 2);
        assert_eq!(weights, [1.0 / 8.0, 0.0]);
    }
}
