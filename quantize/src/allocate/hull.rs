//! Lower convex hulls of (bytes, loss), and the curve that they make together: the least loss at every size, as far as sizes are reached by
//! steps along hulls.

use super::Choice;

/// A size and the loss that it leaves.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Point {
    /// Bytes of the file.
    pub bytes: u64,
    /// Loss, in nats per step.
    pub loss: f64,
}

/// The choices on the lower convex hull, from the smallest on: each next one saves less loss per byte than the one before.
pub(super) fn hull(choices: &[Choice]) -> Vec<Choice> {
    let mut sorted = choices.to_vec();
    sorted.sort_by(|a, b| a.bytes.cmp(&b.bytes).then(a.loss.total_cmp(&b.loss)));
    let mut kept: Vec<Choice> = Vec::new();
    for choice in sorted {
        if kept.last().is_some_and(|last| choice.loss >= last.loss || choice.bytes == last.bytes) {
            continue;
        }
        while let [.., a, b] = kept[..]
            && slope(a, b) <= slope(b, choice)
        {
            kept.pop();
        }
        kept.push(choice);
    }
    kept
}

/// Loss saved per byte from one choice to a larger one.
fn slope(from: Choice, to: Choice) -> f64 {
    (from.loss - to.loss) / (to.bytes - from.bytes) as f64
}

/// From every unit's smallest choice to every unit's finest, the step that saves most per byte first; `fixed` is what all files share.
pub(super) fn curve(units: &[Vec<Choice>], fixed: Point) -> Vec<Point> {
    let hulls: Vec<Vec<Choice>> = units.iter().map(|choices| hull(choices)).collect();
    let mut at = fixed;
    for first in hulls.iter().filter_map(|hull| hull.first()) {
        at = Point { bytes: at.bytes + first.bytes, loss: at.loss + first.loss };
    }
    let mut steps: Vec<(Choice, Choice)> = hulls.iter().flat_map(|hull| hull.windows(2).map(|pair| (pair[0], pair[1]))).collect();
    // Stable: equal steps stay in the order of the units.
    steps.sort_by(|a, b| slope(b.0, b.1).total_cmp(&slope(a.0, a.1)));
    let mut points = vec![at];
    for (from, to) in steps {
        at = Point { bytes: at.bytes + (to.bytes - from.bytes), loss: at.loss - (from.loss - to.loss) };
        points.push(at);
    }
    points
}

#[cfg(test)]
mod tests {
    use super::super::Choice;
    use super::{Point, curve, hull};
    use brooklet::kernels::quant::Format;

    fn choices(of: &[(u64, f64)]) -> Vec<Choice> {
        of.iter().map(|&(bytes, loss)| Choice { format: Format::Q8, bytes, loss }).collect()
    }

    fn bytes(of: &[Choice]) -> Vec<u64> {
        of.iter().map(|c| c.bytes).collect()
    }

    #[test]
    fn only_choices_that_pay_are_on_the_hull() {
        // (20, 9) saves less per byte than what follows it; (50, 2) costs bytes and saves nothing.
        assert_eq!(bytes(&hull(&choices(&[(10, 10.0), (20, 9.0), (30, 3.0), (40, 2.0), (50, 2.0)]))), [10, 30, 40]);
        assert_eq!(bytes(&hull(&choices(&[(10, 1.0)]))), [10]);
        assert_eq!(bytes(&hull(&choices(&[(10, 1.0), (10, 2.0), (12, 3.0)]))), [10]);
    }

    #[test]
    fn the_curve_falls_and_is_convex() {
        let units = [choices(&[(10, 10.0), (20, 4.0), (40, 1.0)]), choices(&[(5, 3.0), (6, 1.0), (20, 0.0)])];
        let points = curve(&units, Point { bytes: 100, loss: 0.5 });
        let expected = [(115, 13.5), (116, 11.5), (126, 5.5), (146, 2.5), (160, 1.5)];
        assert_eq!(points.iter().map(|p| (p.bytes, p.loss)).collect::<Vec<_>>(), expected);
    }
}
