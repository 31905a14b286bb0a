//! Chooses the next token from a model's outputs.

use std::cmp::Ordering;
use std::collections::VecDeque;

/// How to choose.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Sampling {
    /// Divides the logits; 0 always takes the likeliest token.
    pub(crate) temperature: f32,
    /// Only this many of the likeliest tokens may be chosen; 0 for all.
    pub(crate) top_k: usize,
    /// Of those, only the likeliest that together have this probability.
    pub(crate) top_p: f32,
    /// Divides what speaks for a token that stands among the last [`RECENT`] already; 1 does nothing.
    pub(crate) repeat_penalty: f32,
    /// The same seed gives the same text.
    pub(crate) seed: u64,
}

/// How far back a repetition is held against a token.
pub(crate) const RECENT: usize = 64;

/// Chooses tokens, one after the other.
pub(crate) struct Sampler {
    sampling: Sampling,
    random: SplitMix64,
    /// The last tokens of the text.
    recent: VecDeque<u32>,
    /// Token and logit; kept to be used again.
    candidates: Vec<(u32, f32)>,
}

impl Sampler {
    pub(crate) fn new(sampling: Sampling) -> Self {
        Sampler { sampling, random: SplitMix64(sampling.seed), recent: VecDeque::new(), candidates: Vec::new() }
    }

    /// Tells the sampler of a token of the text.
    pub(crate) fn saw(&mut self, token: u32) {
        if self.recent.len() == RECENT {
            self.recent.pop_front();
        }
        self.recent.push_back(token);
    }

    /// The next token. Only the first `known` ids can be chosen: a vocabulary may be padded beyond what its tokenizer knows.
    pub(crate) fn choose(&mut self, logits: &[f32], known: usize) -> u32 {
        let Sampling { temperature, top_k, top_p, .. } = self.sampling;
        let most = if temperature <= 0.0 {
            1
        } else if top_k == 0 {
            usize::MAX
        } else {
            top_k
        };
        self.gather(logits.get(..known).unwrap_or(logits), most);
        let Some(best) = self.candidates.iter().copied().min_by(likelier) else { return 0 };
        // An infinite logit leaves nothing to weigh.
        if temperature <= 0.0 || !best.1.is_finite() {
            return best.0;
        }
        self.candidates.sort_unstable_by(likelier);
        let weight = |logit: f32| (f64::from(logit - best.1) / f64::from(temperature)).exp();
        let total: f64 = self.candidates.iter().map(|&(_, logit)| weight(logit)).sum();
        let mut kept = 0;
        let mut kept_weight = 0.0;
        while kept < self.candidates.len() && kept_weight < f64::from(top_p) * total {
            kept_weight += weight(self.candidates[kept].1);
            kept += 1;
        }
        let mut left = self.random.unit() * kept_weight;
        for &(token, logit) in &self.candidates[..kept] {
            left -= weight(logit);
            if left < 0.0 {
                return token;
            }
        }
        // Rounding left a sliver behind the last candidate.
        self.candidates[..kept].last().map_or(best.0, |last| last.0)
    }

    /// Makes the `most` likeliest tokens the candidates. Never holds more than twice as many: a large vocabulary is not copied for a few of them.
    fn gather(&mut self, logits: &[f32], most: usize) {
        let penalty = self.sampling.repeat_penalty;
        let mut recent: Vec<u32> = self.recent.iter().copied().filter(|_| penalty != 1.0).collect();
        recent.sort_unstable();
        recent.dedup();
        let mut recent = recent.into_iter().peekable();
        self.candidates.clear();
        let mut last = None;
        for (token, &logit) in (0u32..).zip(logits) {
            let is_recent = recent.next_if_eq(&token).is_some();
            let logit = match is_recent {
                true if logit > 0.0 => logit / penalty,
                true => logit * penalty,
                false => logit,
            };
            if logit.is_nan() || last.is_some_and(|last| likelier(&last, &(token, logit)).is_lt()) {
                continue;
            }
            self.candidates.push((token, logit));
            if self.candidates.len() >= most.saturating_mul(2) {
                last = self.keep(most);
            }
        }
        self.keep(most);
    }

    /// Keeps the `most` likeliest candidates, if there are more; returns the last of them.
    fn keep(&mut self, most: usize) -> Option<(u32, f32)> {
        if self.candidates.len() <= most {
            return None;
        }
        let (_, &mut last, _) = self.candidates.select_nth_unstable_by(most - 1, likelier);
        self.candidates.truncate(most);
        Some(last)
    }
}

/// Orders by logit, largest first; equal ones by id, so that the order is the same everywhere.
fn likelier(a: &(u32, f32), b: &(u32, f32)) -> Ordering {
    b.1.total_cmp(&a.1).then(a.0.cmp(&b.0))
}

/// SplitMix64: small, fast, the same everywhere.
pub(crate) struct SplitMix64(pub(crate) u64);

impl SplitMix64 {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number from 0 up to but not including 1.
    pub(crate) fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::{Sampler, Sampling, SplitMix64};

    const ALL: Sampling = Sampling { temperature: 1.0, top_k: 0, top_p: 1.0, repeat_penalty: 1.0, seed: 7 };

    fn counts(sampling: Sampling, logits: &[f32], draws: usize) -> Vec<usize> {
        let mut sampler = Sampler::new(sampling);
        let mut counts = vec![0; logits.len()];
        for _ in 0..draws {
            counts[sampler.choose(logits, logits.len()) as usize] += 1;
        }
        counts
    }

    #[test]
    fn temperature_zero_is_greedy_and_the_first_of_equals_wins() {
        let mut sampler = Sampler::new(Sampling { temperature: 0.0, ..ALL });
        assert_eq!(sampler.choose(&[0.5, 3.0, -1.0, 3.0], 4), 1);
    }

    #[test]
    fn a_seed_decides_everything() {
        let logits: Vec<f32> = (0..100).map(|i| (i as f32 * 0.7).sin()).collect();
        let draw = |seed| {
            let mut sampler = Sampler::new(Sampling { seed, ..ALL });
            (0..50).map(|_| sampler.choose(&logits, logits.len())).collect::<Vec<_>>()
        };
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
    }

    #[test]
    fn draws_follow_the_probabilities() {
        let logits = [0.6f32.ln(), 0.3f32.ln(), 0.1f32.ln()];
        let n = 20_000;
        for (count, p) in counts(ALL, &logits, n).into_iter().zip([0.6, 0.3, 0.1]) {
            let share = count as f64 / n as f64;
            assert!((share - p).abs() < 0.02, "{share} where {p} was expected");
        }
    }

    #[test]
    fn top_k_and_top_p_cut_the_tail() {
        let logits = [0.1f32.ln(), 0.6f32.ln(), 0.3f32.ln()];
        assert_eq!(counts(Sampling { top_k: 2, ..ALL }, &logits, 2000)[0], 0);
        let one = counts(Sampling { top_p: 0.5, ..ALL }, &logits, 2000);
        assert_eq!(one, [0, 2000, 0]);
        let two = counts(Sampling { top_p: 0.7, ..ALL }, &logits, 2000);
        assert!(two[0] == 0 && two[1] > 0 && two[2] > 0);
    }

    #[test]
    fn repeated_tokens_lose_weight_until_they_are_forgotten() {
        let mut sampler = Sampler::new(Sampling { temperature: 0.0, repeat_penalty: 1.5, ..ALL });
        let logits = [3.0, 2.5, -1.0];
        assert_eq!(sampler.choose(&logits, 3), 0);
        sampler.saw(0);
        assert_eq!(sampler.choose(&logits, 3), 1);
        sampler.saw(1);
        assert_eq!(sampler.choose(&logits, 3), 0);
        (0..super::RECENT).for_each(|_| sampler.saw(2));
        assert_eq!(sampler.choose(&logits, 3), 0);
    }

    #[test]
    fn candidates_are_the_likeliest_of_all() {
        let mut random = SplitMix64(3);
        for vocabulary in [1, 2, 79, 80, 81, 1000] {
            // Few values, so that many logits are equal.
            let logits: Vec<f32> = (0..vocabulary).map(|_| (random.unit() * 50.0).floor() as f32 - 25.0).collect();
            let mut sampler = Sampler::new(Sampling { repeat_penalty: 1.5, ..ALL });
            (0..vocabulary).step_by(7).for_each(|token| sampler.saw(token));
            let heard = |token: u32| sampler.recent.contains(&token);
            let penalised = |(token, &logit): (u32, &f32)| match heard(token) {
                true => (token, if logit > 0.0 { logit / 1.5 } else { logit * 1.5 }),
                false => (token, logit),
            };
            let mut all: Vec<(u32, f32)> = (0..).zip(&logits).map(penalised).collect();
            all.sort_unstable_by(super::likelier);
            for most in [1, 2, 40, 500, usize::MAX] {
                sampler.gather(&logits, most);
                sampler.candidates.sort_unstable_by(super::likelier);
                assert_eq!(sampler.candidates, all[..most.min(all.len())]);
            }
        }
    }

    #[test]
    fn unknown_ids_and_non_numbers_are_never_chosen() {
        let mut sampler = Sampler::new(ALL);
        for _ in 0..200 {
            assert!(sampler.choose(&[0.0, f32::NAN, 0.0, 50.0], 3) != 1);
            assert!(sampler.choose(&[0.0, 0.0, 0.0, 50.0], 3) < 3);
        }
        assert_eq!(sampler.choose(&[0.0, f32::INFINITY], 2), 1);
        assert_eq!(sampler.choose(&[f32::NAN], 1), 0);
        assert_eq!(sampler.choose(&[], 10), 0);
    }

    #[test]
    fn the_generator_is_the_published_one() {
        let mut random = SplitMix64(1234567);
        assert_eq!([random.next(), random.next()], [6457827717110365317, 3203168211198807973]);
    }
}
