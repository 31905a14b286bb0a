//! The smallest file that stays within a bound, found with few measurements: where the curve foretells it first, and from there by what
//! was measured.

use super::Point;
use crate::error::Error;

/// Measurements that a search may take.
const MOST_TRIALS: usize = 10;
/// Share of the bound to aim at.
const AIM: f64 = 0.97;

/// The first point of a falling curve whose `measured` loss is at most `bound`; `None` if not even the last one's is. What is returned was
/// measured, and held.
pub(super) fn smallest(curve: &[Point], bound: f64, mut measured: impl FnMut(Point) -> Result<f64, Error>) -> Result<Option<Point>, Error> {
    // Points below `fails` do not hold, `holds` does.
    let (mut fails, mut holds, mut scale) = (0, None, 1.0);
    for trial in 0..MOST_TRIALS {
        let end = holds.unwrap_or(curve.len());
        if fails >= end {
            break;
        }
        // The last is the finest: tried before giving up.
        let foretold = curve[fails..end].iter().position(|point| point.loss * scale <= AIM * bound).map_or(end - 1, |at| fails + at);
        // Foretelling halves an interval at least every other time.
        let at = if trial % 2 == 0 { foretold } else { foretold.clamp(fails + (end - fails) / 4, end - 1 - (end - 1 - fails) / 4) };
        let loss = measured(curve[at])?;
        if loss <= bound {
            holds = Some(at);
        } else {
            fails = at + 1;
        }
        if loss > 0.0 && curve[at].loss > 0.0 {
            scale = loss / curve[at].loss;
        }
    }
    Ok(holds.map(|at| curve[at]))
}

#[cfg(test)]
mod tests {
    use super::{MOST_TRIALS, Point, smallest};

    fn curve() -> Vec<Point> {
        (0..300u64).map(|i| Point { bytes: 1000 + 10 * i, loss: 0.5 * 0.98f64.powi(i as i32) }).collect()
    }

    #[test]
    fn what_is_found_holds_and_little_less_does_not() {
        for off in [0.2, 0.7, 1.0, 1.6, 4.0] {
            let mut trials = 0;
            let real = |point: Point| off * point.loss;
            let found = smallest(&curve(), 0.02, |point| {
                trials += 1;
                Ok(real(point))
            });
            let found = found.unwrap().unwrap();
            assert!(trials <= MOST_TRIALS);
            assert!(real(found) <= 0.02 && real(found) > 0.018, "{off}: {}", real(found));
        }
    }

    #[test]
    fn bounds_out_of_reach_are_told() {
        assert_eq!(smallest(&curve(), 1e-9, |point| Ok(point.loss)).unwrap(), None);
        assert_eq!(smallest(&curve(), 1.0, |point| Ok(point.loss)).unwrap(), Some(curve()[0]));
        assert_eq!(smallest(&[], 1.0, |point| Ok(point.loss)).unwrap(), None);
    }
}
