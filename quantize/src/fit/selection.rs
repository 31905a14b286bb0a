//! Which units to keep finer: steps from coarse to fine, the worthwhile ones first, and how many of them it takes.

use super::candidates::Unit;
use crate::error::Error;
use brooklet::kernels::quant::Format;

/// One unit goes one format finer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Step {
    /// Number of the unit.
    pub(super) unit: usize,
    /// The format it goes to.
    pub(super) format: Format,
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

/// The formats of all tensors once the steps are taken, which must be in each unit's order.
pub(super) fn with_steps(plain: &[Option<Format>], units: &[Unit], steps: &[Step]) -> Vec<Option<Format>> {
    let mut formats = plain.to_vec();
    for step in steps {
        units[step.unit].set(&mut formats, plain, step.format);
    }
    formats
}

/// The shortest beginning of a list of `len` steps that `holds`; `None` if not even the whole does. Without any step it does not.
///
/// Fewer steps are expected to be worse, but a measurement may contradict that: what is returned did hold when it was asked.
pub(super) fn shortest(len: usize, mut holds: impl FnMut(usize) -> Result<bool, Error>) -> Result<Option<usize>, Error> {
    // Doubling first: a few steps are cheap to try, and most often enough.
    let (mut fails, mut found) = (0, 1.min(len));
    while found == 0 || !holds(found)? {
        if found == len {
            return Ok(None);
        }
        fails = found;
        found = (2 * found).min(len);
    }
    while found - fails > 1 {
        let middle = fails.midpoint(found);
        if holds(middle)? { found = middle } else { fails = middle }
    }
    Ok(Some(found))
}

/// Takes back, the largest first, every step without which the others hold.
pub(super) fn without_needless(steps: &[Step], mut hold: impl FnMut(&[Step]) -> Result<bool, Error>) -> Result<Vec<Step>, Error> {
    let mut kept = steps.to_vec();
    // Of a unit the finest step goes first: reversed, and the sort is stable.
    let mut open: Vec<Step> = steps.iter().rev().copied().collect();
    open.sort_by_key(|step| std::cmp::Reverse(step.bytes));
    while let Some(at) = open.iter().position(|step| kept.iter().rfind(|other| other.unit == step.unit) == Some(step)) {
        let step = open.remove(at);
        let fewer: Vec<Step> = kept.iter().filter(|&other| *other != step).copied().collect();
        if hold(&fewer)? {
            kept = fewer;
        }
    }
    Ok(kept)
}

#[cfg(test)]
mod tests {
    use super::{Format, Step, order, shortest, without_needless};

    const fn step(unit: usize, format: Format, gain: f64, bytes: u64) -> Step {
        Step { unit, format, gain, bytes }
    }

    #[test]
    fn the_most_gain_per_byte_comes_first_and_steps_stay_in_order() {
        use Format::{F16, F32};
        // Unit 0's second step promises more per byte than its first.
        let steps = vec![step(0, F16, 1.0, 10), step(0, F32, 8.0, 20), step(1, F16, 3.0, 10), step(1, F32, 0.5, 10)];
        let order: Vec<(usize, Format)> = order(steps).iter().map(|s| (s.unit, s.format)).collect();
        assert_eq!(order, [(1, F16), (0, F16), (0, F32), (1, F32)]);
    }

    #[test]
    fn needless_steps_go_the_largest_first_and_finest_first() {
        use Format::{F16, F32};
        let steps = [step(0, F16, 4.0, 10), step(1, F16, 3.0, 30), step(2, F16, 2.0, 20), step(0, F32, 1.0, 40)];
        let gain = |steps: &[Step]| steps.iter().map(|s| s.gain).sum::<f64>();
        let kept = without_needless(&steps, |kept| Ok(gain(kept) >= 5.0)).unwrap();
        assert_eq!(kept, [steps[0], steps[2]]);
        assert_eq!(without_needless(&steps, |_| Ok(true)).unwrap(), []);
        assert_eq!(without_needless(&steps, |_| Ok(false)).unwrap(), steps);
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
        assert_eq!(shortest(0, |_| Ok(true)).unwrap(), None);
    }
}
