//! Times of several runs of the same work.

use serde::Serialize;
use std::time::Duration;

/// Times of several runs of the same work.
#[derive(Clone, Debug, Default)]
pub(crate) struct Times(Vec<Duration>);

/// How fast that was: the median to quote, the best to see how noisy the machine is.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Rate {
    pub(crate) median: f64,
    pub(crate) best: f64,
}

impl Times {
    pub(crate) fn push(&mut self, time: Duration) {
        self.0.push(time);
    }

    /// Of no runs, no time.
    pub(crate) fn median(&self) -> Duration {
        let mut times = self.0.clone();
        times.sort_unstable();
        times.get(times.len() / 2).copied().unwrap_or_default()
    }

    pub(crate) fn best(&self) -> Duration {
        self.0.iter().min().copied().unwrap_or_default()
    }

    /// `count` things a run, as things per second.
    pub(crate) fn rate(&self, count: usize) -> Rate {
        let per_second = |time: Duration| crate::generate::per_second(count, time);
        Rate { median: per_second(self.median()), best: per_second(self.best()) }
    }
}

#[cfg(test)]
mod tests {
    use super::{Duration, Times};

    #[test]
    fn the_median_is_in_the_middle() {
        let mut times = Times::default();
        assert_eq!(times.median(), Duration::ZERO);
        for ms in [4, 1, 2] {
            times.push(Duration::from_millis(ms));
        }
        assert_eq!((times.median().as_millis(), times.best().as_millis()), (2, 1));
        assert_eq!((times.rate(10).median, times.rate(10).best), (5e3, 1e4));
    }
}
