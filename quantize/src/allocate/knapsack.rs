//! One choice for every unit, so that all fit in a number of bytes and lose as little as can be: the multiple-choice knapsack, solved whole.
//!
//! Steps along hulls leave a rest that the next step does not fit in; choices beside the hull fill it. So sizes are counted in grains, and the
//! best choices for every number of grains follow from those of one unit less.

use super::Choice;

/// Sections start on lines of 64 bytes: counted in these, sizes are exact.
const LINE_BYTES: u64 = 64;
/// Sizes that are told apart. A budget of more lines than that is counted in larger grains.
const MOST_GRAINS: u64 = 1 << 19;

/// The choice of every unit, by number, that fits in `capacity_bytes` with the least loss, and of those the smallest; `None` if nothing fits.
pub(super) fn choose(units: &[Vec<Choice>], capacity_bytes: u64) -> Option<Vec<usize>> {
    let least: Vec<u64> = units.iter().map(|choices| choices.iter().map(|c| c.bytes).min()).collect::<Option<_>>()?;
    let room_bytes = capacity_bytes.checked_sub(least.iter().sum())?;
    let most_above = |(choices, least): (&Vec<Choice>, &u64)| choices.iter().map(|c| c.bytes - least).max();
    let above: Vec<u64> = units.iter().zip(&least).filter_map(most_above).collect();
    let grain_bytes = room_bytes.min(above.iter().sum()).div_ceil(MOST_GRAINS).next_multiple_of(LINE_BYTES).max(LINE_BYTES);
    // No more than all the largest choices take.
    let room = above.iter().map(|&bytes| grains(bytes, grain_bytes)).sum::<usize>().min((room_bytes / grain_bytes) as usize);

    // The least loss of the units so far in exactly so many grains above their smallest choices, (room + 1).
    let mut best = vec![f64::INFINITY; room + 1];
    best[0] = 0.0;
    // Of every unit the choice that led there, (units, room + 1).
    let mut taken: Vec<Vec<u8>> = Vec::with_capacity(units.len());
    for (choices, least) in units.iter().zip(&least) {
        let mut next = vec![f64::INFINITY; room + 1];
        let mut by = vec![0u8; room + 1];
        for (number, choice) in choices.iter().enumerate() {
            let grains = grains(choice.bytes - least, grain_bytes);
            if grains > room {
                continue;
            }
            for (before, (next, by)) in best.iter().zip(next[grains..].iter_mut().zip(&mut by[grains..])) {
                let loss = before + choice.loss;
                if loss < *next {
                    (*next, *by) = (loss, number as u8);
                }
            }
        }
        best = next;
        taken.push(by);
    }
    // The first of the least: no byte is spent for nothing.
    let mut at = (0..=room).min_by(|&a, &b| best[a].total_cmp(&best[b])).filter(|&at| best[at].is_finite())?;
    let mut chosen = vec![0; units.len()];
    for (unit, by) in taken.iter().enumerate().rev() {
        chosen[unit] = usize::from(by[at]);
        at -= grains(units[unit][chosen[unit]].bytes - least[unit], grain_bytes);
    }
    Some(chosen)
}

/// Rounded up: what fits in grains fits in bytes.
fn grains(bytes: u64, grain_bytes: u64) -> usize {
    bytes.div_ceil(grain_bytes) as usize
}

#[cfg(test)]
mod tests {
    use super::super::Choice;
    use super::{LINE_BYTES, choose};
    use brooklet::kernels::quant::Format;
    use proptest::prelude::*;

    /// The least loss of all combinations, by trying them.
    fn by_trying(units: &[Vec<Choice>], capacity_bytes: u64) -> Option<(f64, u64)> {
        let Some((first, rest)) = units.split_first() else { return Some((0.0, 0)) };
        let with = |choice: &Choice| {
            let (loss, bytes) = by_trying(rest, capacity_bytes.checked_sub(choice.bytes)?)?;
            Some((loss + choice.loss, bytes + choice.bytes))
        };
        first.iter().filter_map(with).min_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)))
    }

    fn total(units: &[Vec<Choice>], chosen: &[usize]) -> (f64, u64) {
        let picked = || units.iter().zip(chosen).map(|(choices, &i)| choices[i]);
        (picked().map(|c| c.loss).sum(), picked().map(|c| c.bytes).sum())
    }

    proptest! {
        // Losses are small whole numbers, so that sums are exact in any order.
        #[test]
        fn nothing_that_fits_loses_less(
            units in prop::collection::vec(prop::collection::vec((1u64..40, 0u32..50), 1..5), 1..6),
            capacity in 0u64..160,
        ) {
            let choice = |&(lines, loss): &(u64, u32)| Choice { format: Format::Q8, bytes: lines * LINE_BYTES, loss: f64::from(loss) };
            let units: Vec<Vec<Choice>> = units.iter().map(|choices| choices.iter().map(choice).collect()).collect();
            let capacity_bytes = capacity * LINE_BYTES + 17;
            let chosen = choose(&units, capacity_bytes);
            prop_assert_eq!(chosen.map(|chosen| total(&units, &chosen)), by_trying(&units, capacity_bytes));
        }

        // Large sizes are counted in grains, rounded up: never over the budget, and hardly short of the best.
        #[test]
        fn grains_never_go_over_the_budget(
            units in prop::collection::vec(prop::collection::vec((1u64..1 << 30, 0u32..50), 2..4), 1..5),
            share in 1u64..100,
        ) {
            let choice = |&(bytes, loss): &(u64, u32)| Choice { format: Format::Q8, bytes, loss: f64::from(loss) };
            let units: Vec<Vec<Choice>> = units.iter().map(|choices| choices.iter().map(choice).collect()).collect();
            let capacity_bytes = units.iter().flatten().map(|c| c.bytes).sum::<u64>() / 100 * share;
            if let Some(chosen) = choose(&units, capacity_bytes) {
                let (loss, bytes) = total(&units, &chosen);
                prop_assert!(bytes <= capacity_bytes);
                let rounded_away = (units.len() as u64 + 1) * (LINE_BYTES + (capacity_bytes >> 18));
                if let Some((best, _)) = by_trying(&units, capacity_bytes.saturating_sub(rounded_away)) {
                    prop_assert!(loss <= best);
                }
            }
        }
    }
}
