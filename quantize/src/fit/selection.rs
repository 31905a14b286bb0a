//! Which units to keep finer: steps from coarse to fine, the worthwhile ones first, and how many of them it takes.

use crate::error::Error;

/// One unit goes one format finer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Step {
    /// Number of the unit.
    pub(super) unit: usize,
    /// Number of the format among those of the unit.
    pub(super) format: usize,
    /// Divergence that it is expected to take away, in nats.
    pub(super) gain: f64,
    /// Bytes that it costs.
    pub(super) bytes: u64,
}

/// Sorts steps by gain per byte, the best first; a unit's steps stay in their order.
pub(super) fn order(steps: Vec<Step>) -> Vec<Step> {
    let mut worth: Vec<(f64, Step)> = Vec::with_capacity(steps.len());
    for step in steps {
        let own = step.gain / step.bytes.max(1) as f64;
        // A step is behind those that it stands on, however much it promises.
        let most = worth.last().filter(|(_, before)| before.unit == step.unit).map_or(f64::INFINITY, |(worth, _)| *worth);
        worth.push((own.min(most), step));
    }
    worth.sort_by(|a, b| b.0.total_cmp(&a.0));
    worth.into_iter().map(|(_, step)| step).collect()
}

/// The shortest beginning of a list of `len` steps that `holds`; `None` if not even the whole does.
///
/// Fewer steps are expected to be worse, but a measurement may contradict that: what is returned did hold when it was asked.
pub(super) fn shortest(len: usize, mut holds: impl FnMut(usize) -> Result<bool, Error>) -> Result<Option<usize>, Error> {
    // Doubling first: a few steps are cheap to try, and most often enough.
    let (mut fails, mut tried) = (0, 1);
    let mut found = loop {
        let count = tried.min(len);
        if count == 0 || holds(count)? {
            break count;
        }
        fails = count;
        if count == len {
            return Ok(None);
        }
        tried *= 2;
    };
    while found - fails > 1 {
        let middle = fails.midpoint(found);
        if holds(middle)? { found = middle } else { fails = middle }
    }
    Ok(Some(found))
}

#[cfg(test)]
mod tests {
    use super::{Step, order, shortest};

    #[test]
    fn the_most_gain_per_byte_comes_first_and_steps_stay_in_order() {
        let step = |unit, format, gain, bytes| Step { unit, format, gain, bytes };
        // Unit 0's second step promises more per byte than its first.
        let steps = vec![step(0, 0, 1.0, 10), step(0, 1, 8.0, 20), step(1, 0, 3.0, 10), step(1, 1, 0.5, 10)];
        let order: Vec<(usize, usize)> = order(steps).iter().map(|s| (s.unit, s.format)).collect();
        assert_eq!(order, [(1, 0), (0, 0), (0, 1), (1, 1)]);
    }

    #[test]
    fn the_shortest_beginning_is_found_in_few_trials() {
        for need in 1..=100 {
            let mut trials = 0;
            let found = shortest(100, |count| {
                trials += 1;
                Ok(count >= need)
            });
            assert_eq!(found.unwrap(), Some(need));
            assert!(trials <= 14, "{trials}");
        }
        assert_eq!(shortest(100, |_| Ok(false)).unwrap(), None);
        assert_eq!(shortest(0, |_| Ok(false)).unwrap(), Some(0));
    }
}
