//! What a model is measured on: a stream of its own kind of input, cut into segments that each begin from an empty state.

use crate::error::Error;
use crate::graph::{Graph, Input};
use brooklet::ops::Op;
use std::ops::Range;
use std::path::Path;

/// A short text for models that carry a tokenizer.
pub const ENGLISH: &str = include_str!("english.txt");

/// Steps of a segment: long enough for a state to fill, and one prefill.
pub(super) const SEGMENT_STEPS: usize = 64;

/// A stream to measure on.
#[derive(Clone, Debug)]
pub enum Calibration {
    /// Token ids.
    Tokens(Vec<u32>),
    /// Sensor frames.
    Frames {
        /// (steps, channels)
        samples: Vec<f32>,
        /// Seconds before each frame, (steps); without them frames come at the model's own rate.
        seconds: Option<Vec<f32>>,
    },
}

impl Calibration {
    /// Reproducible noise: tokens, or frames around the model's own normalisation, by turns at its rate and at irregular times
    /// if it `takes_gaps`.
    pub(crate) fn noise(graph: &Graph<'_>, takes_gaps: bool, steps: usize) -> Self {
        let mut x = 0x2545_f491_4f6c_dd1d_u64;
        let mut next = move || {
            // xorshift64
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            x >> 40 // 24 bits
        };
        match &graph.input {
            Input::Tokens { vocab, .. } => Calibration::Tokens((0..steps).map(|_| (next() % u64::from((*vocab).max(1))) as u32).collect()),
            Input::Frames { mean, std, rate_hz, .. } => {
                // The sum of three uniform numbers: bell-shaped, of variance 1, within three standard deviations.
                let mut bell = || (0..3).map(|_| next() as f32 / (1 << 23) as f32 - 1.0).sum::<f32>();
                let channels = || mean.iter().zip(std);
                let samples = (0..steps).flat_map(|_| channels()).map(|(mean, std)| mean + std * bell()).collect();
                // From a quarter of the usual time to four times it.
                let mut gap = |step: usize| {
                    let octaves = next() as f32 / (1 << 22) as f32 - 2.0;
                    if (step / SEGMENT_STEPS).is_multiple_of(2) { 1.0 / rate_hz } else { octaves.exp2() / rate_hz }
                };
                let seconds = takes_gaps.then(|| (0..steps).map(&mut gap).collect());
                Calibration::Frames { samples, seconds }
            }
        }
    }

    /// A checksum of the whole stream.
    pub(crate) fn checksum(&self) -> u32 {
        let mut sum = crc32fast::Hasher::new();
        match self {
            Calibration::Tokens(tokens) => tokens.iter().for_each(|token| sum.update(&token.to_le_bytes())),
            Calibration::Frames { samples, seconds } => {
                samples.iter().chain(seconds.iter().flatten()).for_each(|x| sum.update(&x.to_le_bytes()));
            }
        }
        sum.finalize()
    }

    /// Refuses a stream that the model does not take; `out` is the file that errors name.
    pub(crate) fn check(&self, graph: &Graph<'_>, out: &Path) -> Result<(), Error> {
        let problem = match (self, &graph.input) {
            (Calibration::Tokens(tokens), Input::Tokens { vocab, .. }) => {
                tokens.iter().find(|&id| id >= vocab).map(|id| format!("holds token {id}, but the model knows those below {vocab}"))
            }
            (Calibration::Frames { samples, seconds }, Input::Frames { channels, .. }) => {
                let (width, steps) = (channels.len(), self.steps(channels.len()));
                if steps * width != samples.len() || seconds.as_ref().is_some_and(|seconds| seconds.len() != steps) {
                    Some(format!("holds {} samples, which are no whole frames of {width} with a time each", samples.len()))
                } else {
                    // A NaN is a missing sample, where the model has a policy for it.
                    let takes_missing = graph.ops.iter().any(|op| matches!(op, Op::Missing(_)));
                    samples
                        .iter()
                        .position(|x| x.is_infinite() || (x.is_nan() && !takes_missing))
                        .map(|at| format!("holds a sample that is no number, in step {}", at / width))
                }
            }
            (Calibration::Tokens(_), Input::Frames { .. }) => Some("holds tokens, but the model takes sensor frames".to_owned()),
            (Calibration::Frames { .. }, Input::Tokens { .. }) => Some("holds sensor frames, but the model takes tokens".to_owned()),
        };
        problem.map_or(Ok(()), |problem| Err(Error::invalid(out, "calibration", problem)))
    }

    /// Steps in the stream, for frames of `channels` samples.
    pub(crate) fn steps(&self, channels: usize) -> usize {
        match self {
            Calibration::Tokens(tokens) => tokens.len(),
            Calibration::Frames { samples, .. } => samples.len() / channels.max(1),
        }
    }

    /// Up to `count` segments of at most `most_steps` steps, and no more than the fit's, spread evenly over the stream.
    pub(super) fn segments(&self, channels: usize, count: usize, most_steps: usize) -> Vec<Range<usize>> {
        self.spread(channels, count, SEGMENT_STEPS.min(most_steps))
    }

    /// Up to `count` segments of at most `len` steps, spread evenly over the stream.
    pub(crate) fn spread(&self, channels: usize, count: usize, len: usize) -> Vec<Range<usize>> {
        let steps = self.steps(channels);
        let len = len.min(steps);
        // Where a few steps more make another segment of nearly that length, all are a bit shorter, and no step is left out.
        let more = steps.div_ceil(len.max(1));
        let len = if more <= count && 4 * steps >= 3 * more * len { steps.checked_div(more).unwrap_or(0) } else { len };
        let count = count.min(steps.checked_div(len).unwrap_or(0));
        (0..count).map(|i| (steps - len) * i / (count - 1).max(1)).map(|start| start..start + len).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::{Calibration, SEGMENT_STEPS};

    #[test]
    fn segments_are_spread_over_the_stream() {
        let starts = |calibration: &Calibration, channels, count, most_steps| {
            let segments = calibration.segments(channels, count, most_steps);
            let len = segments.first().map_or(0, ExactSizeIterator::len);
            assert!(segments.iter().all(|segment| segment.len() == len));
            (len, segments.iter().map(|segment| segment.start).collect::<Vec<_>>())
        };
        let tokens = |steps| Calibration::Tokens(vec![0; steps]);
        assert_eq!(starts(&tokens(1000), 1, 2, usize::MAX), (SEGMENT_STEPS, vec![0, 1000 - SEGMENT_STEPS]));
        assert_eq!(starts(&tokens(130), 1, 8, usize::MAX), (64, vec![0, 66]));
        // 1 segment of 64 steps would leave a third of them out.
        assert_eq!(starts(&tokens(97), 1, 8, usize::MAX), (48, vec![0, 49]));
        assert_eq!(starts(&tokens(10), 1, 8, 4), (3, vec![0, 3, 7]));
        assert_eq!(starts(&tokens(3), 1, 8, 64), (3, vec![0]));
        assert_eq!(starts(&tokens(0), 1, 8, 64), (0, vec![]));
        let frames = Calibration::Frames { samples: vec![0.0; 12], seconds: None };
        assert_eq!(starts(&frames, 3, 1, 64), (4, vec![0]));
    }
}
