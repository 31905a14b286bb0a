//! What a model is measured on: a stream of its own kind of input, cut into segments that each begin from an empty state.

use crate::graph::{Graph, Input};
use std::ops::Range;

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
    pub(super) fn noise(graph: &Graph<'_>, takes_gaps: bool, steps: usize) -> Self {
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

    /// Steps in the stream, for frames of `channels` samples.
    fn steps(&self, channels: usize) -> usize {
        match self {
            Calibration::Tokens(tokens) => tokens.len(),
            Calibration::Frames { samples, .. } => samples.len() / channels.max(1),
        }
    }

    /// Up to `count` segments of at most `most_steps` steps, spread evenly over the stream.
    pub(super) fn segments(&self, channels: usize, count: usize, most_steps: usize) -> Vec<Range<usize>> {
        let steps = self.steps(channels);
        let len = SEGMENT_STEPS.min(most_steps).min(steps);
        let count = count.min(steps.checked_div(len).unwrap_or(0));
        (0..count).map(|i| (steps - len) * i / (count - 1).max(1)).map(|start| start..start + len).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::{Calibration, SEGMENT_STEPS};

    #[test]
    fn segments_are_spread_over_the_stream() {
        let stream = |steps| Calibration::Tokens(vec![0; steps]);
        assert_eq!(stream(1000).segments(0, 2, usize::MAX), [0..SEGMENT_STEPS, 1000 - SEGMENT_STEPS..1000]);
        assert_eq!(stream(130).segments(0, 8, usize::MAX), [0..64, 66..130]);
        assert_eq!(stream(10).segments(0, 8, 4), [0..4, 6..10]);
        assert_eq!(stream(3).segments(0, 8, 64), [0..3]);
        assert_eq!(stream(0).segments(0, 8, 64), []);
        let frames = Calibration::Frames { samples: vec![0.0; 12], seconds: None };
        assert_eq!(frames.segments(3, 1, 64), [0..4]);
    }
}
